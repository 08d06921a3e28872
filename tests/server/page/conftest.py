"""The browser in which the page is tested."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def flags() -> tuple[str, ...]:
    """Flags of Chromium; a module that needs a camera or a microphone has its own."""
    return ()


@pytest.fixture(scope="module")
def browser(flags: tuple[str, ...]) -> Iterator[Browser]:
    """A headless Chromium; tests are skipped where there is none."""
    pytest.importorskip("playwright.sync_api", reason="Playwright is not installed; pip install 'isoform[test]'")
    from browser import chromium

    with chromium(*flags) as browser:
        yield browser
