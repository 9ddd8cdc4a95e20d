"""Fixes on the host's page: once at a time, seen by all, and how they end."""

from __future__ import annotations

import asyncio

import pytest

from tinyagentos.app import explain
from tinyagentos.host.check import Check, Finding, Ground, Report, Verdict
from tinyagentos.model.errors import HostNotReady
from tinyagentos.web.fixes import WAITS, Fixes, FixRun
from tinyagentos.web.pages.host import render_fix


async def look(_: Ground) -> Finding:
    return Finding(Verdict.fail, "not there", plan="make it")


def check(name: str) -> Check:
    return Check(name, "it matters", look)


class Mending:
    """Mends when it may go on, and remembers what."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.go_on = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, check: Check, report: Report) -> None:
        self.begun.append(check.name)
        report(f"making {check.name} …")
        await self.go_on.wait()
        if self.error:
            raise self.error
        report("  done")


@pytest.fixture
def mending() -> Mending:
    return Mending()


@pytest.fixture
def fixes(mending: Mending) -> Fixes:
    return Fixes(mending, explain, clock=lambda: 7.0)


async def test_a_second_press_joins_the_first(fixes: Fixes, mending: Mending) -> None:
    seen: list[FixRun] = []
    end = fixes.listen(lambda: seen.append(fixes.runs["incus"]))
    first = asyncio.create_task(fixes.run(check("incus")))
    await asyncio.sleep(0)
    fixes.begin(check("incus"))
    await asyncio.sleep(0)
    assert mending.begun == ["incus"]
    assert seen[-1] == FixRun(7.0, ("making incus …",))
    mending.go_on.set()
    await first
    assert seen[-1] == FixRun(7.0, ("making incus …", "done"), is_running=False)
    end()
    count = len(seen)
    await fixes.run(check("incus"))
    assert len(seen) == count
    assert mending.begun == ["incus", "incus"], "afterwards it can be tried again"


async def test_two_fixes_do_not_run_into_each_other(fixes: Fixes, mending: Mending) -> None:
    runs = [asyncio.create_task(fixes.run(check(name))) for name in ("packages", "incus")]
    for _ in range(3):
        await asyncio.sleep(0)
    assert mending.begun == ["packages"]
    assert fixes.runs["incus"].lines == (WAITS,)
    mending.go_on.set()
    await asyncio.gather(*runs)
    assert mending.begun == ["packages", "incus"]


async def test_a_fix_that_did_not_work_says_why(fixes: Fixes, mending: Mending) -> None:
    mending.go_on.set()
    mending.error = HostNotReady("apt said no.", hint="Look at its log.")
    await fixes.run(check("packages"))
    run = fixes.runs["packages"]
    assert run.problem
    assert not run.is_running
    html = render_fix(run, 9.0)
    assert "apt said no." in html
    assert "Look at its log." in html
    mending.error = RuntimeError("secret")
    with pytest.raises(RuntimeError):
        await fixes.run(check("packages"))
    assert not fixes.runs["packages"].is_running
    assert "secret" not in render_fix(fixes.runs["packages"], 9.0)


def test_a_fix_under_way_shows_its_lines_and_counts() -> None:
    html = render_fix(FixRun(7.0, ("installing <incus> …",)), 75.0)
    assert 'data-seconds="68.0"' in html
    assert "installing &lt;incus&gt; …" in html
