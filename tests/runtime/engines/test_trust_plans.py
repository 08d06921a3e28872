"""Stored plans: not believed on another processor, and never another user's."""

import dataclasses
import os
import stat

import numpy as np
import onnx
import pytest
from support import SMALL, make_bundle

from isoform.compile.kinds.mixture.graph import portable_graph
from isoform.compile.kinds.mixture.training import probe_graph
from isoform.runtime.engines.onnx.plans import disk
from isoform.runtime.engines.onnx.plans.builder import build_plan
from isoform.runtime.engines.onnx.plans.plan import subject_of
from isoform.runtime.engines.onnx.plans.probe import lanes_of, layout_of, probed_layout
from isoform.runtime.engines.onnx.plans.trial import check_plan
from isoform.runtime.kinds.mixture.learn.lanes import LANES, probed_lanes
from isoform.runtime.layout import Layout

pytestmark = pytest.mark.trust

BUNDLE = make_bundle(SMALL)
PORTABLE = portable_graph(BUNDLE.spec, template=BUNDLE.digest)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache directory with a stored plan, and a list of plans that were built since."""
    folder, built = tmp_path / "above" / "cache", []
    monkeypatch.setenv("ISOFORM_CACHE", str(folder))
    open_plan()

    def counted(*arguments):
        built.append(build_plan(*arguments))
        return built[-1]

    monkeypatch.setattr(disk, "build_plan", counted)
    return folder, built


def open_plan():
    """The plan as a runtime gets it."""
    return disk.cached_plan(subject_of(PORTABLE, BUNDLE.network))


def stored(folder):
    """The one stored plan."""
    (path,) = folder.iterdir()
    return path


def contents(folder):
    """Every file below a folder, with its bytes and when it was written."""
    return {path: (path.lstat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def put(folder, plan) -> None:
    """Store a plan under the name of the real one, with a right checksum and key."""
    stored(folder).write_bytes(disk._encoded(plan, disk._key(subject_of(PORTABLE, BUNDLE.network))))


def test_the_layout_is_in_the_name(cache, monkeypatch) -> None:
    """A machine on which ONNX Runtime lays weights out otherwise looks for another file, even if its processor calls itself the same."""
    ours = disk._key(subject_of(PORTABLE, BUNDLE.network))
    for other in (b"", bytes(128), probed_layout()[::-1]):
        monkeypatch.setattr(disk, "probed_layout", lambda other=other: other)
        assert disk._key(subject_of(PORTABLE, BUNDLE.network)) != ours


def blocked(lanes: int) -> bytes:
    """Written out with loops: per group of channels, per pixel, the index numbers of its channels."""
    return bytes(
        2 * (group + lane) + pixel for group in range(0, 64, lanes) for pixel in (0, 1) for lane in range(lanes)
    )


@pytest.mark.parametrize(
    ("layout", "lanes"),
    [
        (blocked(8), 8),
        (blocked(16), 16),
        (blocked(4), None),
        (blocked(64), None),
        (bytes(range(128)), None),
        (b"", None),
    ],
    ids=["8", "16", "4", "64", "plain", "none"],
)
def test_lanes_of_a_layout(layout, lanes) -> None:
    """A layout of 8 or 16 channels together is recognised, any other is none that training graphs are written for."""
    assert lanes_of(layout, LANES) == lanes


def test_the_probe_sees_what_the_bundles_graph_sees() -> None:
    """The runtime's own probe finds the layout that a bundle's training graph finds, or neither finds one."""
    seen = {blocked(lanes): lanes for lanes in LANES}.get(probed_layout())
    assert probed_lanes(probe_graph()) == seen
    assert layout_of(probe_graph()) == probed_layout()
    assert sorted(probed_layout()) in ([], list(range(128)))


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_another_processors_plan_is_noticed(cache, caplog, lanes) -> None:
    """A plan in another layout, under our key and with a right checksum, fails a row of its self-test and is built anew."""
    folder, built = cache
    plan = open_plan()
    whole = BUNDLE.network.folder(plan.layout).moving // (2 * lanes) * 2 * lanes
    rows = plan.layout.gather[:whole].reshape(-1, 2 * lanes).copy()
    rows[:] = rows.reshape(-1, 2, lanes).transpose(0, 2, 1).reshape(rows.shape)
    gather = np.concatenate([rows.ravel(), plan.layout.gather[rows.size :]])
    put(folder, dataclasses.replace(plan, layout=Layout(plan.layout.weights, gather)))
    assert np.array_equal(open_plan().layout.gather, plan.layout.gather)
    assert len(built) == 1
    assert caplog.text.count("WARNING") == caplog.text.count("it is rebuilt") == 1


def test_a_plan_of_other_answers_is_noticed(cache, caplog) -> None:
    """A stored plan whose graph computes something else is built anew."""
    folder, built = cache
    plan = open_plan()
    put(folder, dataclasses.replace(plan, expected=plan.expected * np.float32(1.001)))
    assert open_plan().layout.weights
    assert len(built) == 1
    assert "differ by 1e-03 from those where it was built" in caplog.text
    open_plan()
    assert len(built) == 1
    check_plan(open_plan(), subject_of(PORTABLE, BUNDLE.network))


def test_a_stored_plan_names_no_other_file(cache, caplog, tmp_path, monkeypatch) -> None:
    """A stored graph with external data never reaches ONNX Runtime."""
    folder, built = cache
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_bytes(bytes(1 << 16))
    plan = open_plan()
    graph = onnx.load_from_string(plan.graph)
    tensor = next(entry for entry in graph.graph.initializer if entry.data_type == onnx.TensorProto.FLOAT)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="secret")
    put(folder, dataclasses.replace(plan, graph=graph.SerializeToString()))
    assert open_plan().layout.weights
    assert len(built) == 1
    assert "data from another file ('secret')" in caplog.text


def another_user(path) -> None:
    """Give a file or folder to somebody else; only root can."""
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    os.lchown(path, 12345, 12345)


def link_to_a_copy(path) -> None:
    """Put a link in a file's place."""
    path.rename(path.parent.parent / "plan")
    path.symlink_to(path.parent.parent / "plan")


UNTRUSTED = {
    "folder that all may write": lambda folder: folder.chmod(0o777),
    "folder that the group may write": lambda folder: folder.chmod(0o775),
    "sticky folder": lambda folder: folder.chmod(0o1777),
    "folder above that all may write": lambda folder: folder.parent.chmod(0o777),
    "folder above that the group may write": lambda folder: folder.parent.chmod(0o770),
    "file that all may write": lambda folder: stored(folder).chmod(0o666),
    "file that the group may write": lambda folder: stored(folder).chmod(0o660),
    "file that is a link": lambda folder: link_to_a_copy(stored(folder)),
    "another's file": lambda folder: another_user(stored(folder)),
    "another's folder": another_user,
    "folder in another's": lambda folder: another_user(folder.parent),
}


@pytest.mark.parametrize("case", UNTRUSTED)
def test_what_others_may_write_is_not_run(cache, caplog, case) -> None:
    """A plan that somebody else may have put there is not read, nothing is written there, and one warning says so."""
    folder, built = cache
    UNTRUSTED[case](folder)
    before = contents(folder.parent)
    assert open_plan().layout.weights
    assert len(built) == 1
    assert contents(folder.parent) == before
    assert caplog.text.count("WARNING") == caplog.text.count("are not used") == 1


def test_links_are_followed_to_their_owner(cache, tmp_path, monkeypatch, caplog) -> None:
    """A link of ours to a folder of ours is fine; one that passes through a folder that others may write to is not."""
    folder, built = cache
    (tmp_path / "link").symlink_to("above")
    monkeypatch.setenv("ISOFORM_CACHE", str(tmp_path / "link" / ".." / "link" / "cache"))
    open_plan()
    assert (len(built), caplog.text) == (0, "")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "open" / "hop").symlink_to(folder)
    (tmp_path / "outer").symlink_to(tmp_path / "open" / "hop")
    monkeypatch.setenv("ISOFORM_CACHE", str(tmp_path / "outer"))
    open_plan()
    assert len(built) == 1
    assert "others may write to" in caplog.text
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.setenv("ISOFORM_CACHE", str(tmp_path / "loop" / "cache"))
    assert open_plan().layout.weights


def test_a_folder_is_not_made_where_others_may_write(tmp_path, monkeypatch, caplog) -> None:
    """No cache directory is made in a folder that anybody can put another one into, but in a sticky one it is, for us alone."""
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    monkeypatch.setenv("ISOFORM_CACHE", str(tmp_path / "shared" / "a" / "b"))
    assert open_plan().layout.weights
    assert not any((tmp_path / "shared").iterdir())
    assert "others may write to" in caplog.text
    (tmp_path / "shared").chmod(0o1777)
    old = os.umask(0)
    try:
        open_plan()
    finally:
        os.umask(old)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "shared").rglob("*")]
    assert sorted(modes) == [0o600, 0o700, 0o700]
    caplog.clear()
    open_plan()
    assert caplog.text == ""


def test_the_longest_unused_plan_is_removed(tmp_path, monkeypatch) -> None:
    """A plan that is used every day outlives newer ones that are not."""
    monkeypatch.setenv("ISOFORM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(disk, "KEPT", 2)
    graphs = [portable_graph(BUNDLE.spec, template=f"{number}" * 64) for number in range(3)]
    paths = [tmp_path / "cache" / f"plan-{disk._key(subject_of(graph, BUNDLE.network))[:32]}.bin" for graph in graphs]
    for number, graph in enumerate((graphs[0], graphs[1])):
        disk.cached_plan(subject_of(graph, BUNDLE.network))
        os.utime(paths[number], (1000 + number, 1000 + number))
    disk.cached_plan(subject_of(graphs[0], BUNDLE.network))
    disk.cached_plan(subject_of(graphs[2], BUNDLE.network))
    assert [path.exists() for path in paths] == [True, False, True]


def test_what_a_killed_writer_left_is_removed(cache) -> None:
    """The next plan that is stored takes with it the temporary files of other plans, but none that may still be written to."""
    folder, _ = cache
    names = [f".plan-{number}.bin.tmp-{number:016x}" for number in range(4)] + [".plan-notes", ".other.tmp-" + "0" * 16]
    for name in names:
        (folder / name).write_bytes(b"half a plan")
    (folder / names[3]).unlink()
    (folder / names[3]).mkdir()
    for name in (*names[:2], *names[3:]):
        os.utime(folder / name, (1000, 1000))
    next(folder.glob("plan-*")).unlink()
    open_plan()
    assert sorted(path.name for path in folder.glob(".*")) == sorted(names[2:])
    assert len(list(folder.glob("plan-*"))) == 1
