"""The page over other servers: one that asks for a key, and one of a bundle that nobody can draw for, which keeps no signatures."""

import dataclasses
import re
import threading

import numpy as np
import pytest
from browser import collect, draw, examples, heat
from playwright.sync_api import expect
from serving import serving
from support import SMALL, isoform, make_bundle
from werkzeug.serving import make_server

from isoform.runtime.arrays import softmax
from isoform.runtime.runtime import Runtime
from isoform.server.app import create_app

pytestmark = pytest.mark.xdist_group("page")


def test_a_guarded_server(browser, compiled, tmp_path) -> None:
    """The page opens without a key, asks for one, says that a wrong one is unknown, works with a right one, and tells no address of it."""
    store = tmp_path / "s.db"
    made = isoform("key", "add", "me", "--scope", "write:me", "--store", store)
    key = re.search(r"iso_[0-9a-f]{16}_[\w-]{43}", made.stdout)[0]
    addresses = []
    with serving(compiled, "--store", store) as server, browser.new_context() as window:
        url = server.url
        page = window.new_page()
        page.on("request", lambda request: addresses.append(request.url))
        page.goto(url)
        box = page.locator("#gate input")
        expect(box).to_be_focused()
        expect(page.locator("#problem")).to_be_hidden()
        box.fill("iso_0000000000000000_" + "x" * 43)
        box.press("Enter")
        expect(page.locator("#problem")).to_contain_text("this server does not know that key")
        box.fill(key)
        box.press("Enter")
        expect(page.locator("body[data-ready]")).to_be_attached()
        expect(page.locator("#gate")).to_be_hidden()
        expect(page.locator("#problem")).to_be_hidden()
        expect(page.locator("#people .note")).to_contain_text("does not list its users")
        draw(page, examples(page)[0])
        expect(page.locator(".verdict strong")).to_be_visible()
        collect(page, "you", [3])
        page.locator(".teach").click()
        expect(page.locator("#problem")).to_contain_text("this key may not")
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
        page.locator("#leave").click()
        expect(page.locator("#gate")).to_be_visible()
    assert len(addresses) > 20
    assert not any("iso_" in address for address in addresses)


def test_a_bundle_without_images_and_a_server_without_a_store(browser, tmp_path) -> None:
    """Samples of two channels: the page says that there is nothing to draw, and shows tasks and templates; it offers no users."""
    spec = dataclasses.replace(SMALL, input_shape=(2, 8, 8), mean=(0.0, 0.0), std=(1.0, 1.0))
    bundle = make_bundle(spec, tasks=("walk", "run"))
    (tmp_path / "bundle").mkdir()
    bundle.write(tmp_path / "bundle")
    with Runtime.open(tmp_path / "bundle", engine="reference") as runtime, browser.new_context() as window:
        server = make_server("127.0.0.1", 0, create_app(runtime), threaded=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            page = window.new_page()
            page.goto(f"http://127.0.0.1:{server.port}")
            expect(page.locator("#undrawable")).to_contain_text("Samples here are 2 × 8 × 8 numbers")
            for part in ("#draw", "#teach", "#tour"):
                expect(page.locator(part)).to_be_hidden()
            expect(page.locator(".heat")).to_have_count(2)
            assert np.allclose(heat(page, "run"), softmax(bundle.signatures["run"].parts["mixture"]), atol=1e-12)
            for offer in (".user", ".other"):
                expect(page.locator(f"#people {offer}")).to_be_hidden()
            expect(page.locator("#people .note")).to_have_text("This server has no store, so it has no users.")
            page.locator("#people .task").select_option("run")
            expect(page.locator("#problem")).to_be_hidden()
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
