"""Pages are useful at once, whoever else keeps silent."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.web.conftest import Look
from tests.web.test_pages import deploy
from tests.web.world import WebServer
from tinyagentos.model.provider import NewProvider, ProviderKind

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("clean")]
# A second on a machine that is not busy. A silent provider is given 20 s, Incus 30.
SOON = 5.0


@pytest.fixture
def silent(web: WebServer) -> Iterator[None]:
    """A provider that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/v1"
        web.do(lambda: web.taos.providers.add(NewProvider("deaf", ProviderKind.openai, url)))
        yield


def soon(act: Callable[[], object]) -> None:
    begun = time.monotonic()
    act()
    assert time.monotonic() - begun < SOON


@pytest.mark.usefixtures("silent")
def test_a_silent_provider_keeps_no_page_waiting(page: Page, web: WebServer) -> None:
    def models() -> None:
        response = page.goto(f"{web.address}/models")
        assert response
        assert response.status == 200
        expect(page.get_by_role("region", name="deaf")).to_contain_text("not known before its")

    soon(models)
    page.goto(web.address)

    def dialog() -> None:
        page.get_by_role("button", name="Deploy your first agent").click()
        expect(page.get_by_role("dialog").get_by_label("Model", exact=True)).to_be_visible()

    soon(dialog)


def test_an_incus_that_hangs_is_said_and_keeps_no_page_waiting(
    page: Page, web: WebServer, look: Look
) -> None:
    deploy(web, "hello")
    page.goto(web.address)
    expect(page.get_by_role("listitem").filter(has_text="hello")).to_contain_text("Ready")
    web.do(web.taos.images.list_held)
    web.change(web.fake.awake.clear)

    def dialog() -> None:
        page.get_by_role("button", name="Deploy an agent").click()
        sheet = page.get_by_role("dialog")
        expect(sheet.get_by_label("Name")).to_have_value("hello-2")
        expect(sheet).to_contain_text("here already")  # as it was seen last

    soon(dialog)
    page.keyboard.press("Escape")

    def linked() -> None:
        response = page.goto(f"{web.address}/?deploy=1")
        assert response
        assert response.status == 200
        expect(page.get_by_role("dialog").get_by_label("Name")).to_have_value("hello-2")

    soon(linked)

    def images() -> None:
        response = page.goto(f"{web.address}/images")
        assert response
        assert response.status == 200
        expect(page.get_by_text("Asking Incus for its images")).to_be_visible()
        expect(page.get_by_role("region", name="Policy")).to_be_visible()

    soon(images)
    expect(page.get_by_role("alert").first).to_contain_text("Incus does not answer", timeout=15_000)
    expect(page.get_by_role("region", name="Policy")).to_contain_text("OpenClaw: ")
    look("images-silent")

    def host() -> None:
        page.goto(f"{web.address}/host")
        expect(page.get_by_role("heading", name="Host", exact=True)).to_be_visible()
        expect(page.get_by_text("What taOS costs")).to_be_visible()

    soon(host)
    page.goto(f"{web.address}/images")
    web.change(web.fake.awake.set)
    expect(page.get_by_role("region", name="openclaw/x64")).to_contain_text(re.compile("Ready"))
