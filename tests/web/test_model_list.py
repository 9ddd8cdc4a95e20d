"""A list of models on a page: offered, added to, checked."""

from __future__ import annotations

import re

import pytest
from nicegui import ui
from playwright.sync_api import Page, expect

from tests.fakes.provider import KEY, serving_provider
from tests.web.conftest import Look
from tests.web.world import WebServer
from tinyagentos.model.provider import NewProvider, ProviderKind
from tinyagentos.web.feed import Feed
from tinyagentos.web.frame import Site, frame, tell
from tinyagentos.web.model_field import ModelList

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("clean")]


def add_page(web: WebServer, path: str, *models: str) -> None:
    """A page with nothing but the list, which says what was chosen."""
    site = Site(web.taos, Feed(web.taos))

    @ui.page(path)
    def page() -> None:
        with frame("Models of an agent", ""):
            chosen = ModelList(site, models)
            site.button("Save", lambda: tell(", ".join(map(str, chosen.read())) or "the default"))


def test_models_are_chosen_in_their_order(page: Page, web: WebServer, look: Look) -> None:
    with serving_provider() as stub:
        new = NewProvider("stub", ProviderKind.openai, stub.url, "", KEY)
        web.do(lambda: web.taos.providers.add(new))
        web.do(lambda: web.taos.providers.test("stub"))
        web.change(lambda: add_page(web, "/probe/models", "stub/large"))
        page.goto(f"{web.address}/probe/models")
        first = page.get_by_role("combobox", name="Model", exact=True)
        expect(first).to_have_value("stub/large")
        page.get_by_role("button", name="Another to fall back to").click()
        second = page.get_by_role("combobox", name="Fallback 1")
        second.fill("nonsense")
        page.get_by_role("button", name="Save").click()
        expect(page.locator(".note-fail")).to_contain_text("names no model")
        expect(second).to_have_attribute("aria-invalid", "true")
        page.locator(".note-fail").get_by_role("button").click()
        second.fill("stub/small")
        look("model-list")
        page.get_by_role("button", name="Save").click()
        expect(page.locator(".note-ok")).to_contain_text("stub/large, stub/small")
        for _ in range(4):
            page.get_by_role("button", name="Another to fall back to").click()
        expect(page.get_by_role("button", name=re.compile("Another"))).to_be_hidden()


def test_an_empty_list_is_the_default(page: Page, web: WebServer) -> None:
    web.change(lambda: add_page(web, "/probe/no-models"))
    page.goto(f"{web.address}/probe/no-models")
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".note-ok")).to_contain_text("the default")
