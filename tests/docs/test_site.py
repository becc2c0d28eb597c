"""Every page of the built documentation in a real browser: nothing wider than the window, no error in the console."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.support import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SITE = ROOT / "build" / "site"
PAGES = sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html") if path.name != "404.html")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed here"),
    pytest.mark.skipif(not PAGES, reason="no build/site: make docs"),
]
# What sticks out to the right although nobody can scroll to it, by the nearest box that may be scrolled.
WIDER = """() => {
    const edge = document.documentElement.clientWidth
    const scrolls = element => {
        for (let box = element.parentElement; box; box = box.parentElement)
            if (["auto", "scroll", "hidden", "clip"].includes(getComputedStyle(box).overflowX)) return true
        return false
    }
    const out = [...document.querySelectorAll(".md-content *")].filter(
        element => element.getBoundingClientRect().right > edge + 1 && !scrolls(element)
    )
    if (document.documentElement.scrollWidth > edge) out.push(document.documentElement)
    return out.slice(0, 5).map(element => element.outerHTML.slice(0, 200))
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_every_page_fits_and_logs_no_error(browser: Browser, width: int, scheme: Any) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("requestfailed", lambda request: "ABORTED" in request.failure or said.append(f"not loaded: {request.url}"))
    faults: dict[str, list[str]] = {}
    for name in PAGES:
        page.goto(Path(SITE, name).as_uri())
        shown = page.evaluate("document.body.getAttribute('data-md-color-scheme')")
        wrong = [*said, *page.evaluate(WIDER)] + (
            [] if shown == {"light": "default", "dark": "slate"}[scheme] else [shown]
        )
        if wrong:
            faults[name] = wrong
        said.clear()
    page.close()
    assert not faults
