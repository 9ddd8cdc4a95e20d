"""Words of agents, of providers and of whoever names things, that try to run in the page."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from aiohttp import web as http
from playwright.sync_api import Page, expect

from tests.fakes.provider import KEY, serving_provider
from tests.web.test_pages import deploy
from tests.web.world import WebServer
from tinyagentos.agents.order import TITLE_KEY
from tinyagentos.model.job import Job, JobState, Problem, Step, StepState
from tinyagentos.model.provider import NewProvider, ProviderKind
from tinyagentos.store.jobs import JobTable

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("clean")]
EVIL = "<img src=x onerror='window.ran=1'>"


def failed_deploy(name: str) -> Job:
    """A job of which every text that comes from elsewhere is evil."""
    now = datetime.now(UTC)
    return Job(
        f"evil-{name}", "deploy", f"agent:{name}", now, JobState.failed,
        source="image", source_reason=EVIL, params={"framework": "openclaw"},
        steps=(Step("wait until ready", StepState.failed, now, 1.0, detail=EVIL),),
        started_at=now, finished_at=now, attempt=1,
        error=Problem("not_ready", f"It ended. {EVIL}\n12:00 agent: {EVIL}", f"Hint {EVIL}"),
    )  # fmt: skip


def assert_nothing_ran(page: Page) -> None:
    """The words are to be seen, and are words."""
    expect(page.locator("body")).to_contain_text("<img src=x onerror=")
    page.wait_for_timeout(300)  # a picture that cannot be loaded says so a moment later
    assert page.locator("img[src=x]").count() == 0
    assert page.evaluate("window.ran") is None


def test_a_failed_jobs_log(page: Page, web: WebServer) -> None:
    job = failed_deploy("lost")
    web.change(lambda: JobTable(web.taos.database).add(job))
    for path in (f"/jobs/{job.id}", "/agents/lost"):
        page.goto(f"{web.address}{path}")
        expect(page.get_by_role("alert").first).to_contain_text("It ended.")
        assert_nothing_ran(page)
        expect(page.get_by_role("status")).not_to_contain_text("12:00")
    for path in ("/jobs", "/"):
        page.goto(f"{web.address}{path}")
        expect(page.locator("body")).to_contain_text("It ended.")
        assert page.evaluate("window.ran") is None


def test_what_an_agent_says_and_is_called(page: Page, web: WebServer) -> None:
    deploy(web, "hello")

    async def answer(request: http.Request, _: str) -> http.StreamResponse:
        return http.Response(status=503, text=EVIL)

    def change() -> None:
        project = web.fake.project()
        [instance] = project.instances.values()
        instance.json["config"][TITLE_KEY] = EVIL
        [(pool, volume)] = project.volumes
        named = {"name": EVIL, "created_at": "2026-01-01T00:00:00Z", "description": EVIL}
        project.volume_snapshots[pool, volume] = {EVIL: named}
        for one in instance.agents:
            one.answer = answer

    web.change(change)
    page.goto(web.address)
    expect(page.get_by_role("listitem").filter(has_text="hello")).to_contain_text("Unhealthy")
    assert_nothing_ran(page)
    page.goto(f"{web.address}/agents/hello")
    expect(page.locator(".title")).to_contain_text("Unhealthy")
    assert_nothing_ran(page)
    page.get_by_role("tab", name="About").click()
    expect(page.get_by_label("Title")).to_have_value(EVIL)
    assert_nothing_ran(page)
    page.get_by_role("tab", name="Snapshots").click()
    expect(page.get_by_role("tabpanel")).to_contain_text("onerror")
    page.get_by_role("button", name="Restore").click()
    expect(page.get_by_role("dialog").get_by_role("heading")).to_contain_text("<img")
    assert_nothing_ran(page)


def test_a_providers_models_and_its_errors(page: Page, web: WebServer) -> None:
    with serving_provider(raw=json.dumps({"data": [{"id": EVIL}]}).encode()) as stub:
        new = NewProvider("stub", ProviderKind.openai, stub.url, EVIL, KEY)
        web.do(lambda: web.taos.providers.add(new))
        page.goto(f"{web.address}/models")
        card = page.get_by_role("region", name="stub")
        card.get_by_role("button", name="Test").click()
        expect(card).to_contain_text("It answers")
        assert_nothing_ran(page)
        stub.status, stub.sentence = 500, EVIL
        card.get_by_role("button", name="Test").click()
        expect(card).to_contain_text("answered 500")
        assert_nothing_ran(page)
        page.goto(web.address)
        page.get_by_role("button", name="Deploy").first.click()
        expect(page.get_by_role("dialog")).to_be_visible()
        assert page.evaluate("window.ran") is None


def test_an_address_that_is_none(page: Page, web: WebServer) -> None:
    page.goto(f"{web.address}/agents/{EVIL}")
    expect(page.get_by_role("heading", name="There is no agent")).to_be_visible()
    assert_nothing_ran(page)
    page.goto(f"{web.address}/jobs/{EVIL}")
    expect(page.get_by_role("heading", name="There is no such job")).to_be_visible()
    assert page.evaluate("window.ran") is None
