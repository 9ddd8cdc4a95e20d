"""The pages with a real server process, real Incus and a real agent."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from bench.common import Server, incus, server
from bench.kill import wait_step
from bench.mirror import mirror
from bench.web import find_address
from tests.fakes.provider import KEY, FakeProvider, serving_provider
from tests.fakes.publisher import Publisher
from tests.web.conftest import SHOTS, check

pytestmark = [pytest.mark.e2e, pytest.mark.incus, pytest.mark.build]
PASSWORD = "a password of the test"
DEPLOYED_WITHIN = 400_000


# Bytes a second: slow enough to be paused on the way, quick enough for a test.
RATE = 30_000_000


@pytest.fixture(scope="module")
def publisher(tmp_path_factory: pytest.TempPathFactory) -> Publisher:
    """A channel without an image."""
    return Publisher(tmp_path_factory.mktemp("publisher"))


@pytest.fixture(scope="module")
def taos(publisher: Publisher) -> Iterator[Server]:
    """A running server with nothing in its project; its channel is a slow one."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with mirror(publisher.folder, RATE) as slow:
        channel = publisher.settings | {"TAOS_IMAGE_CHANNEL": slow.url}
        # The same port after a restart, so that an open page finds the server again.
        with server(TAOS_PORT=str(port), TAOS_IMAGE_POLICY="manual", **channel) as made:
            made.start()
            yield made


def test_from_the_first_visit_to_an_agent_and_its_end(
    taos: Server, browser: Browser, publisher: Publisher, tmp_path: Path
) -> None:
    address = find_address(taos)
    page = browser.new_context(
        viewport={"width": 1280, "height": 800}, reduced_motion="reduce"
    ).new_page()
    page.set_default_timeout(20_000)
    expect.set_options(timeout=20_000)
    first_visit(page, taos, address)
    with serving_provider(says=("Sparkling ", "pumpernickel")) as stub:
        models(page, stub)
        deploy(page, taos)
        chat(page)
        interface(page)
    agent(page, taos)
    weigh(page)
    publish(taos, publisher, tmp_path)
    download(page, taos)
    broken_deploy(page, taos)
    upgrade_and_return(page, taos)
    delete(page)
    page.context.close()


def first_visit(page: Page, taos: Server, address: str) -> None:
    """A stranger gets no further than the code; the machine's owner sets the password."""
    page.goto(address)
    page.wait_for_url("**/setup")
    page.get_by_label("Setup code").fill("guess-guess")
    page.get_by_label("New password").fill(PASSWORD)
    page.get_by_role("button").click()
    expect(page.get_by_role("alert")).to_contain_text("code is not right")
    code = taos.http.post("/api/web/setup-code").json()
    page.goto(address + code["path"])
    check(page, "setup")
    page.get_by_label("New password").fill(PASSWORD)
    page.get_by_role("button").click()
    expect(page.get_by_role("heading", name="No agent yet")).to_be_visible()


def deploy(page: Page, taos: Server) -> None:
    """By the dialog; the page watches over the server's death until the agent itself answers."""
    page.get_by_role("button", name="Deploy your first agent").click()
    page.wait_for_timeout(500)
    page.get_by_role("dialog").get_by_role("button", name="Deploy", exact=True).click()
    page.wait_for_url("**/agents/hello")
    steps = page.get_by_role("list", name="Steps")
    expect(steps).to_contain_text("running")
    shot(page, "real-deploying")
    taos.kill()
    taos.start()
    # Nobody touches the page: it finds the new server by itself.
    expect(page.get_by_text("Attempt 2")).to_be_visible(timeout=60_000)
    expect(page.locator(".title")).to_contain_text("Ready", timeout=DEPLOYED_WITHIN)


def models(page: Page, stub: FakeProvider) -> None:
    """A provider, which is asked at once."""
    page.get_by_role("link", name="Models").click()
    page.get_by_role("button", name="Add a provider").click()
    page.wait_for_timeout(500)
    sheet = page.get_by_role("dialog")
    sheet.get_by_text("OpenAI or alike").click()
    sheet.get_by_label("Address", exact=True).fill(stub.url)
    sheet.get_by_label("Key", exact=True).fill(KEY)
    sheet.get_by_role("button", name="Save and test").click()
    expect(page.get_by_role("region", name="openai")).to_contain_text("small")
    page.get_by_role("link", name="Agents").first.click()


def chat(page: Page) -> None:
    """A question, and the real agent's answer with the model's words."""
    box = page.get_by_label("Say something to hello")
    box.fill("What do you say?")
    box.press("Enter")
    log = page.get_by_role("log", name="Conversation")
    expect(log).to_contain_text("Sparkling pumpernickel", timeout=60_000)
    shot(page, "real-chat")


def interface(page: Page) -> None:
    """The agent's own pages, connected; what is typed there is answered. Not without a session."""
    with page.expect_popup() as opened:
        page.get_by_role("link", name="Its own interface").click()
    own = opened.value
    own.set_default_timeout(60_000)
    expect(own.get_by_text("Connected").first).to_be_visible(timeout=60_000)
    own.locator("textarea").first.fill("And here?")
    own.locator("textarea").first.press("Enter")
    expect(own.get_by_text("Sparkling pumpernickel").last).to_be_visible(timeout=60_000)
    shot(own, "real-interface")
    stranger = page.context.browser.new_context().new_page()  # type: ignore[union-attr]
    answer = stranger.goto(own.url.partition("#")[0])
    assert answer
    assert answer.status == 401
    stranger.context.close()
    own.close()


def agent(page: Page, taos: Server) -> None:
    """Its log and a shell in it; a stop and a start."""
    page.get_by_role("tab", name="Log").click()
    expect(page.get_by_role("log")).to_contain_text(re.compile(r"\w+"))
    say_in_log(taos, "what the agent says later")
    expect(page.get_by_role("log")).to_contain_text("what the agent says later")
    page.get_by_role("tab", name="Terminal").click()
    screen = page.locator(".xterm")
    expect(screen).to_contain_text("$")
    screen.click()
    page.keyboard.type("id -un; echo $((6*7))\n")
    expect(screen).to_contain_text("agent")
    expect(screen).to_contain_text("42")
    shot(page, "real-terminal")
    page.get_by_role("link", name="Agents").first.click()
    card = page.get_by_role("listitem").filter(has_text="hello")
    expect(card).to_contain_text("Ready")
    expect(card).to_contain_text(re.compile(r"Memory, caches\s*[\d.]+ (MiB )?of"))
    shot(page, "real-agents")
    card.get_by_role("link").click()
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".title")).to_contain_text("Stopped", timeout=60_000)
    page.get_by_role("button", name="Keep the state as it is now").click()
    expect(page.get_by_role("button", name="Restore")).to_be_visible()


def weigh(page: Page) -> None:
    """What the image kept of the build is made of."""
    page.get_by_role("link", name="Images").click()
    page.get_by_role("button", name="What is in it").click()
    page.get_by_text("What is in it:").click(timeout=DEPLOYED_WITHIN)
    expect(page.get_by_role("cell", name="openclaw").first).to_be_visible()
    page.get_by_role("img").last.scroll_into_view_if_needed()
    shot(page, "real-weight")
    page.go_back()


def instance_of(taos: Server, name: str) -> str:
    return str(taos.http.get(f"/api/agents/{name}").json()["instance"])


def say_in_log(taos: Server, text: str) -> None:
    """Write a line about the agent's unit, as root may (systemd.journal-fields(7))."""
    fields = f"MESSAGE={text}\nOBJECT_SYSTEMD_UNIT=agent.service\n"
    incus("exec", instance_of(taos, "hello"), "--", "logger", "--journald",
          project=taos.project, stdin=fields.encode())  # fmt: skip


def publish(taos: Server, publisher: Publisher, folder: Path) -> None:
    """Release the image that was kept of the build, as a maintainer would."""
    alias = "openclaw/x64"
    listed = incus("image", "list", alias, "--format", "json", project=taos.project)
    [held] = json.loads(listed)
    incus("image", "export", held["fingerprint"], str(folder / "image"), project=taos.project)
    [file] = folder.glob("image*")
    version = held["properties"]["taos.version"]
    assert publisher.release(file.read_bytes(), version) == held["fingerprint"]


def download(page: Page, taos: Server) -> None:
    """The image is fetched from a slow mirror, paused, and fetched on from where it was."""
    page.get_by_role("link", name="Images").click()
    card = page.locator("section").filter(has_text="openclaw").first
    card.get_by_role("button", name="Remove").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(card).to_contain_text("Not on this host")
    card.get_by_role("button", name="Download fast-deploy image").click()
    expect(card).to_contain_text(re.compile(r"[\d.]+ MB of [\d.]+ MB"))
    shot(page, "real-fetching")
    card.get_by_role("button", name="Pause").click()
    go_on = card.get_by_role("button", name="Go on downloading")
    expect(go_on).to_be_visible()
    [part] = (taos.folder / "data" / "cache" / "images").glob("*.part")
    assert part.stat().st_size > 0
    shot(page, "real-paused")
    go_on.click()
    expect(card).to_contain_text("Ready", timeout=120_000)
    assert not part.exists()


def broken_deploy(page: Page, taos: Server) -> None:
    """An agent that cannot start is said to have failed, with its log; tried again it works."""
    page.get_by_role("link", name="Agents").first.click()
    page.get_by_role("button", name="Deploy an agent").click()
    page.wait_for_timeout(500)
    sheet = page.get_by_role("dialog")
    sheet.get_by_label("Name").fill("second")
    sheet.get_by_role("button", name="Deploy", exact=True).click()
    page.wait_for_url("**/agents/second")
    job = next(one for one in taos.http.get("/api/jobs").json() if one["subject"] == "agent:second")
    wait_step(taos, job["id"], "wait until ready")
    incus("exec", instance_of(taos, "second"), "--", "sh", "-c",
          "mv /opt/openclaw/node_modules/openclaw/dist /opt && systemctl restart agent.service",
          project=taos.project)  # fmt: skip
    work = page.get_by_role("region", name="Work on this agent")
    expect(work).to_contain_text("ends right after its start", timeout=120_000)
    expect(work.get_by_label("Last lines of the log")).to_contain_text(re.compile(r"\w+"))
    shot(page, "real-failed")
    page.get_by_role("button", name="Retry").click()
    expect(page.locator(".title")).to_contain_text("Ready", timeout=DEPLOYED_WITHIN)
    taos.delete("second")


def upgrade_and_return(page: Page, taos: Server) -> None:
    """An agent of an older version gets the newest one, and returns."""
    incus("config", "set", instance_of(taos, "hello"), "user.taos.version=2020.1.1",
          project=taos.project)  # fmt: skip
    page.get_by_role("link", name="Agents").first.click()
    card = page.get_by_role("listitem").filter(has_text="hello")
    expect(card).to_contain_text("Update to")
    card.get_by_role("link").first.click()
    page.get_by_role("button", name="Upgrade to").click()
    back = page.get_by_role("button", name="Return to 2020.1.1")
    expect(back).to_be_visible(timeout=120_000)
    shot(page, "real-upgraded")
    back.click()
    page.get_by_role("dialog").get_by_role("button", name="Return", exact=True).click()
    expect(page.get_by_role("button", name="Upgrade to")).to_be_visible(timeout=120_000)


def delete(page: Page) -> None:
    """By its name; then the page leads on again."""
    page.get_by_role("tab", name="About").click()
    page.get_by_role("button", name="Delete this agent").click()
    page.wait_for_timeout(500)
    page.get_by_label("Type hello to confirm").fill("hello")
    page.get_by_role("button", name="Delete for ever").click()
    expect(page.get_by_text("Delete hello")).to_be_visible()
    page.get_by_role("link", name="Agents").first.click()
    expect(page.get_by_role("heading", name="No agent yet")).to_be_visible(timeout=60_000)


def shot(page: Page, name: str) -> None:
    """Keep how it looks."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.wait_for_timeout(300)
    page.screenshot(path=SHOTS / f"{name}.png")
