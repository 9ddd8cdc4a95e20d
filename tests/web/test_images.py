"""The images' page: what came is discarded, policies are compared, what cannot be says why."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.web.conftest import Look
from tests.web.test_pages import deploy
from tests.web.world import WebServer
from tinyagentos.images.download import FETCHED
from tinyagentos.model.image import ImagePolicy

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("clean")]
DOWNLOAD = "Download fast-deploy image"


def card_of(page: Page, web: WebServer) -> Locator:
    """OpenClaw's card, on a page that was just opened."""
    page.goto(f"{web.address}/images")
    return page.get_by_role("region", name="openclaw/x64")


def parts(web: WebServer) -> list[Path]:
    return list((web.folder / "cache" / "images").glob("*.part"))


def policy_of(web: WebServer) -> Callable[[], Awaitable[str]]:
    async def read() -> str:
        return web.taos.images.policy

    return read


def begin(card: Locator, web: WebServer) -> None:
    """A download of which some parts have come whole."""
    web.change(lambda: setattr(web.mirror, "rate", 1 << 16))
    card.get_by_role("button", name=DOWNLOAD).click()
    expect(card).to_contain_text(re.compile(r"\d{3} kB of 1\.0 MB"))


def test_cancelling_a_download_removes_what_came(page: Page, web: WebServer) -> None:
    card = card_of(page, web)
    begin(card, web)
    expect(card).to_contain_text("Pause keeps what has come, Cancel removes it.")
    assert parts(web)
    card.get_by_role("button", name="Cancel").click()
    expect(card.get_by_role("button", name=DOWNLOAD)).to_be_visible()
    assert parts(web) == []


def test_what_a_pause_kept_can_be_discarded(page: Page, web: WebServer) -> None:
    card = card_of(page, web)
    begin(card, web)
    card.get_by_role("button", name="Pause").click()
    expect(card).to_contain_text(re.compile(r"\d.* of 1\.0 MB are here"))
    page.reload()
    expect(card.get_by_role("button", name="Go on downloading")).to_be_visible()
    card.get_by_role("button", name="Discard").click()
    expect(card.get_by_role("button", name=DOWNLOAD)).to_be_visible()
    expect(card).to_contain_text("Its download was stopped; it goes on when you ask.")
    assert parts(web) == []


def test_every_policy_stands_with_its_price_and_this_hosts_numbers(
    page: Page, web: WebServer
) -> None:
    now = web.taos.host.now()
    web.change(lambda: web.taos.host.timings.add(FETCHED, "x/x64", 10.0, now, 400_000))
    web.change(lambda: web.taos.host.timings.add("deploy.build", "openclaw/x64", 45.0, now))
    card_of(page, web)
    policy = page.get_by_role("region", name="Policy")
    expect(policy.get_by_role("radio")).to_have_count(len(ImagePolicy))
    expect(policy).to_contain_text("nothing comes that nobody uses, but")
    expect(policy).to_contain_text(re.compile(r"OpenClaw: 1\.0 MB image; download about 2\d s"))
    expect(policy).to_contain_text("build about 45 s")
    expect(policy).to_contain_text(
        re.compile(r"OpenCode: image of at most 115 MB; how long its download takes is not known")
    )
    expect(policy.get_by_role("radio", name="Manual")).to_be_checked()
    policy.get_by_role("radio", name="Manual").focus()
    page.keyboard.press("ArrowUp")
    expect(policy.get_by_role("radio", name="Background")).to_be_checked()
    assert web.do(policy_of(web)) == "manual", "passing over one fetches nothing"
    page.keyboard.press("ArrowUp")
    policy.get_by_role("button", name="Use this policy").click()
    expect(page.locator(".note-ok")).to_contain_text("lazy from now on")
    assert web.do(policy_of(web)) == "lazy"


@pytest.mark.parametrize("why", ["no channel", "policy off"])
def test_a_button_that_cannot_fetch_stays_and_says_why(
    page: Page, web: WebServer, look: Look, why: str
) -> None:
    if why == "no channel":
        web.change(web.lose_channel)
    else:
        web.change(lambda: web.taos.images.choose_policy(ImagePolicy.off))
    card = card_of(page, web)
    button = card.get_by_role("button", name=DOWNLOAD)
    expect(button).to_have_attribute("aria-disabled", "true")
    said = {"no channel": "none is configured", "policy off": "The policy is off"}[why]
    expect(button).to_have_accessible_description(re.compile(said))
    button.click(force=True)
    assert web.taos.runner.list_active() == ()
    if why == "no channel":
        look("images-no-channel")
        card.get_by_role("link", name="How to set a channel").click()
        expect(page.get_by_role("heading", name="How to set a channel")).to_be_in_viewport()
        expect(page.get_by_text("image_channel =")).to_be_visible()


def test_the_history_grows_when_a_deploy_ends(page: Page, web: WebServer) -> None:
    card_of(page, web)
    expect(page.get_by_role("heading", name="When images are fetched")).to_be_visible()
    assert page.get_by_role("heading", name="How long deploys took").count() == 0
    deploy(web, "hello")
    history = page.locator("section", has=page.get_by_role("heading", name="How long deploys"))
    expect(history).to_contain_text("openclaw, built")
    expect(page.get_by_role("region", name="openclaw/x64")).to_contain_text(
        "made by a deploy on this host"
    )
