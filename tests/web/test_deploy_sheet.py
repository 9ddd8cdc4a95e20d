"""The dialog that deploys: frameworks with their prices, limits, models."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.fakes.provider import KEY, FakeProvider, serving_provider
from tests.web.conftest import Look
from tests.web.world import WebServer
from tinyagentos.model.image import SupplyRecord
from tinyagentos.model.provider import NewProvider, ProviderKind

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("clean")]


@pytest.fixture
def stub(web: WebServer) -> Iterator[FakeProvider]:
    """A provider whose models are known."""
    with serving_provider() as serving:
        new = NewProvider("stub", ProviderKind.openai, serving.url, "", KEY)
        web.do(lambda: web.taos.providers.add(new))
        web.do(lambda: web.taos.providers.test("stub"))
        yield serving


def open_sheet(page: Page) -> Locator:
    """The dialog, with all that it has."""
    page.get_by_role("button", name="Deploy your first agent").click()
    sheet = page.get_by_role("dialog")
    sheet.get_by_text("More choices").click()
    page.wait_for_timeout(400)  # it moves in
    return sheet


def test_openclaw_is_first_and_every_framework_has_its_own_prices(
    page: Page, web: WebServer, look: Look
) -> None:
    record = SupplyRecord(fingerprint="f" * 64, version="9", size_bytes=80_000_000)
    web.change(lambda: web.taos.supply.table.put("hermes-agent/x64", record))
    sheet = open_sheet(page)
    frameworks = sheet.get_by_role("group", name="Framework")
    expect(frameworks.get_by_role("radio")).to_have_count(3)
    expect(frameworks.get_by_role("radio").first).to_be_checked()
    expect(frameworks.locator("label").first).to_contain_text(
        re.compile(r"OpenClaw.*image of at most 120 MB; about 13 s by image, about 48 s built",
                   re.IGNORECASE)
    )  # fmt: skip
    expect(frameworks).to_contain_text("80.0 MB image; about 13 s by image, about 47 s built")
    ways = sheet.get_by_role("group", name="How it gets here")
    expect(ways).to_contain_text("A build, about 48 s")
    memory = sheet.get_by_role("textbox", name="Memory")
    expect(memory).to_have_attribute("placeholder", "2.0 GiB")
    look("deploy-frameworks")
    ways.get_by_text("Only by image").click()
    frameworks.get_by_text("Hermes Agent").click()
    expect(ways).to_contain_text("Waits for its 80.0 MB image, then about 13 s")
    expect(ways.get_by_role("radio", name="Only by image")).to_be_checked()
    expect(memory).to_have_attribute("placeholder", "1.5 GiB")


def test_what_is_free_here_is_what_a_deploy_may_take(page: Page, web: WebServer) -> None:
    sheet = open_sheet(page)
    free = web.taos.agents.memory_room() / 2**30
    expect(sheet).to_contain_text(f"Empty: 2.0 GiB; {free:.1f} GiB are free for agents here.")
    cores = len(os.sched_getaffinity(0))
    expect(sheet).to_contain_text(f"Empty: all; this host has {cores}.")
    expect(sheet).to_contain_text("Empty: 10.0 GiB; 100.0 GiB are free here.")


def test_a_limit_that_cannot_be_is_said_at_its_field(
    page: Page, web: WebServer, look: Look
) -> None:
    sheet = open_sheet(page)
    wrong = {
        "Memory": ("0", "The least is 64 MiB"),
        "Processors": ("²", "Give a whole number from 1 to"),
        "Disk": ("1 MiB", "The least is 1.0 GiB"),
    }
    for label, (text, said) in wrong.items():
        field = sheet.get_by_role("textbox", name=label)
        field.fill(text)
        field.blur()
        expect(field).to_have_accessible_description(re.compile(said))
        expect(field).to_have_attribute("aria-invalid", "true")
    look("deploy-limits")
    sheet.get_by_text("More choices").click()
    sheet.get_by_role("button", name="Deploy", exact=True).click()
    expect(sheet.get_by_role("alert")).to_contain_text("0 is too little.")
    expect(sheet.get_by_role("textbox", name="Memory")).to_be_focused()  # and unfolded
    for label in wrong:
        sheet.get_by_role("textbox", name=label).fill("")
    sheet.get_by_text("parts of my home").click()
    sheet.get_by_label("Networks at home").fill("nonsense")
    sheet.get_by_role("button", name="Deploy", exact=True).click()
    expect(sheet.get_by_label("Networks at home")).to_have_attribute("aria-invalid", "true")
    sheet.get_by_label("Networks at home").fill("<b>bold</b>")
    sheet.get_by_role("button", name="Deploy", exact=True).click()
    assert sheet.locator("b", has_text=re.compile("^bold$")).count() == 0
    assert web.taos.runner.list_active() == ()


def test_known_models_are_offered_and_others_refused(
    page: Page, web: WebServer, stub: FakeProvider, look: Look
) -> None:
    sheet = open_sheet(page)
    model = sheet.get_by_role("combobox", name="Model")
    expect(model).to_have_accessible_description("Empty: stub/small, the default of this host.")
    offered = sheet.locator("datalist option")
    assert [one.get_attribute("value") for one in offered.all()] == ["stub/small", "stub/large"]
    look("deploy-models")
    model.fill("nobody/x")
    model.blur()
    expect(model).to_have_accessible_description(re.compile("no provider 'nobody'"))
    model.fill("stub/large")
    expect(model).not_to_have_attribute("aria-invalid", "true")
    sheet.get_by_role("button", name="Deploy", exact=True).click()
    page.wait_for_url("**/agents/hello")
    expect(page.locator(".title")).to_contain_text("Ready")
    assert web.do(lambda: web.taos.models.get("hello")).models == ("stub/large",)


def test_without_a_provider_the_way_to_one_is_shown(page: Page, web: WebServer) -> None:
    sheet = open_sheet(page)
    expect(sheet).to_contain_text("No model is set up yet.")
    expect(sheet.get_by_label("Model", exact=True)).to_be_hidden()
    sheet.get_by_role("link", name="add a provider on the page Models").click()
    page.get_by_role("heading", name="No model yet").wait_for()
