"""Doctor and setup on checks of our own making."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest

from tinyagentos.config import Settings
from tinyagentos.host.check import Check, Finding, Ground, Report, broken, fine, unseen, warning
from tinyagentos.host.checks import CHECKS
from tinyagentos.host.facts import HostFacts
from tinyagentos.host.setup import examine_host, mend_check, set_up_host
from tinyagentos.incus import IncusError, IncusUnreachable
from tinyagentos.model.errors import HostNotReady, NoSpace, Unauthorized

ROOT = HostFacts("debian", "bookworm", "x64", False, True, 8 << 30, 50 << 30, "ext4")
USER = dataclasses.replace(ROOT, is_root=False)


class Thing:
    """One thing on a host: not there until its fix makes it."""

    def __init__(self, name: str, log: list[str], *, mends: bool = True, there: bool = False):
        self.name, self.log, self.mends, self.there = name, log, mends, there

    async def look(self, _: Ground) -> Finding:
        return fine("there") if self.there else broken("not there", plan=f"make {self.name}")

    async def fix(self, _: Ground, __: Report) -> None:
        self.log.append(self.name)
        self.there = self.mends

    def check(self) -> Check:
        return Check(self.name, "it matters", self.look, self.fix)


def looking(look: object) -> Check:
    return Check("a", "it matters", look)  # type: ignore[arg-type] # a look of any kind


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path)


async def test_what_is_missing_is_made_in_order_and_only_once(settings: Settings) -> None:
    made: list[str] = []
    said: list[str] = []
    checks = [
        Thing("pool", made).check(),
        Thing("bridge", made, there=True).check(),
        Thing("project", made).check(),
    ]
    for plans in (("make pool", "make project"), ()):
        assert await set_up_host(settings, report=said.append, checks=checks, facts=ROOT) == plans
    assert made == ["pool", "project"]
    assert [line for line in said if line.endswith("…")] == ["make pool …", "make project …"]


async def test_a_dry_run_says_everything_and_changes_nothing(settings: Settings) -> None:
    made: list[str] = []
    said: list[str] = []
    checks = [Thing("pool", made).check(), Thing("project", made).check()]
    await set_up_host(settings, report=said.append, dry_run=True, checks=checks, facts=USER)
    assert (made, said) == ([], ["would make pool", "would make project"])


async def test_without_root_nothing_is_tried(settings: Settings) -> None:
    made: list[str] = []
    with pytest.raises(Unauthorized, match="To make pool needs root"):
        await set_up_host(
            settings, report=made.append, checks=[Thing("pool", made).check()], facts=USER
        )
    assert made == []


async def test_a_fix_that_does_not_help_is_said(settings: Settings) -> None:
    checks = [Thing("pool", [], mends=False).check(), Thing("project", []).check()]
    with pytest.raises(HostNotReady, match="Not there, although it was mended"):
        await set_up_host(settings, report=lambda _: None, checks=checks, facts=ROOT)


async def test_what_cannot_be_mended_stops_with_its_sentence(settings: Settings) -> None:
    async def look(_: Ground) -> Finding:
        raise NoSpace("The disk is full.", hint="Free some space.")

    with pytest.raises(HostNotReady, match=r"^The disk is full\.$") as error:
        await set_up_host(settings, report=lambda _: None, checks=[looking(look)], facts=ROOT)
    assert error.value.hint == "Free some space."


async def test_a_warning_is_said_and_does_not_stop(settings: Settings) -> None:
    async def look(_: Ground) -> Finding:
        return warning("slow pool", "Make another.")

    said: list[str] = []
    assert await set_up_host(settings, report=said.append, checks=[looking(look)], facts=ROOT) == ()
    assert said == ["warning: slow pool. Make another."]


async def test_the_doctor_looks_at_everything_at_once_and_each_look_ends(
    settings: Settings,
) -> None:
    both = asyncio.Barrier(2)

    async def meet(_: Ground) -> Finding:
        await both.wait()
        return fine("there")

    async def hang(_: Ground) -> Finding:
        await asyncio.Event().wait()
        return fine("never")

    checks = [looking(meet), looking(meet), looking(hang)]
    results = await examine_host(settings, checks, facts=USER, within=0.2)
    assert [one.finding.verdict for one in results] == ["ok", "ok", "fail"]
    assert "looking took longer" in results[2].finding.said


async def test_a_closed_file_is_said_and_not_traced(settings: Settings) -> None:
    async def look(_: Ground) -> Finding:
        raise PermissionError(13, "Permission denied", "/x/token")

    (result,) = await examine_host(settings, [looking(look)], facts=USER)
    assert result.finding.said == "you may not look at /x/token"


def test_a_silent_incus_is_not_repeated_with_every_check() -> None:
    silent = unseen(IncusUnreachable("Cannot connect to unix socket /x"), plan="make it")
    assert silent.said == "not known while Incus does not answer"
    assert unseen(IncusError("no such driver"), plan="").said == "Incus says: no such driver"


def test_every_check_says_why_it_matters() -> None:
    names = [check.name for check in CHECKS]
    assert names == [
        "packages", "incus", "pool", "network", "project", "profile", "token", "limits", "walls",
        "fixes",
    ]  # fmt: skip
    assert all(check.why for check in CHECKS)


async def test_one_check_is_mended_alone_and_by_root_only(settings: Settings) -> None:
    made: list[str] = []
    thing = Thing("a", made)
    with pytest.raises(Unauthorized):
        await mend_check(settings, thing.check(), facts=USER)
    await mend_check(settings, thing.check(), facts=ROOT)
    await mend_check(settings, thing.check(), facts=ROOT)
    assert made == ["a"]
    with pytest.raises(HostNotReady):
        await mend_check(settings, Thing("b", made, mends=False).check(), facts=ROOT)
