"""A real browser for the tests of pages, and someone who reads in it."""

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking"]
#: Marks of tests, or of whole files of them, that need the browser.
NEEDS_BROWSER = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path"),
]


def assert_fits(page: "Page", width: int) -> None:
    """Nothing is wider than the window, once what was drawn for another one is drawn anew."""
    until_s = time.monotonic() + 10.0
    while (widest := page.evaluate("document.documentElement.scrollWidth")) > width and time.monotonic() < until_s:
        page.wait_for_timeout(50)
    assert widest <= width


class Reader:
    """Someone who opens a page from its file, and notes whatever it says, or asks of others."""

    #: What is there once the page is drawn.
    READY = "body"

    def __init__(self, browser: "Browser", path: Path, *, address: str = "", **context: object) -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page = browser.new_page(**{"viewport": {"width": 1280, "height": 900}, **context})
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.on("request", lambda request: self._note_request(request.url))
        self.page.goto(path.as_uri() + address)
        self.page.wait_for_selector(self.READY)

    def _note_request(self, url: str) -> None:
        self.requests.append(url)
        if not url.startswith(("file:", "data:", "blob:")):
            self.complaints.append(url)
