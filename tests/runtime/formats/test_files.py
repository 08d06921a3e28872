"""Whole files or none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from isoform.runtime.errors import BundleError, IsoformError
from isoform.runtime.formats import files


def test_a_file_is_replaced_whole(tmp_path) -> None:
    """The new bytes are there, and nothing temporary is."""
    path = tmp_path / "a"
    files.write_bytes(path, b"old")
    files.write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch) -> None:
    """If the disk fails at the last moment, the old file stays and the temporary one goes."""
    path = tmp_path / "a"
    files.write_bytes(path, b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(IsoformError, match="cannot be written: No space left"):
        files.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_missing_folder_is_named(tmp_path) -> None:
    """Writing into a folder that is not there is one clear error."""
    with pytest.raises(IsoformError, match="cannot be written: No such file"):
        files.write_bytes(tmp_path / "no" / "a", b"")
    with (
        pytest.raises(IsoformError, match="cannot be written: No such file"),
        files.replace_directory(tmp_path / "no" / "a"),
    ):
        pass


@pytest.mark.parametrize("exists", [False, True])
def test_a_directory_is_exchanged(tmp_path, exists) -> None:
    """The new directory is in its place, whether there was one or not, and nothing else is left."""
    path = tmp_path / "bundle"
    if exists:
        path.mkdir()
        (path / "old").touch()
    with files.replace_directory(path) as directory:
        (directory / "new").touch()
        assert not path.exists() or os.listdir(path) == ["old"]
    assert os.listdir(path) == ["new"]
    assert os.listdir(tmp_path) == ["bundle"]


def test_a_failure_inside_leaves_the_old_directory(tmp_path) -> None:
    """If building fails, the old directory stays and the half-built one goes."""
    path = tmp_path / "bundle"
    path.mkdir()
    (path / "old").touch()

    def build() -> None:
        with files.replace_directory(path) as directory:
            (directory / "new").touch()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        build()
    assert os.listdir(path) == ["old"]
    assert os.listdir(tmp_path) == ["bundle"]


def test_without_the_system_call_two_renames_do(tmp_path, monkeypatch) -> None:
    """Where directories cannot be exchanged at once, the result is the same."""
    monkeypatch.setattr(sys, "platform", "unknown")
    test_a_directory_is_exchanged(tmp_path, True)


def test_a_file_in_the_way_is_not_touched(tmp_path) -> None:
    """A file where a directory should go is an error."""
    (tmp_path / "bundle").write_text("mine")
    with pytest.raises(IsoformError, match="is a file, but a directory"), files.replace_directory(tmp_path / "bundle"):
        pass
    assert (tmp_path / "bundle").read_text() == "mine"


def test_left_overs_of_the_dead_are_removed(tmp_path) -> None:
    """What a killed writer left half-built goes, file or directory; what a living process is building stays."""
    code = (
        "import sys, time; from pathlib import Path; from isoform.runtime.formats import files\n"
        "with files.replace_directory(Path(sys.argv[1])): print('building', flush=True); time.sleep(60)"
    )
    path = tmp_path / "b[1]undle"
    writer = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout.readline() == "building\n"
    (tmp_path / ".a.tmp-0123456789abcdef").touch()
    files.write_bytes(tmp_path / "a", b"")
    with files.replace_directory(path):
        assert len(os.listdir(tmp_path)) == 3
    writer.kill()
    writer.communicate()
    assert len(os.listdir(tmp_path)) == 3
    with files.replace_directory(path):
        pass
    assert sorted(os.listdir(tmp_path)) == ["a", "b[1]undle"]


def test_a_death_between_two_renames_is_mended(tmp_path, monkeypatch) -> None:
    """Where directories cannot be exchanged at once and the writer died in the middle, the next writer finds the old one again."""
    path = tmp_path / "bundle"
    (tmp_path / ".bundle.old-0123456789abcdef").mkdir()
    (tmp_path / ".bundle.old-0123456789abcdef" / "old").touch()
    assert files.set_aside(path) == tmp_path / ".bundle.old-0123456789abcdef"

    def fail() -> None:
        with files.replace_directory(path):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert os.listdir(path) == ["old"]
    assert os.listdir(tmp_path) == ["bundle"]


def test_a_failed_rename_leaves_the_old_directory(tmp_path, monkeypatch) -> None:
    """Where directories cannot be exchanged and the second rename fails, the old directory is put back, and nothing else is left."""
    path = tmp_path / "bundle"
    path.mkdir()
    (path / "old").touch()
    rename = os.rename

    def fail_for_new(source, target) -> None:
        if ".new-" in str(source):
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(sys, "platform", "unknown")
    monkeypatch.setattr(os, "rename", fail_for_new)
    with pytest.raises(IsoformError, match="No space left"), files.replace_directory(path):
        pass
    assert os.listdir(path) == ["old"]
    assert os.listdir(tmp_path) == ["bundle"]


def test_what_is_not_ours_stays(tmp_path) -> None:
    """Files with names like our temporary ones, but not quite, are left alone."""
    (tmp_path / ".a.tmp-my-notes").touch()
    files.write_bytes(tmp_path / "a", b"")
    assert sorted(os.listdir(tmp_path)) == [".a.tmp-my-notes", "a"]


def test_links_are_followed(tmp_path) -> None:
    """Writing through a link changes what it points at, and leaves the link."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with files.replace_directory(tmp_path / "link") as directory:
        (directory / "new").touch()
    assert (tmp_path / "link").is_symlink()
    assert os.listdir(tmp_path / "real") == ["new"]
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "file-link").symlink_to(tmp_path / "file")
    files.write_bytes(tmp_path / "file-link", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_what_is_no_file_is_not_read(tmp_path) -> None:
    """A pipe would block for ever, a device would fill the memory: neither is read."""
    os.mkfifo(tmp_path / "pipe")
    for place in (Path("/dev/zero"), tmp_path / "pipe"):
        with pytest.raises(BundleError, match="not a regular file"):
            files.read_bytes(place, limit=4, error=BundleError, what="thing")


def test_reading_is_bounded(tmp_path) -> None:
    """A file over its limit, and JSON that is none, are errors of the caller's class."""
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "b").write_bytes(b"{]")
    with pytest.raises(BundleError, match="thing .* is larger than the 4 bytes"):
        files.read_bytes(tmp_path / "a", limit=4, error=BundleError, what="thing")
    with pytest.raises(BundleError, match="is not JSON"):
        files.read_json(tmp_path / "b", limit=10, error=BundleError, what="thing")


RACING = """
import sys
from pathlib import Path
from isoform.runtime.formats import files

what, path, turns = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
if what == "renames":  # a file system that cannot exchange directories
    sys.platform = "unknown"
print("ready", flush=True)
sys.stdin.readline()
failed = 0
for turn in range(turns):
    try:
        if what == "file":
            files.write_bytes(path, b"whole" * 100)
        else:
            with files.replace_directory(path) as directory:
                (directory / "whole").write_bytes(b"whole")
    except files.IsoformError as problem:
        print(problem, file=sys.stderr)
        failed += 1
print(failed)
"""


@pytest.mark.trust
@pytest.mark.parametrize(("what", "turns"), [("file", 150), ("exchange", 60), ("renames", 60)])
def test_every_one_of_four_writers_succeeds(what, turns, tmp_path) -> None:
    """Four processes that write the same place at the same time: no write fails, and what is there in the end is whole."""
    command = [sys.executable, "-c", RACING, what, str(tmp_path / "place"), str(turns)]
    writers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert [writer.stdout.readline() for writer in writers] == ["ready\n"] * 4
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    found = [writer.communicate(timeout=120) for writer in writers]
    assert [out for out, _ in found] == ["0\n"] * 4, found
    assert os.listdir(tmp_path) == ["place"]
    whole = tmp_path / "place" if what == "file" else tmp_path / "place" / "whole"
    assert whole.read_bytes() in (b"whole" * 100, b"whole")


@pytest.mark.trust
def test_a_private_file_stays_private(tmp_path) -> None:
    """A file that nobody else may read is replaced by one that nobody else may read."""
    path = tmp_path / "a"
    path.touch(mode=0o600)
    files.write_bytes(path, b"new")
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.trust
def test_a_lock_is_held_by_one(tmp_path) -> None:
    """Whoever comes second is refused, in the same process too; afterwards the file is gone, and the next one gets the lock."""
    path, busy = tmp_path / "lock", BundleError("busy")
    release = files.hold(path, busy=busy, remove=True)
    with pytest.raises(BundleError, match="busy"):
        files.hold(path, busy=busy)
    release()
    assert not path.exists()
    files.hold(path, busy=busy)()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IsoformError, match="cannot be written"):
        files.hold(tmp_path / "link", busy=busy)
    assert not (tmp_path / "elsewhere").exists()
