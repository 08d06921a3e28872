"""An adapter's folder: what is on the disk is what is in use, and one adapter at a time writes there."""

import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from support import isoform

from isoform.runtime import IsoformError, SignatureError, UsageError
from isoform.runtime.formats.signature import Signature
from isoform.train.data.domains import transform
from isoform.train.data.formats.digits import digits

pytestmark = pytest.mark.trust


@pytest.fixture(scope="module")
def faded():
    """256 faded digits."""
    return transform(np.array(digits()[0][:256]), domain="low_contrast")


class FullDisk:
    """No file can grow, as on a full disk: the system itself refuses."""

    def __enter__(self) -> None:
        self._before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, self._before[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self._before)


def head(folder) -> str:
    """The digest that a folder says is in use."""
    return (folder / "head").read_text().strip()


def test_after_a_full_disk_the_signature_is_the_one_on_it(runtime, faded, tmp_path) -> None:
    """An update that could not be written is an error, and neither in use, nor to be gone back to, nor anybody's parent."""
    folder = tmp_path / "a"
    adapter = runtime.adapter(runtime.signature("plain"), directory=folder)
    adapter(faded[:64])
    before, digests = adapter.signature, adapter.digests
    with FullDisk(), pytest.raises(IsoformError, match="cannot be written: File too large"):
        adapter(faded[64:128])
    assert adapter.signature is before
    assert adapter.digests == digests
    assert {path.name for path in folder.glob("*.safetensors")} == {"start.safetensors", f"{before.digest}.safetensors"}
    assert head(folder) == before.digest
    logits = adapter(faded[128:192])
    assert adapter.signature.parent == before.digest
    assert head(folder) == adapter.signature.digest
    assert np.array_equal(logits, runtime.predict(faded[128:192], adapter.signature))
    assert adapter.rollback(before.digest).digest == before.digest


@pytest.mark.parametrize("back", ["reset", "rollback"])
def test_going_back_on_a_full_disk_goes_nowhere(back, runtime, faded, tmp_path) -> None:
    """``reset`` and ``rollback`` that cannot be written are errors, and the signature stays what the folder says."""
    adapter = runtime.adapter(runtime.signature("plain"), directory=tmp_path)
    adapter(faded[:64])
    adapter(faded[64:128])
    before, records = adapter.signature, adapter.history
    with FullDisk(), pytest.raises(IsoformError, match="cannot be written"):
        adapter.reset() if back == "reset" else adapter.rollback(adapter.digests[1])
    assert (adapter.signature, adapter.history) == (before, records)
    assert head(tmp_path) == before.digest
    assert Signature.load(tmp_path / f"{head(tmp_path)}.safetensors").digest == before.digest


def test_what_head_could_not_name_is_not_kept(runtime, faded, tmp_path, monkeypatch) -> None:
    """A signature that was written, but could not be put to use, is no longer there; a new adapter finds the one before it."""
    adapter = runtime.adapter(runtime.signature("plain"), directory=tmp_path)
    adapter(faded[:64])
    before, digests, replace = adapter.signature, adapter.digests, os.replace

    def refuse_head(source, target) -> None:
        if os.path.basename(target) == "head":
            raise OSError(28, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse_head)
        with pytest.raises(IsoformError, match="head cannot be written: No space left"):
            adapter(faded[64:128])
    adapter.close()
    again = runtime.adapter(runtime.signature("plain"), directory=tmp_path)
    assert (again.signature.digest, again.digests) == (before.digest, digests)


def test_a_second_adapter_is_refused(runtime, faded, tmp_path) -> None:
    """One folder, one adapter: another one is refused in one line, in this process and in another; a closed or dropped one is none."""
    base = runtime.signature("plain")
    first = runtime.adapter(base, directory=tmp_path)
    first(faded[:64])
    with pytest.raises(UsageError, match="in use by another adapter"):
        runtime.adapter(base, directory=tmp_path)
    words = [
        "adapt",
        runtime.bundle.path,
        "--data",
        tmp_path / "x.npz",
        "--journal",
        tmp_path,
        "-o",
        tmp_path.parent / "o",
    ]
    np.savez(tmp_path / "x.npz", x=faded[:8])
    command = [sys.executable, "-m", "isoform.runtime.cli", *map(str, words)]
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (second.returncode, second.stderr.count("\n")) == (2, 1), second.stderr
    assert "in use by another adapter" in second.stderr
    (tmp_path / "x.npz").unlink()
    first(faded[64:128])
    assert head(tmp_path) == first.signature.digest
    first.close()
    with pytest.raises(UsageError, match="is closed; open another one"):
        first.reset()
    with runtime.adapter(base, directory=tmp_path) as other:
        assert other.signature.digest == first.signature.digest
    dropped = runtime.adapter(base, directory=tmp_path)
    del dropped
    runtime.adapter(base, directory=tmp_path).close()


def test_a_fork_writes_nothing_to_its_parents_folder(runtime, faded, tmp_path) -> None:
    """A process that was forked has the adapter's memory, but not its folder."""
    adapter = runtime.adapter(runtime.signature("plain"), directory=tmp_path)
    adapter(faded[:64])
    child = os.fork()
    if child == 0:
        status = 1
        try:
            adapter.reset()
        except UsageError as problem:
            status = 0 if "was forked" in str(problem) else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert head(tmp_path) == adapter.signature.digest
    with pytest.raises(UsageError, match="in use"):
        runtime.adapter(runtime.signature("plain"), directory=tmp_path)


def test_a_call_that_failed_holds_no_folder(runtime, faded, tmp_path) -> None:
    """An adapter that could not be made leaves its folder free at once, also while its error is looked at, and a closed one despite a fork."""
    base = runtime.signature("plain")
    with pytest.raises(UsageError, match="c is -1") as problem:
        runtime.adapter(base, directory=tmp_path, method="spsa", c=-1)
    runtime.adapter(base, directory=tmp_path).close()
    assert problem.value.__traceback__ is not None
    (tmp_path / "head").write_text("0" * 64)
    with pytest.raises(SignatureError, match="there is no signature") as problem:
        runtime.adapter(base, directory=tmp_path)
    (tmp_path / "head").unlink()
    adapter = runtime.adapter(base, directory=tmp_path)
    assert problem.value.__traceback__ is not None
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    try:
        adapter.close()
        runtime.adapter(base, directory=tmp_path).close()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_an_adapter_that_could_not_be_made_leaves_no_trace(runtime, faded, tmp_path) -> None:
    """What the failed start created is deleted, folders above the new one included; what was there before stays, to the byte."""
    base = runtime.signature("plain")

    def fail(folder) -> None:
        with pytest.raises(UsageError, match="c is -1"):
            runtime.adapter(base, directory=folder, method="spsa", c=-1)

    fail(tmp_path / "new" / "below")
    assert not any(tmp_path.iterdir())
    with FullDisk(), pytest.raises(IsoformError, match=r"start.safetensors cannot be written"):
        runtime.adapter(base, directory=tmp_path / "new")
    assert not any(tmp_path.iterdir())
    empty, old = tmp_path / "empty", tmp_path / "old"
    empty.mkdir()
    fail(empty)
    assert not any(empty.iterdir())
    (empty / "lock").touch()
    fail(empty)
    assert [path.name for path in empty.iterdir()] == ["lock"]
    with runtime.adapter(base, directory=old) as adapter:
        adapter(faded[:64])
    before = {path: path.read_bytes() for path in old.iterdir()}
    fail(old)
    assert {path: path.read_bytes() for path in old.iterdir()} == before
    with runtime.adapter(base, directory=old) as adapter, pytest.raises(UsageError, match="in use"):
        runtime.adapter(base, directory=old)
    assert old.is_dir()


def test_a_refused_command_leaves_the_journal(runtime, faded, tmp_path) -> None:
    """``isoform adapt`` that refuses its result leaves a journal where it was."""
    folder = tmp_path / "journal"
    with runtime.adapter(runtime.signature("plain"), directory=folder) as adapter:
        adapter(faded[:64])
        before = adapter.signature.digest
    np.savez(tmp_path / "x.npz", x=np.concatenate([faded[64:192], 1 - faded[:1]]))
    words = ["adapt", runtime.bundle.path, "--data", tmp_path / "x.npz", "--journal", folder, "-o", tmp_path / "o"]
    done = isoform(*words, "--method", "batch", "--in-order", check=False)
    assert done.returncode == 2, done.stderr
    assert "nothing was written" in done.stderr
    assert head(folder) == before
    assert not (tmp_path / "o").exists()


def test_a_sample_sent_again_is_no_repeated_frame(runtime, faded, tmp_path) -> None:
    """A sample whose update could not be written counts when it is sent again."""
    adapter = runtime.adapter(runtime.signature("plain"), directory=tmp_path)
    with FullDisk(), pytest.raises(IsoformError, match="cannot be written"):
        adapter(faded[:1])
    adapter(faded[:1])
    assert adapter.last.blank == 0


def test_what_is_no_folder_is_one_line(runtime, tmp_path) -> None:
    """A file where the folder should be, and a place where nothing can be made."""
    base = runtime.signature("plain")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file, but a folder was expected"):
        runtime.adapter(base, directory=tmp_path / "file")
    with pytest.raises(IsoformError, match="cannot be used as an adapter's folder: Not a directory"):
        runtime.adapter(base, directory=tmp_path / "file" / "below")
    runtime.adapter(base, directory=tmp_path / "new")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
