"""The pages in a real browser, over the fake Incus."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from aiohttp import web as http
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.web.conftest import SHOTS, SIZES, Look, Watched, check, log_in
from tests.web.world import PASSWORD, WebServer
from tinyagentos.access import SetupCode
from tinyagentos.agents.order import VERSION_KEY
from tinyagentos.agents.readiness import Answer
from tinyagentos.agents.watch import FAILURES
from tinyagentos.model.agent import AgentSpec
from tinyagentos.model.job import Job, Problem
from tinyagentos.store.access import AccessTable
from tinyagentos.store.jobs import JobTable

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("clean")]


def deploy(web: WebServer, name: str) -> Job:
    """An agent that is ready."""

    async def run() -> Job:
        job = await web.taos.deploy(name)
        await web.taos.idle()
        return job

    return web.do(run)


def become(web: WebServer, status: int) -> None:
    """Have the agent answer with that status from now on, and the pages told."""

    async def answer(request: http.Request, _: str) -> http.StreamResponse:
        return http.Response(status=status, text="busy")

    def change() -> None:
        [instance] = web.fake.project().instances.values()
        for one in instance.agents:
            one.answer = answer
        for _ in range(FAILURES):
            web.taos.host.watch.note(instance.json["name"], Answer(status, "busy"))

    web.change(change)


def test_the_first_agent_from_the_empty_page(page: Page, web: WebServer, look: Look) -> None:
    page.get_by_role("heading", name="No agent yet").wait_for()
    look("agents-empty")
    web.change(web.taos.builder.go_on.clear)
    page.get_by_role("button", name="Deploy your first agent").click()
    sheet = page.get_by_role("dialog")
    expect(sheet.get_by_label("Name")).to_have_value("hello")
    page.wait_for_timeout(400)
    sheet.get_by_text("More choices").click()
    look("deploy")
    sheet.get_by_role("button", name="Deploy", exact=True).click()
    page.wait_for_url("**/agents/hello")
    step = page.get_by_role("list", name="Steps").get_by_role("listitem")
    expect(step.filter(has_text="install framework")).to_contain_text("running")
    look("agent-deploying")
    page.reload()
    expect(page.get_by_role("button", name="Cancel")).to_be_visible()
    page.goto(web.address)
    expect(page.get_by_role("listitem").filter(has_text="hello")).to_contain_text("Step")
    look("agents-deploying")
    web.change(web.taos.builder.go_on.set)
    card = page.get_by_role("listitem").filter(has_text="hello")
    expect(card).to_contain_text("Ready")
    expect(card).to_contain_text("Memory")
    card.get_by_role("link", name="hello").click()
    expect(page.get_by_role("tabpanel")).to_contain_text("No model is set up yet")
    page.get_by_role("tab", name="Log").click()
    expect(page.get_by_role("log")).to_contain_text("turn 39 done")
    look("agent-log")


def test_a_name_is_checked_as_it_is_typed(page: Page, web: WebServer) -> None:
    deploy(web, "hello")
    page.get_by_role("button", name="Deploy an agent").click()
    sheet = page.get_by_role("dialog")
    name = sheet.get_by_label("Name")
    expect(name).to_have_value("hello-2")
    name.fill("Bad Name")
    expect(sheet).to_contain_text("lower-case letters")
    name.fill("hello")
    expect(sheet).to_contain_text("There is an agent hello already")
    sheet.get_by_role("button", name="Deploy", exact=True).click()
    expect(sheet).to_be_visible()
    sheet.get_by_text("More choices").click()
    name.fill("second")
    sheet.get_by_role("textbox", name="Memory").fill("a lot")
    sheet.get_by_role("button", name="Deploy", exact=True).click()
    expect(sheet.get_by_role("alert")).to_contain_text("no size")
    page.keyboard.press("Escape")
    expect(sheet).to_be_hidden()


def test_a_failed_deploy_says_why_and_is_tried_again(
    page: Page, web: WebServer, look: Look
) -> None:
    web.change(lambda: setattr(web.taos.builder, "fail", True))
    web.do(lambda: web.taos.deploy("hello"))
    card = page.get_by_role("listitem").filter(has_text="hello")
    expect(card).to_contain_text("npm said no")
    look("agents-failed")
    card.get_by_role("link").click()
    expect(page.get_by_role("alert").first).to_contain_text("npm said no")
    look("agent-failed")
    web.change(lambda: setattr(web.taos.builder, "fail", False))
    page.get_by_role("button", name="Retry").click()
    expect(page.locator(".title")).to_contain_text("Ready")


def test_a_deploy_is_cancelled_in_the_page(page: Page, web: WebServer) -> None:
    web.change(web.taos.builder.go_on.clear)

    async def begin() -> Job:
        return await web.taos.agents.start_deploy(AgentSpec("hello"))

    job = web.do(begin)
    page.goto(f"{web.address}/jobs/{job.id}")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".title")).to_contain_text("Cancelled")
    expect(page.get_by_role("list", name="Steps")).to_contain_text("roll back")


def test_log_search_and_text_that_looks_like_markup(page: Page, web: WebServer) -> None:
    deploy(web, "hello")
    page.goto(f"{web.address}/agents/hello")
    page.get_by_role("tab", name="Log").click()
    log = page.get_by_role("log")
    expect(log).to_contain_text("<script>alert(1)</script> needle")
    page.get_by_label("Find in the log").fill("NEEDLE")
    expect(log).not_to_contain_text("turn")
    expect(log).to_contain_text("needle")


def test_the_terminal(page: Page, web: WebServer, look: Look) -> None:
    deploy(web, "hello")
    page.goto(f"{web.address}/agents/hello")
    page.get_by_role("tab", name="Terminal").click()
    screen = page.locator(".xterm")
    expect(screen).to_contain_text("agent@hello")
    screen.click()
    page.keyboard.type("ls -la")
    expect(screen).to_contain_text("ls -la")
    look("agent-terminal")


def test_the_terminal_on_a_phone(browser: Browser, web: WebServer) -> None:
    deploy(web, "hello")
    context = browser.new_context(viewport=SIZES["390"], has_touch=True, is_mobile=True)
    page = context.new_page()
    log_in(page, web)
    page.goto(f"{web.address}/agents/hello")
    page.get_by_role("tab", name="Terminal").click()
    screen = page.locator(".xterm")
    expect(screen).to_contain_text("agent@hello")

    [*_, shell] = [run for run in web.fake.execs.values() if run.body.get("interactive")]
    screen.tap()
    for name in ("Escape", "Tab", "Up", "Left"):
        page.get_by_role("button", name=name, exact=True).tap()
    ctrl = page.get_by_role("button", name="Control")
    ctrl.tap()
    expect(ctrl).to_have_attribute("aria-pressed", "true")
    page.keyboard.type("cc")  # the keyboard still types into the terminal
    expect(ctrl).to_have_attribute("aria-pressed", "false")
    expect(screen).to_contain_text("^[^I^[[A^[[D^Cc")
    page.screenshot(path=SHOTS / "agent-terminal-phone.png")
    check(page, "terminal on a phone")
    before = len(shell.resized)
    page.set_viewport_size({"width": 844, "height": 390})
    page.wait_for_timeout(600)
    assert len(shell.resized) > before
    context.close()


def test_snapshots_power_and_deleting_by_name(page: Page, web: WebServer, look: Look) -> None:
    deploy(web, "hello")
    page.goto(f"{web.address}/agents/hello")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".title")).to_contain_text("Stopped")
    page.get_by_role("button", name="Keep the state as it is now").click()
    expect(page.get_by_role("button", name="Restore")).to_be_visible()
    look("agent-snapshots")
    page.get_by_role("tab", name="About").click()
    page.get_by_role("button", name="Delete this agent").click()
    sheet = page.get_by_role("dialog")
    sheet.get_by_role("button", name="Delete for ever").click()
    expect(sheet).to_contain_text("That is not hello")
    sheet.get_by_label("Type hello to confirm").fill("hello")
    expect(sheet).not_to_contain_text("That is not hello")
    page.wait_for_timeout(300)
    look("agent-delete")
    sheet.get_by_role("button", name="Delete for ever").click()
    page.goto(web.address)
    expect(page.get_by_role("heading", name="No agent yet")).to_be_visible()


def test_upgrade_and_return(page: Page, web: WebServer, look: Look) -> None:
    deploy(web, "hello")

    def make_old() -> None:
        [instance] = web.fake.project().instances.values()
        instance.json["config"][VERSION_KEY] = "2020.1.1"

    web.change(make_old)
    page.goto(web.address)
    card = page.get_by_role("listitem").filter(has_text="hello")
    expect(card).to_contain_text("Update to")
    card.get_by_role("link").click()
    look("agent-upgrade")
    page.get_by_role("button", name="Upgrade to").click()
    page.get_by_role("button", name="Return to 2020.1.1").click()
    page.get_by_role("dialog").get_by_role("button", name="Return", exact=True).click()
    expect(page.get_by_role("button", name="Upgrade to")).to_be_visible()
    expect(page.locator(".title")).to_contain_text("Ready")


def test_images_jobs_host_and_nothing(page: Page, web: WebServer, look: Look) -> None:
    page.goto(f"{web.address}/jobs")
    expect(page.get_by_role("heading", name="No job yet")).to_be_visible()
    deploy(web, "hello")
    page.goto(f"{web.address}/images")
    expect(page.locator("section").filter(has_text="openclaw").first).to_contain_text("Ready")
    look("images")
    page.get_by_role("link", name="Jobs").click()
    page.get_by_role("link", name=re.compile("Deploy hello")).wait_for()
    look("jobs")
    page.get_by_role("link", name=re.compile("Deploy hello")).click()
    expect(page.get_by_role("list", name="Steps")).to_contain_text("wait until ready")
    look("job")
    page.get_by_role("link", name="Host").click()
    expect(page.get_by_text("Storage pool taos")).to_be_visible()
    look("host")
    page.get_by_role("button", name="Fix").click()  # of the token, which this server has not
    expect(page.get_by_role("heading", name="This host is ready for agents")).to_be_visible()
    assert (web.folder / "token").stat().st_mode & 0o777 == 0o600
    page.goto(f"{web.address}/nothing")
    expect(page.get_by_role("heading", name="There is no such page")).to_be_visible()
    page.goto(f"{web.address}/agents/nobody")
    expect(page.get_by_role("heading", name="There is no agent nobody")).to_be_visible()
    page.goto(f"{web.address}/jobs/none")
    expect(page.get_by_role("heading", name="There is no such job")).to_be_visible()


def test_an_image_is_fetched_paused_and_fetched_on(page: Page, web: WebServer, look: Look) -> None:
    web.change(lambda: setattr(web.mirror, "rate", 1 << 16))
    page.goto(f"{web.address}/images")
    card = page.locator("section").filter(has_text="openclaw").first
    expect(card).to_contain_text("Not on this host")
    expect(card).to_contain_text(re.compile(r"Packed\s*1\.0 MB"))  # the channel was asked
    look("images-absent")
    card.get_by_role("button", name="Download fast-deploy image").click()
    expect(card).to_contain_text("Downloading")
    expect(card).to_contain_text(re.compile(r"\d.* of \d.* [MkB]+"))
    expect(card).to_contain_text(re.compile(r"\d+ kB/s, about \d+ s left"))
    look("images-fetching")
    card.get_by_role("button", name="Pause").click()
    expect(card.get_by_role("button", name="Go on downloading")).to_be_visible()
    expect(card).to_contain_text(re.compile(r"\d.* of 1\.0 MB are here"))
    look("images-paused")
    [part] = (web.folder / "cache" / "images").glob("*.part")
    had = part.stat().st_size
    assert had
    web.change(lambda: setattr(web.mirror, "rate", 0))
    card.get_by_role("button", name="Go on downloading").click()
    expect(card).to_contain_text("Ready")
    assert "bytes=0-" not in web.mirror.requests[-1]  # it went on where it was
    card.get_by_role("button", name="Remove").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(card).to_contain_text("Not on this host")


def test_an_incus_that_is_away_is_said_on_every_page(page: Page, web: WebServer) -> None:
    web.do(web.lose_incus)
    try:
        for path in ("/", "/images", "/agents/hello"):
            page.goto(f"{web.address}{path}")
            expect(page.get_by_role("alert").first).to_contain_text("Incus cannot be reached")
        page.goto(f"{web.address}/host")
        expect(page.get_by_text("Incus does not answer").first).to_be_visible()
    finally:
        web.do(web.find_incus)


def test_logging_out_ends_other_tabs(page: Page, context: BrowserContext, web: WebServer) -> None:
    other = context.new_page()
    other.goto(web.address)
    other.get_by_role("heading", name="Agents", level=1).wait_for()
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url("**/login")
    other.wait_for_url("**/login")
    page.goto(f"{web.address}/host")
    page.wait_for_url("**/login?next=/host")
    page.get_by_label("Password").fill("wrong password")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_contain_text("not the password")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url("**/host")


def test_a_login_leads_to_what_was_wanted(
    page: Page, context: BrowserContext, web: WebServer
) -> None:
    context.clear_cookies()
    page.goto(f"{web.address}/?deploy=1")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("dialog")).to_contain_text("Deploy an agent")


def test_how_the_doors_look(
    page: Page, context: BrowserContext, web: WebServer, look: Look
) -> None:
    page.goto(f"{web.address}/nothing")
    expect(page.get_by_role("heading", name="There is no such page")).to_be_visible()
    look("nothing")
    context.clear_cookies()
    page.goto(f"{web.address}/login")
    page.get_by_label("Password").fill("wrong password")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_contain_text("not the password")
    look("login-wrong")
    page.goto(f"{web.address}/login")
    look("login")
    try:
        web.change(lambda: AccessTable(web.taos.database).drop_secret("password"))
        page.goto(f"{web.address}/setup")
        look("setup")

        async def code() -> SetupCode:
            return web.taos.access.new_code()

        page.goto(web.address + web.do(code).path)
        page.get_by_label("New password").fill("short")
        page.get_by_role("button", name="Set password").click()
        expect(page.get_by_role("alert")).to_contain_text("has 5 characters")
        look("setup-short")
    finally:
        web.do(lambda: web.taos.access.set_password(PASSWORD))


def test_how_a_failed_job_looks(page: Page, web: WebServer, look: Look) -> None:
    web.change(lambda: setattr(web.taos.builder, "fail", True))
    job = web.do(lambda: web.taos.deploy("hello"))
    log = "\n".join(f"12:00:{n:02} agent: Error: no such module /opt/agent/{n}" for n in range(20))
    error = Problem("not_ready", f"The agent ended at its start.\n{log}", "Run `taos doctor`.")
    web.change(lambda: JobTable(web.taos.database).save(replace(job, error=error)))
    page.goto(f"{web.address}/jobs/{job.id}")
    expect(page.get_by_role("alert")).to_contain_text("ended at its start")
    last = "(pre) => pre.scrollTop === 0 && pre.scrollHeight > pre.clientHeight"
    assert page.get_by_label("Last lines of the log").evaluate(
        last
    )  # 0 is the end of a reversed one
    look("job-failed")
    page.goto(f"{web.address}/agents/hello")
    expect(page.get_by_role("alert")).to_contain_text("ended at its start")
    look("agent-failed-log")


def test_how_an_agent_looks_that_is_not_ready(page: Page, web: WebServer, look: Look) -> None:
    deploy(web, "hello")
    page.goto(f"{web.address}/agents/hello")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".title")).to_contain_text("Stopped")
    go = web.fake.hold_next("PUT /1.0/instances/*/state")
    page.get_by_role("button", name="Start").click()
    expect(page.locator(".title")).to_contain_text("Starting")
    look("agent-starting")
    web.change(go.set)
    expect(page.locator(".title")).to_contain_text("Ready")
    become(web, 503)
    expect(page.locator(".title")).to_contain_text("Unhealthy")
    look("agent-unhealthy")
    page.goto(web.address)
    expect(page.get_by_role("listitem").last).to_contain_text("Unhealthy")
    look("agents-unhealthy")


def test_by_keyboard_alone(page: Page, web: WebServer) -> None:
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Deploy your first agent").focus()
    page.keyboard.press("Enter")
    sheet = page.get_by_role("dialog")
    page.wait_for_timeout(500)  # the dialog takes the focus when it has opened
    sheet.get_by_label("Name").focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("typed")
    sheet.get_by_role("button", name="Deploy", exact=True).focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/agents/typed")
    expect(page.locator(".title")).to_contain_text("Ready")
    page.get_by_role("tab", name="Log").focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.get_by_role("tab", name="About")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_role("button", name="Delete this agent")).to_be_visible()


def test_a_page_that_lies_still_asks_for_nothing(page: Page, web: WebServer) -> None:
    deploy(web, "hello")
    page.goto(web.address)
    expect(page.get_by_role("listitem").filter(has_text="hello")).to_contain_text("Ready")
    page.wait_for_timeout(1000)
    watched = Watched(page, web.address)
    page.wait_for_timeout(12_000)
    assert watched.requests == []


def test_a_name_that_nobody_chose_gets_a_page_that_says_so(
    browser: Browser, web: WebServer
) -> None:
    page = browser.new_page(viewport=SIZES["390"])
    answer = page.goto(web.address.replace("127.0.0.1", "other.localhost"))
    assert answer
    assert answer.status == 421
    heading = page.get_by_role("heading", name="does not answer under the name other.localhost")
    expect(heading).to_be_visible()
    page.screenshot(path=SHOTS / "other-name-390.png")
    check(page, "other name")
    page.get_by_role("link", name=web.address).click()
    expect(page.get_by_label("Password")).to_be_visible()
    page.close()


def test_the_session_is_kept_from_scripts_and_other_sites(
    context: BrowserContext, page: Page, web: WebServer
) -> None:
    [cookie] = [one for one in context.cookies() if one["name"] == "taos_session"]
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Strict"
    assert page.evaluate("document.cookie") == ""


def test_two_people_see_the_same(page: Page, context: BrowserContext, web: WebServer) -> None:
    other = context.new_page()
    log_in(other, web) if other.url.endswith("/login") else other.goto(web.address)
    deploy(web, "hello")
    for one in (page, other):
        expect(one.get_by_role("listitem").filter(has_text="hello")).to_contain_text("Ready")
