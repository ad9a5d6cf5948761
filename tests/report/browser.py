"""Node and a headless browser for tests of pages; a test that needs one that is absent is skipped, with its cause."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

# Drawn by the CPU, without the network that a browser uses for itself.
ARGUMENTS = (
    "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic",
    "--no-first-run",
)  # fmt: skip
DESKTOP, PHONE = {"width": 1366, "height": 900}, {"width": 390, "height": 844}


def node() -> str:
    """The path of Node.js."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("no Node.js: apt-get install nodejs")
    return found


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless Chromium of this machine, driven by Playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install 'phys4d[dev]'")
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield browser
        browser.close()


class Opened:
    """A page in the browser, and what it has said and asked for."""

    def __init__(self, browser: Any, address: str, *, viewport: dict[str, int] = DESKTOP, dark: bool = False) -> None:
        """The page of an address, at rest: its players do not start by themselves."""
        scheme, motion = "dark" if dark else "light", "reduce"
        self.context = browser.new_context(viewport=viewport, color_scheme=scheme, reduced_motion=motion)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: (self.said.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)
        self.page.wait_for_selector("html[data-opened]", timeout=20_000)

    def outside(self) -> list[str]:
        """Requests that left the page: neither data: nor files of this machine."""
        return [url for url in self.requests if not url.startswith(("data:", "file:", "blob:"))]

    def picture(self, selector: str) -> bytes:
        """The PNG of an element as it is on the screen."""
        return self.page.locator(selector).first.screenshot()


def address(path: Path) -> str:
    """The file: URL of a path."""
    return path.resolve().as_uri()
