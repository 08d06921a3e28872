"""Downloading data sets, against a real HTTP server on loopback that has the real files."""

import functools
import hashlib
import http.server
import json
import threading

import pytest
from support import isoform

from isoform.runtime.errors import DataError
from isoform.train.data.fetch import SOURCES, Source, fetch


@pytest.fixture
def serve(tmp_path):
    """Serve a folder on loopback; returns its address."""
    servers = []

    def start(folder):
        class Quiet(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_) -> None:
                pass

        handler = functools.partial(Quiet, directory=str(folder))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_the_published_files_are_accepted(name, shared, serve, tmp_path) -> None:
    """The published files have the published checksums, arrive byte for byte, and are not fetched twice."""
    address = serve(shared / name)
    files = fetch(name, into=tmp_path, mirror=address)
    assert {file.name for file in files} == set(SOURCES[name].files)
    for file in files:
        assert file.read_bytes() == (shared / name / file.name).read_bytes()
    assert fetch(name, into=tmp_path, mirror="http://127.0.0.1:9") == files


def test_a_good_file_arrives(serve, tmp_path, monkeypatch) -> None:
    """A file with the checksum that its source names arrives byte for byte, without any shared data."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "file.gz").write_bytes(b"the right bytes")
    checksum = f"sha256:{hashlib.sha256(b'the right bytes').hexdigest()}"
    monkeypatch.setitem(
        SOURCES, "made", Source(url="http://127.0.0.1:9/", files={"file.gz": checksum}, format="idx", about="made")
    )
    (file,) = fetch("made", into=tmp_path / "data", mirror=serve(folder))
    assert file == tmp_path / "data" / "made" / "file.gz"
    assert file.read_bytes() == b"the right bytes"


def test_by_command_line(shared, serve, tmp_path) -> None:
    """``isoform data fetch`` prints the files as JSON, and what it fetched can be trained on."""
    result = isoform("data", "fetch", "mnist", "--into", tmp_path, "--mirror", serve(shared / "mnist") + "/")
    files = json.loads(result.stdout)["files"]
    assert len(files) == 4
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        "steps = 2\nthreads = 1\n[data]\ninput_shape = [1, 28, 28]\n[network]\nlayers = 1\n"
        "[tasks.mnist]\ndata = 'idx'\npath = 'mnist'\nlimit = 100\n"
    )
    summary = json.loads(isoform("train", recipe, "--data", tmp_path, "-o", tmp_path / "bundle").stdout)
    assert list(summary["test_accuracy"]) == ["mnist"]


def test_a_changed_file_is_not_kept(serve, tmp_path) -> None:
    """A file with another checksum is refused, and nothing of it stays."""
    folder = tmp_path / "wrong"
    folder.mkdir()
    for file in SOURCES["mnist"].files:
        (folder / file).write_bytes(b"not the digits")
    with pytest.raises(DataError, match="does not have its published checksum sha256:.* not kept"):
        fetch("mnist", into=tmp_path / "data", mirror=serve(folder))
    assert list((tmp_path / "data").rglob("*.gz")) == []


def test_a_missing_file_or_server_is_named(serve, tmp_path) -> None:
    """A server without the file, and no server at all, are one clear error each."""
    with pytest.raises(DataError, match="cannot be downloaded: HTTPError"):
        fetch("usps", into=tmp_path / "data", mirror=serve(tmp_path))
    with pytest.raises(DataError, match="cannot be downloaded: ConnectionError"):
        fetch("usps", into=tmp_path / "data", mirror="http://127.0.0.1:9")
    with pytest.raises(DataError, match="the mirror is 'foo'"):
        fetch("usps", into=tmp_path, mirror="foo")
    with pytest.raises(DataError, match="no data set 'imagenet'; available are mnist"):
        fetch("imagenet", into=tmp_path)


def test_the_list_says_what_there_is() -> None:
    """``isoform data list`` names every data set and the recipe's word for its format."""
    listed = json.loads(isoform("data", "list", "--json").stdout)
    assert set(listed) == set(SOURCES)
    assert listed["usps"]["data"] == "usps"
