"""A browser, and a taOS for it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.web.world import PASSWORD, WebServer

SHOTS = Path(os.environ.get("TAOS_SHOTS", "") or tempfile.gettempdir(), "taos-shots")
SIZES = {"1280": {"width": 1280, "height": 860}, "390": {"width": 390, "height": 844}}
WITHIN = 15_000
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def web() -> Iterator[WebServer]:
    """A running server with its pages; the password is set."""
    with tempfile.TemporaryDirectory(prefix="taos-web-") as name, WebServer(Path(name)) as server:
        server.do(lambda: server.taos.access.set_password(PASSWORD))
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium. Not for the session: its loop would be in the way of other tests'."""
    found = next((path for path in map(shutil.which, CHROMIUM) if path), None)
    assert found, "install the package chromium; `./taos test` does"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def clean(web: WebServer) -> Iterator[None]:
    """No agent, no job at work, and no fault when a test begins."""
    yield
    web.do(web.tidy)


class Watched:
    """What a page asked for and complained about."""

    def __init__(self, page: Page, address: str) -> None:
        self.complaints: list[str] = []
        self.foreign: list[str] = []
        self.requests: list[str] = []
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda said: self._said(said.type, said.text))
        page.on("request", lambda asked: self._asked(asked.url, address))

    def _said(self, kind: str, text: str) -> None:
        if kind == "error" and "favicon" not in text and "status of" not in text:
            self.complaints.append(text)

    def _asked(self, url: str, address: str) -> None:
        self.requests.append(url)
        if not url.startswith((address, address.replace("http", "ws"), "data:", "blob:")):
            self.foreign.append(url)


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A browser without cookies, as large as a phone."""
    opened = browser.new_context(viewport=SIZES["390"], reduced_motion="reduce")
    opened.set_default_timeout(WITHIN)
    yield opened
    opened.close()


@pytest.fixture
def page(context: BrowserContext, web: WebServer) -> Iterator[Page]:
    """A page that is logged in; it asks nobody else and complains of nothing."""
    opened = context.new_page()
    watched = Watched(opened, web.address)
    log_in(opened, web)
    yield opened
    assert watched.foreign == []
    assert watched.complaints == []


def log_in(page: Page, web: WebServer) -> None:
    """Through the login page, to the agents."""
    page.goto(f"{web.address}/login")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(f"{web.address}/")
    page.get_by_role("heading", name="Agents", level=1).wait_for()


Look = Callable[[str], None]


@pytest.fixture
def look(page: Page) -> Look:
    """Looks at a page in both sizes and both colours: it fits, and axe finds nothing serious."""

    def look(name: str) -> None:
        SHOTS.mkdir(parents=True, exist_ok=True)
        for size, viewport in SIZES.items():
            page.set_viewport_size(viewport)  # type: ignore[arg-type] # a dict of two numbers
            for colours in ("light", "dark"):
                page.emulate_media(color_scheme=colours)  # type: ignore[arg-type] # one of two
                page.wait_for_function(f"document.documentElement.dataset.theme === '{colours}'")
                page.wait_for_timeout(250)
                page.screenshot(path=SHOTS / f"{name}-{size}-{colours}.png", full_page=True)
                check(page, f"{name} {size} {colours}")
        page.set_viewport_size({"width": 360, "height": 740})
        page.wait_for_timeout(100)
        assert overflow(page) <= 0, f"{name} is wider than 360 px"
        page.set_viewport_size(SIZES["390"])  # type: ignore[arg-type] # a dict of two numbers

    return look


def overflow(page: Page) -> int:
    """By how many pixels the page is wider than the window."""
    wide: int = page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    return wide


def check(page: Page, name: str) -> None:
    """axe-core finds nothing serious or critical."""
    found = Axe().run(page).response["violations"]
    bad = [
        f"{one['id']}: {one['help']}: {node['html'][:200]} {node.get('failureSummary', '')[:300]}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]
    assert bad == [], f"{name}:\n" + "\n".join(bad)
