"""What the processes of a test run share is made once, whoever comes first."""

import threading
import time

import pytest
from once import once


def test_it_is_made_once(tmp_path) -> None:
    """Of several who need it at the same time one makes it, and the others wait until it is whole."""
    made, found = [], []

    def make(folder) -> None:
        made.append(folder)
        (folder / "half").touch()
        time.sleep(0.1)
        (folder / "whole").touch()

    def need() -> None:
        found.append(sorted(path.name for path in once(tmp_path / "x", make).iterdir()))

    threads = [threading.Thread(target=need) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [tmp_path / "x"]
    assert found == [["half", "whole"]] * 4


def test_what_failed_is_begun_anew(tmp_path) -> None:
    """An error is the maker's own, and leaves nothing to whoever comes next."""

    def fail(folder) -> None:
        (folder / "half").touch()
        raise ValueError("no luck")

    with pytest.raises(ValueError, match="no luck"):
        once(tmp_path / "x", fail)
    assert list(once(tmp_path / "x", lambda folder: (folder / "whole").touch()).iterdir()) == [tmp_path / "x" / "whole"]
