"""Changing an agent while it lives: limits, title, backups, when it runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.world import Taos, with_image
from tests.fakes.fake_incus import FakeExec, FakeIncus
from tests.fakes.fake_parts import OnExec
from tinyagentos.agents.settings import APPLY, Keys, check_use
from tinyagentos.agents.shell import Shells
from tinyagentos.incus import InstanceState
from tinyagentos.model.agent import MIB, AgentChange, AgentState, SnapshotSchedule, parse_since
from tinyagentos.model.errors import Conflict, InvalidInput, NotFound
from tinyagentos.model.job import Job, JobState

EVERYTHING = AgentChange(
    memory_bytes=512 * MIB, cpus=3, disk_bytes=4096 * MIB, title="Grandma's helper",
    autostart=False, idle_stop_minutes=30, snapshots=SnapshotSchedule.daily,
)  # fmt: skip


@pytest.fixture
async def hello(folder: Path, fake: FakeIncus) -> AsyncIterator[Taos]:
    """A server with an agent."""
    with_image(fake)
    made = Taos(folder, fake).start()
    assert (await made.deploy("hello")).state is JobState.succeeded
    yield made
    await made.close()


async def change(taos: Taos, wanted: AgentChange) -> Job:
    job = await taos.agents.start_change("hello", wanted)
    return await taos.runner.wait_job(job.id)


async def seen(taos: Taos) -> dict[str, Any]:
    agent = await taos.agents.get_agent("hello")
    return taos.fake.project().instances[agent.instance].json


async def test_everything_at_once_and_back(hello: Taos) -> None:
    assert (await change(hello, EVERYTHING)).state is JobState.succeeded
    agent = await hello.agents.get_agent("hello")
    assert agent.state is AgentState.ready
    assert (agent.memory_bytes, agent.cpus, agent.disk_bytes) == (512 * MIB, 3, 4096 * MIB)
    assert (agent.title, agent.autostart) == ("Grandma's helper", False)
    assert agent.idle_stop_minutes == 30
    assert await hello.agents.get_schedule("hello") is SnapshotSchedule.daily
    [volume] = hello.fake.project().volumes.values()
    assert volume["config"]["snapshots.expiry"] == "2w"
    instance = await seen(hello)
    assert instance["devices"]["root"]["path"] == "/"
    back = AgentChange(
        cpus=0, title="", autostart=True, idle_stop_minutes=0, snapshots=SnapshotSchedule.off
    )
    assert (await change(hello, back)).state is JobState.succeeded
    agent = await hello.agents.get_agent("hello")
    assert (agent.cpus, agent.title, agent.autostart, agent.idle_stop_minutes) == (0, "", True, 0)
    assert await hello.agents.get_schedule("hello") is SnapshotSchedule.off
    assert agent.memory_bytes == 512 * MIB


async def test_a_crash_in_the_middle_changes_nothing_about_the_end(
    hello: Taos, folder: Path, fake: FakeIncus
) -> None:
    job = await hello.agents.start_change("hello", EVERYTHING)
    await hello.until(job.id, APPLY)
    await hello.die()
    second = Taos(folder, fake).start()
    assert (await second.runner.wait_job(job.id)).state is JobState.succeeded
    assert (await second.agents.get_agent("hello")).cpus == 3
    await second.close()


async def test_a_cancelled_change_is_taken_back(hello: Taos) -> None:
    before = (await seen(hello))["config"].copy()
    job = await hello.agents.start_change("hello", EVERYTHING)
    hello.runner.cancel_job(job.id)
    assert (await hello.runner.wait_job(job.id)).state is JobState.cancelled
    assert (await seen(hello))["config"] == before
    assert await hello.agents.get_schedule("hello") is SnapshotSchedule.off


async def test_an_upgrade_keeps_what_was_changed(hello: Taos) -> None:
    await change(hello, EVERYTHING)
    (await seen(hello))["config"]["user.taos.version"] = "0"
    job = await hello.agents.start_upgrade("hello")
    assert (await hello.runner.wait_job(job.id)).state is JobState.succeeded
    agent = await hello.agents.get_agent("hello")
    assert (agent.title, agent.cpus, agent.idle_stop_minutes) == ("Grandma's helper", 3, 30)
    assert await hello.agents.get_schedule("hello") is SnapshotSchedule.daily


@pytest.mark.parametrize(
    "wrong",
    [
        AgentChange(),
        AgentChange(memory_bytes=1),
        AgentChange(disk_bytes=1),
        AgentChange(state_bytes=1),
        AgentChange(cpus=-1),
        AgentChange(title="a\nb"),
        AgentChange(title="x" * 61),
        AgentChange(idle_stop_minutes=10**9),
    ],
)
async def test_what_cannot_be_set(hello: Taos, wrong: AgentChange) -> None:
    with pytest.raises(InvalidInput):
        await hello.agents.start_change("hello", wrong)


async def test_nobodys_settings(hello: Taos) -> None:
    with pytest.raises(NotFound):
        await hello.agents.start_change("nobody", EVERYTHING)


async def test_a_pool_without_quotas_says_so(hello: Taos) -> None:
    hello.fake.pools["taos"]["driver"] = "dir"
    with pytest.raises(Conflict, match="cannot limit"):
        await hello.agents.start_change("hello", AgentChange(disk_bytes=4096 * MIB))


def test_keys_are_read_as_they_were_written() -> None:
    keys = Keys({"a": "1"}, {"size": ""}, {"snapshots.schedule": "@daily"})
    assert Keys.from_text(keys.to_text()) == keys


async def test_an_idle_agent_is_stopped_when_its_time_is_up(hello: Taos) -> None:
    await change(hello, AgentChange(idle_stop_minutes=30))
    now = datetime.now(UTC)
    instance = await seen(hello)
    instance["last_used_at"] = (now - timedelta(hours=5)).isoformat()

    async def stopped_at(now: datetime, last: datetime | None) -> bool:
        object.__setattr__(hello.host, "now", lambda: now)
        await hello.agents.stop_idle(lambda _: last)
        await hello.idle()
        return (await hello.agents.get_agent("hello")).state is AgentState.stopped

    later = now + timedelta(minutes=60)
    assert not await stopped_at(now + timedelta(minutes=29), None)
    assert not await stopped_at(later, later - timedelta(minutes=10))
    assert await stopped_at(later, later - timedelta(minutes=31))


async def test_an_agent_that_somebody_is_at_is_not_idle(hello: Taos) -> None:
    await change(hello, AgentChange(idle_stop_minutes=30))
    instance = (await hello.agents.get_agent("hello")).instance
    hello.fake.on_exec = wait_for_typing

    async def state_after(later: timedelta) -> AgentState:
        hello.later = later
        object.__setattr__(hello.host, "now", lambda: datetime.now(UTC) + later)
        await hello.agents.stop_idle(lambda _: None)
        await hello.idle()
        return (await hello.agents.get_agent("hello")).state

    async with Shells(hello.host).open("hello"):
        assert await state_after(timedelta(minutes=300)) is AgentState.ready
    assert await state_after(timedelta(minutes=325)) is AgentState.ready
    with hello.host.uses.using(instance), hello.host.uses.using(instance):
        pass
    assert await state_after(timedelta(minutes=354)) is AgentState.ready
    assert await state_after(timedelta(minutes=356)) is AgentState.stopped


async def wait_for_typing(run: FakeExec) -> int:
    await run.stdin.get()
    return 0


async def test_an_agent_without_that_option_is_left_alone(hello: Taos) -> None:
    object.__setattr__(hello.host, "now", lambda: datetime.now(UTC) + timedelta(days=900))
    await hello.agents.stop_idle(lambda _: None)
    await hello.idle()
    assert (await hello.agents.get_agent("hello")).state is AgentState.ready


def test_times_of_logs() -> None:
    now = datetime(2026, 5, 17, 12, tzinfo=UTC)
    assert parse_since("90s", now) == now - timedelta(seconds=90)
    assert parse_since("2h", now) == now - timedelta(hours=2)
    assert parse_since("2026-05-17T08:00+00:00", now) == now - timedelta(hours=4)
    for wrong in ("", "yesterday", "10", "-5m", "1w", "99999999999d", "9999999d; rm", "@1"):
        with pytest.raises(InvalidInput):
            parse_since(wrong, now)


async def test_no_limit_below_what_the_agent_takes(hello: Taos) -> None:
    # btrfs counts the image's part of the root, too: below it not even the limit can be changed.
    with pytest.raises(Conflict, match="MiB of disk"):
        await hello.agents.start_change("hello", AgentChange(disk_bytes=700 * MIB))


async def test_the_state_has_a_limit_from_the_start_that_can_be_changed(hello: Taos) -> None:
    [volume] = hello.fake.project().volumes.values()
    assert volume["config"]["size"] == str(10240 * MIB)
    assert await hello.agents.get_state_bytes("hello") == 10240 * MIB
    wanted = AgentChange(state_bytes=20480 * MIB, snapshots=SnapshotSchedule.daily)
    assert (await change(hello, wanted)).state is JobState.succeeded
    assert await hello.agents.get_state_bytes("hello") == 20480 * MIB
    assert await hello.agents.get_schedule("hello") is SnapshotSchedule.daily
    [volume] = hello.fake.project().volumes.values()
    assert volume["config"]["user.taos.agent"] == "hello"


async def test_no_limit_below_what_the_state_holds(hello: Taos) -> None:
    [volume] = hello.fake.project().volumes.values()
    volume["used"] = 1000 * MIB
    with pytest.raises(Conflict, match="1250 MiB"):
        await hello.agents.start_change("hello", AgentChange(state_bytes=1200 * MIB))
    assert (await change(hello, AgentChange(state_bytes=1250 * MIB))).state is JobState.succeeded
    # With a snapshot nobody knows what it holds, but its limit.
    job = await hello.agents.start_snapshot("hello")
    await hello.runner.wait_job(job.id)
    [volume] = hello.fake.project().volumes.values()
    volume["used"] = 0
    with pytest.raises(Conflict, match="up to 1250 MiB"):
        await hello.agents.start_change("hello", AgentChange(state_bytes=1249 * MIB))
    assert (await change(hello, AgentChange(state_bytes=1251 * MIB))).state is JobState.succeeded
    [volume] = hello.fake.project().volumes.values()
    del volume["config"]["size"]
    with pytest.raises(Conflict, match="not known"):
        await hello.agents.start_change("hello", AgentChange(state_bytes=4096 * MIB))


async def test_a_limit_that_turns_out_too_low_is_told_and_the_old_one_can_be_set_again(
    hello: Taos,
) -> None:
    written: list[str] = []
    hello.fake.on_exec = noting(written)
    said = "Failed to run: btrfs qgroup limit: ERROR: Disk quota exceeded"
    hello.fake.fail_next("PUT /1.0/storage-pools/*", 500, said)
    job = await change(hello, AgentChange(state_bytes=2048 * MIB))
    assert job.error
    assert (job.state, job.error.code) == (JobState.failed, "conflict")
    assert written == ["sync"]  # what was written is counted before anything is decided
    asked = len(hello.fake.calls)
    assert (await change(hello, AgentChange(state_bytes=10240 * MIB))).state is JobState.succeeded
    # Incus would do nothing about a size that it has already.
    assert sum(one.startswith("PUT") for one in hello.fake.calls[asked:]) == 2
    assert await hello.agents.get_state_bytes("hello") == 10240 * MIB


def noting(heard: list[str]) -> OnExec:
    async def note(run: FakeExec) -> int:
        heard.extend(run.argv)
        return 0

    return note


async def test_a_pool_without_quotas_has_no_limit_for_states(folder: Path, fake: FakeIncus) -> None:
    with_image(fake)
    fake.pools["taos"]["driver"] = "dir"
    taos = Taos(folder, fake).start()
    await taos.deploy("hello")
    [volume] = fake.project().volumes.values()
    assert "size" not in volume["config"]
    assert await taos.agents.get_state_bytes("hello") is None
    with pytest.raises(Conflict, match="cannot limit"):
        await taos.agents.start_change("hello", AgentChange(state_bytes=4096 * MIB))
    await taos.close()


def test_no_memory_below_what_the_agent_takes() -> None:
    seen = {"status": "Running", "memory": {"usage": 900 * MIB}, "disk": {"root": {"usage": MIB}}}
    state = InstanceState.parse(seen)
    check_use(AgentChange(memory_bytes=901 * MIB, disk_bytes=101 * MIB), state, 100 * MIB)
    with pytest.raises(Conflict, match="900 MiB of memory"):
        check_use(AgentChange(memory_bytes=500 * MIB), state, 100 * MIB)
    with pytest.raises(Conflict, match="101 MiB of disk"):
        check_use(AgentChange(disk_bytes=100 * MIB), state, 100 * MIB)
