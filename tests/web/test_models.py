"""Models and chat in a real browser, over the fake Incus and a provider on the loopback."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
from playwright.sync_api import Page, expect

from tests.fakes.provider import KEY, FakeProvider, serving_provider
from tests.web.conftest import Look
from tests.web.test_pages import deploy
from tests.web.world import WebServer, chat_slowly
from tinyagentos.model.provider import NewProvider, ProviderKind, Usage
from tinyagentos.store.providers import UsageTable

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("clean")]


@pytest.fixture
def stub() -> Iterator[FakeProvider]:
    with serving_provider() as serving:
        yield serving


@pytest.fixture
def talking(web: WebServer, stub: FakeProvider) -> None:
    """An agent `hello` that answers, and a provider."""

    def prepare() -> None:
        web.talk.clear()
        web.fake.answer = chat_slowly(web.talk)

    web.change(prepare)
    new = NewProvider("stub", ProviderKind.openai, stub.url, "large", KEY)
    web.do(lambda: web.taos.providers.add(new))
    deploy(web, "hello")


def test_a_provider_is_added_tested_changed_and_removed(
    page: Page, web: WebServer, stub: FakeProvider, look: Look
) -> None:
    page.get_by_role("link", name="Models").click()
    page.get_by_role("heading", name="No model yet").wait_for()
    look("models-empty")
    page.get_by_role("button", name="Add a provider").click()
    sheet = page.get_by_role("dialog")
    sheet.get_by_text("OpenAI or alike").click()
    sheet.get_by_label("Name", exact=True).fill("box")
    sheet.get_by_label("Address", exact=True).fill(stub.url)
    sheet.get_by_label("Key", exact=True).fill("wrong")
    page.wait_for_timeout(300)
    look("models-add")
    sheet.get_by_role("button", name="Save and test").click()
    expect(page.locator(".note-fail")).to_contain_text("does not take the key")
    page.locator(".note-fail").get_by_role("button").click()
    card = page.get_by_role("region", name="box")
    card.get_by_role("button", name="Change").click()
    sheet = page.get_by_role("dialog")
    expect(sheet.get_by_label("Key", exact=True)).to_have_value("")
    sheet.get_by_label("Key", exact=True).fill(KEY)
    sheet.get_by_role("button", name="Save and test").click()
    expect(card).to_contain_text("small")
    expect(card).to_contain_text("Used by agents that chose no model")
    card.get_by_role("button", name="Test").click()
    expect(card).to_contain_text("Models: small, large.")
    look("models")
    assert KEY not in page.content()
    card.get_by_role("button", name="Remove").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    page.get_by_role("heading", name="No model yet").wait_for()


@pytest.mark.usefixtures("talking")
def test_a_conversation(page: Page, web: WebServer, look: Look) -> None:
    page.goto(f"{web.address}/agents/hello")
    box = page.get_by_label("Say something to hello")
    box.fill("Find something")
    box.press("Enter")
    log = page.get_by_role("log", name="Conversation")
    expect(log.locator("strong")).to_have_text("what I found")  # before the rest is there
    expect(page.get_by_role("button", name="Stop", exact=True).last).to_be_visible()
    page.get_by_role("tab", name="Log").click()
    page.reload()
    expect(log).to_contain_text("Find something")
    web.change(web.talk.set)
    expect(log.locator("pre")).to_contain_text("print('code')")
    expect(log).to_contain_text("<script>alert(1)</script>")
    assert log.locator("img, script").count() == 0
    link = log.get_by_role("link", name="a page")
    expect(link).to_have_attribute("rel", "noopener noreferrer")
    assert log.get_by_role("link", name="bad").count() == 0
    look("agent-chat")
    box.fill("fail please")
    page.get_by_role("button", name="Send").click()
    expect(log.locator(".fail")).to_contain_text("500: out of order")


@pytest.mark.usefixtures("talking")
def test_an_answer_can_be_stopped(page: Page, web: WebServer) -> None:
    page.goto(f"{web.address}/agents/hello")
    box = page.get_by_label("Say something to hello")
    box.fill("Find something")
    box.press("Enter")
    log = page.get_by_role("log", name="Conversation")
    expect(log).to_contain_text("what I found")
    page.get_by_role("tabpanel").get_by_role("button", name="Stop").click()
    expect(log).to_contain_text("(stopped)")
    expect(page.get_by_role("button", name="Send")).to_be_visible()


@pytest.mark.usefixtures("talking")
def test_what_is_typed_while_an_answer_comes_stays(page: Page, web: WebServer) -> None:
    page.set_viewport_size({"width": 390, "height": 500})
    page.goto(f"{web.address}/agents/hello")
    box = page.get_by_label("Say something to hello")
    box.fill("Find something\n" * 40)
    box.press("Enter")
    expect(box).to_have_value("")
    log = page.get_by_role("log", name="Conversation")
    expect(log).to_contain_text("what I found")
    box.fill("And then?")
    box.press("Enter")
    log.evaluate("(box) => box.scrollTop = 0")  # the reader looks at what was asked
    web.change(web.talk.set)
    expect(log).to_contain_text("print('code')")
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    expect(box).to_have_value("And then?")
    expect(log).not_to_contain_text("And then?")
    assert log.evaluate("(box) => box.scrollTop") == 0
    box.press("Enter")
    expect(log).to_contain_text("And then?")
    expect(box).to_have_value("")
    page.wait_for_function(
        "(() => { const b = document.querySelector('.chat');"
        " return b.scrollHeight - b.scrollTop - b.clientHeight < 5 })()"
    )


@pytest.mark.usefixtures("talking")
def test_models_budget_and_network_are_changed_on_the_agents_page(
    page: Page, web: WebServer, look: Look
) -> None:
    agent = web.do(lambda: web.taos.agents.get_agent("hello"))
    used = UsageTable(web.taos.database)
    for month in ("2020-01", "2020-02"):
        web.change(partial(used.add, agent.instance, month, Usage(5, 0, 700, 90)))
    page.goto(f"{web.address}/agents/hello")
    page.get_by_role("tab", name="About").click()
    expect(page.get_by_role("list", name="Tokens by month")).to_contain_text("790 tokens")
    models = page.get_by_role("region", name="Models")
    models.get_by_role("combobox", name="Model").fill("stub/large")
    models.get_by_role("button", name="Another to fall back to").click()
    models.get_by_role("combobox", name="Fallback 1").fill("stub/small")
    models.get_by_label("Most tokens a month").fill("5000")
    models.get_by_role("button", name="Save").click()
    expect(page.locator(".note-ok")).to_contain_text("from its next question on")
    chosen = web.do(lambda: web.taos.models.get("hello"))
    assert (chosen.models, chosen.monthly_tokens) == (("stub/large", "stub/small"), 5000)
    models.get_by_role("combobox", name="Fallback 1").fill("nobody/x")
    models.get_by_role("button", name="Save").click()
    expect(page.locator(".note-fail")).to_contain_text("no provider")
    page.locator(".note-fail").get_by_role("button").click()
    settings = page.get_by_role("region", name="Settings")
    settings.get_by_label("Title").fill("The house's helper")
    settings.get_by_label("Memory").fill("3 GiB")
    settings.get_by_label("Stop when idle").fill("soon")
    settings.get_by_role("button", name="Save").click()
    expect(page.locator(".note-fail")).to_contain_text("no whole number")
    page.locator(".note-fail").get_by_role("button").click()
    settings.get_by_label("Stop when idle").fill("45")
    settings.get_by_text("Every day").click()
    settings.get_by_role("button", name="Save").click()
    expect(page.locator(".note-ok").last).to_contain_text("goes on running")
    page.wait_for_timeout(500)
    agent = web.do(lambda: web.taos.agents.get_agent("hello"))
    assert (agent.title, agent.memory_bytes) == ("The house's helper", 3 * 2**30)
    assert agent.idle_stop_minutes == 45
    assert web.do(lambda: web.taos.agents.get_schedule("hello")) == "daily"
    network = page.get_by_role("region", name="Network")
    network.get_by_text("parts of my home").click()
    network.get_by_label("Networks at home").fill("192.168.4.0/24")
    look("agent-about")
    network.get_by_role("button", name="Apply").click()

    async def policy() -> str:
        await web.taos.idle()
        return (await web.taos.agents.get_agent("hello")).network

    page.wait_for_timeout(500)
    assert web.do(policy) == "lan:192.168.4.0/24"


def test_what_a_new_agent_may_reach_and_uses(
    page: Page, web: WebServer, stub: FakeProvider
) -> None:
    new = NewProvider("stub", ProviderKind.openai, stub.url, "large", KEY)
    web.do(lambda: web.taos.providers.add(new))
    page.get_by_role("button", name="Deploy your first agent").click()
    sheet = page.get_by_role("dialog")
    sheet.get_by_text("More choices").click()
    sheet.get_by_text("Nothing", exact=True).click()
    sheet.get_by_role("combobox", name="Model").fill("stub/small")
    sheet.get_by_role("button", name="Deploy", exact=True).click()
    expect(page.locator(".title")).to_contain_text("Ready")
    agent = web.do(lambda: web.taos.agents.get_agent("hello"))
    chosen = web.do(lambda: web.taos.models.get("hello"))
    assert (agent.network, chosen.models) == ("none", ("stub/small",))
