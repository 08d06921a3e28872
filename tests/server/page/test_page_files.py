"""The page's files over HTTP: all of them, nothing else, and what browsers are told about them."""

import re
from pathlib import Path

import pytest
from support import ROOT

from isoform.server.app import create_app
from isoform.server.page.routes import FILES

FOLDER = ROOT / "server" / "page"


def test_every_file_is_served_and_no_other(client) -> None:
    """What is in the folder is what there is; a name that is none gets 404, also one that climbs."""
    there = {
        path.relative_to(FOLDER).as_posix().removeprefix("scripts/"): path
        for path in FOLDER.rglob("*.*")
        if path.suffix not in (".py", ".pyc", ".html")
    }
    assert set(FILES) == set(there)
    assert len(there) > 30
    for name, media in FILES.items():
        answer = client.get(f"/page/{name}")
        assert answer.data == there[name].read_bytes()
        assert answer.content_type == f"{media}; charset=utf-8"
    for name in (
        "routes.py",
        "nope.js",
        "..%2Froutes.py",
        "index.html",
        "samples/nope.js",
        "samples/page.js",
        "a/b/c.js",
    ):
        assert client.get(f"/page/{name}").status_code == 404


def test_headers_are_strict(client) -> None:
    """Nothing inline, nothing from elsewhere, no frame, no referrer; and a page that is still the same is not sent again."""
    for path in ("/", "/page/page.js", "/page/page.css", "/page/icon.svg"):
        answer = client.get(path)
        policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert {policy[name] for name in ("script-src", "style-src", "img-src", "connect-src")} == {"'self'"}
        assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert set(answer.headers["Permissions-Policy"].split(", ")) == {
            "camera=(self)", "geolocation=()", "microphone=(self)", "payment=()", "usb=()",
        }  # fmt: skip
        again = client.get(path, headers={"If-None-Match": answer.headers["ETag"]})
        assert (again.status_code, again.data) == (304, b"")


def test_no_file_names_another_host() -> None:
    """No address, no inline script or style, and nothing that would read HTML from a text."""
    for path in [FOLDER / "index.html", *FOLDER.glob("scripts/**/*.js"), FOLDER / "page.css", FOLDER / "icon.svg"]:
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//cdn|@import|innerHTML|outerHTML|eval\(|document\.write", text), path.name
    page = (FOLDER / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page)
    named = set(re.findall(r'(?:href|src)="page/([^"]+)"', page))
    scripts = FOLDER / "scripts"
    imported = {
        (path.parent / name).resolve().relative_to(scripts).as_posix()
        for path in scripts.rglob("*.js")
        for name in re.findall(r'(?:from |new URL\()"(\.?[^"]+\.js)"', path.read_text(encoding="utf-8"))
    }
    assert named | imported == set(FILES)


def test_the_page_needs_no_key(runtime, store) -> None:
    """A guarded server hands the page out to anybody, and nothing else."""
    from isoform.server.access.keys import Keys

    guarded = create_app(runtime, store=store, keys=Keys(store)).test_client()
    assert [guarded.get(path).status_code for path in ("/", "/page/page.js", "/page/nope")] == [200, 200, 404]
    assert [guarded.get(path).status_code for path in ("/openapi.json", "/v2", "/page", "/pages/x")] == [401] * 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(scheme) -> None:
    """Every colour of text on every ground that it stands on has a contrast of 4.5 at least (WCAG AA)."""
    text = Path(FOLDER / "page.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\n\s*\}", text, flags=re.DOTALL)
    assert len(blocks) == 2
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6})", blocks[0]))
    if scheme == "dark":
        colours |= dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6})", blocks[1]))
    pairs = [(word, ground) for word in ("text", "quiet", "accent", "good", "bad") for ground in ("paper", "soft")]
    for word, ground in [*pairs, ("on-accent", "accent"), ("warm", "warm-soft")]:
        light, dark = sorted((luminance(colours[word]), luminance(colours[ground])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, f"{word} on {ground}"


def luminance(colour: str) -> float:
    """Relative luminance of #rgb or #rrggbb, as WCAG defines it."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
