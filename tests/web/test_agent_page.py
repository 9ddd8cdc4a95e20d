"""An agent's page while its agent changes: what somebody does on it is not disturbed."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.fakes.provider import KEY, serving_provider
from tests.web.conftest import Look
from tests.web.test_pages import become, deploy
from tests.web.world import WebServer
from tinyagentos.agents.order import AGENT_KEY, STAGE_KEY, TITLE_KEY
from tinyagentos.model.agent import AgentChange
from tinyagentos.model.provider import NewProvider, ProviderKind

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("clean")]


def flap(page: Page, web: WebServer) -> None:
    """The agent is not well for a moment."""
    become(web, 503)
    expect(page.locator(".title")).to_contain_text("Unhealthy")
    become(web, 200)
    expect(page.locator(".title")).to_contain_text("Ready")


def test_an_agent_that_is_unwell_for_a_moment_disturbs_nobody(page: Page, web: WebServer) -> None:
    deploy(web, "hello")
    with serving_provider() as stub:
        new = NewProvider("stub", ProviderKind.openai, stub.url, "large", KEY)
        web.do(lambda: web.taos.providers.add(new))
        page.goto(f"{web.address}/agents/hello")
        box = page.get_by_label("Say something to hello")
        box.fill("half a sen")
        flap(page, web)
        expect(box).to_have_value("half a sen")
        page.get_by_role("tab", name="Terminal").click()
        screen = page.locator(".xterm")
        expect(screen).to_contain_text("agent@hello")
        screen.click()
        page.keyboard.type("half a com")
        flap(page, web)
        page.keyboard.type("mand")
        expect(screen).to_contain_text("half a command")
        page.get_by_role("tab", name="About").click()
        page.get_by_label("Title").fill("half a ti")
        flap(page, web)
        expect(page.get_by_label("Title")).to_have_value("half a ti")
        page.get_by_role("button", name="Stop").click()  # its other tabs go, this one stays
        expect(page.get_by_role("tab", name="Terminal")).to_be_hidden()
        expect(page.get_by_label("Title")).to_have_value("half a ti")
        page.get_by_role("button", name="Start").click()
        expect(page.get_by_role("tab", name="Terminal")).to_be_visible()
        expect(page.get_by_label("Title")).to_have_value("half a ti")


def test_what_an_agent_is_called_and_has_is_shown_as_soon_as_it_is_so(
    page: Page, web: WebServer, look: Look
) -> None:
    deploy(web, "hello")
    page.goto(f"{web.address}/agents/hello")
    page.get_by_role("tab", name="About").click()
    title, memory = page.get_by_label("Title"), page.get_by_label("Memory", exact=True)
    title.fill("The house's helper")
    page.get_by_label("Stop when idle").fill("9")
    page.get_by_role("region", name="Settings").get_by_role("button", name="Save").click()
    expect(page.locator(".title")).to_contain_text("The house's helper")
    page.get_by_label("Stop when idle").fill("10")  # not saved yet

    async def change() -> None:
        await web.taos.idle()
        await web.taos.agents.start_change("hello", AgentChange(memory_bytes=5 << 30))
        await web.taos.idle()
        await web.taos.agents.start_network("hello", "none")
        await web.taos.idle()

    web.do(change)
    expect(memory).to_have_value("5.0 GiB")
    expect(page.get_by_label("Stop when idle")).to_have_value("10")
    facts = page.get_by_role("tabpanel").locator("dl").first
    expect(facts).to_contain_text("nothing but its")
    expect(facts).to_contain_text("5.0 GiB")
    look("agent-called")
    page.goto(web.address)
    expect(page.get_by_role("listitem").last).to_contain_text("The house's helper")
    look("agents-called")


def test_a_failed_agent_offers_what_helps(page: Page, web: WebServer, look: Look) -> None:
    deploy(web, "hello")

    def set_status(status: str) -> None:
        [instance] = web.fake.project().instances.values()
        instance.set_status(status)

    web.change(lambda: set_status("Error"))
    page.goto(f"{web.address}/agents/hello")
    expect(page.get_by_role("alert")).to_contain_text("Restart it")
    expect(page.get_by_role("tab")).to_have_text(["About"])
    look("agent-error")
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.get_by_role("dialog")).to_contain_text("Type hello to confirm")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    web.change(lambda: set_status("Stopped"))  # as Incus's own stop would leave it
    page.get_by_role("button", name="Restart").click()
    expect(page.locator(".title")).to_contain_text("Ready")


def test_a_deploy_that_never_ended_offers_what_helps(page: Page, web: WebServer) -> None:
    deploy(web, "hello")

    def forget() -> None:
        [instance] = web.fake.project().instances.values()
        del instance.json["config"][STAGE_KEY]
        web.taos.database.execute("DELETE FROM jobs")

    web.change(forget)
    page.goto(f"{web.address}/agents/hello")
    expect(page.get_by_role("alert")).to_contain_text("delete it, and deploy it again")
    expect(page.get_by_role("button", name="Restart")).to_have_count(0)
    page.get_by_role("tab", name="Log").click()
    expect(page.get_by_role("log")).to_contain_text("turn 39 done")
    page.get_by_role("button", name="Delete", exact=True).click()
    sheet = page.get_by_role("dialog")
    sheet.get_by_label("Type hello to confirm").fill("hello")
    sheet.get_by_role("button", name="Delete for ever").click()
    expect(page.get_by_role("heading", name="There is no agent hello")).to_be_visible()


def test_a_lost_deploy_is_dismissed_or_tried_again_on_its_card(page: Page, web: WebServer) -> None:
    web.change(lambda: setattr(web.taos.builder, "fail", True))
    for name in ("one", "two"):
        web.do(lambda name=name: web.taos.deploy(name))
    web.change(lambda: setattr(web.taos.builder, "fail", False))
    one = page.get_by_role("listitem").filter(has_text="one")
    two = page.get_by_role("listitem").filter(has_text="two")
    one.get_by_role("button", name="Dismiss").click()
    expect(one).to_have_count(0)
    two.get_by_role("button", name="Retry").click()
    expect(two).to_contain_text("Ready")
    expect(two.get_by_role("button")).to_have_count(0)
    page.reload()
    expect(two).to_contain_text("Ready")
    expect(one).to_have_count(0)
    page.goto(f"{web.address}/jobs")
    expect(page.get_by_role("link").filter(has_text="Deploy one")).to_contain_text("Failed")


def test_a_log_goes_on_when_its_agent_starts_again(page: Page, web: WebServer) -> None:
    deploy(web, "hello")
    page.goto(f"{web.address}/agents/hello")
    page.get_by_role("tab", name="Log").click()
    log = page.get_by_role("log")
    expect(log).to_contain_text("turn 39 done")
    page.get_by_role("button", name="Restart").click()
    expect(log).to_contain_text("started again")
    expect(page.get_by_role("tab", name="Log")).to_have_attribute("aria-selected", "true")


def test_a_log_stays_where_its_reader_is(page: Page, web: WebServer) -> None:
    deploy(web, "hello")
    page.goto(f"{web.address}/agents/hello")
    page.get_by_role("tab", name="Log").click()
    log = page.get_by_role("log")
    expect(log).to_contain_text("needle")
    page.get_by_label("Stay at the end").uncheck()
    log.evaluate("(box) => box.scrollTop = 40")
    page.get_by_label("Find in the log").fill("turn")
    expect(log).not_to_contain_text("needle")
    assert log.evaluate("(box) => box.scrollTop") == 40
    page.get_by_label("Stay at the end").check()
    page.wait_for_function("document.querySelector('.log').scrollTop > 100")


def test_a_long_title_fits_on_a_phone(page: Page, web: WebServer) -> None:
    deploy(web, "hello")

    def name_it() -> None:
        [instance] = web.fake.project().instances.values()
        instance.json["config"][TITLE_KEY] = "x" * 60

    web.change(name_it)
    page.goto(f"{web.address}/agents/hello")
    expect(page.locator(".title")).to_contain_text("x" * 60)
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(wide) <= 0


def test_a_name_of_several_instances_shows_both_and_how_to_put_that_right(
    page: Page, web: WebServer, look: Look
) -> None:
    deploy(web, "hello")
    deploy(web, "other")
    there = web.fake.project().instances
    twin = next(one for one in there.values() if one.json["config"][AGENT_KEY] == "other")
    twin.json["config"][AGENT_KEY] = "hello"
    web.taos.host.watch._stale = True
    try:
        page.goto(f"{web.address}/agents/hello")
        said = page.locator("main")
        expect(said).to_contain_text(
            f"The agent 'hello' is several instances: {', '.join(sorted(there))}."
        )
        expect(said).to_contain_text("incus --project taos config set INSTANCE")
        for button in ("Restart", "Stop", "Delete"):
            expect(page.get_by_role("button", name=button)).to_have_count(0)
        expect(page.get_by_role("tab")).to_have_count(0)
        look("agent-several")
    finally:
        twin.json["config"][AGENT_KEY] = "other"
        web.taos.host.watch._stale = True
