"""An agent in one file: written, checked, taken in again."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import random
import stat
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.deploy.world import GIB, Taos, left_over, with_image
from tests.fakes.backup import entry, pack_volume
from tests.fakes.fake_incus import FakeIncus
from tests.fakes.fake_parts import FakeExec
from tinyagentos import wire
from tinyagentos.agents.bundle import AGENT_FILE, EXPORT_STEPS, GIVE, IMPORT_STEPS, STATE_FILE
from tinyagentos.agents.bundle import read_carried as read
from tinyagentos.agents.state_archive import Tally
from tinyagentos.model.agent import (
    MIB,
    AgentChange,
    AgentSpec,
    AgentState,
    ImportChoice,
    SnapshotSchedule,
)
from tinyagentos.model.errors import Conflict, InvalidInput, NoSpace, NotFound, TaosError, Untrusted
from tinyagentos.model.job import JobState


async def exported(folder: Path, fake: FakeIncus) -> tuple[Taos, Path]:
    """A server with an agent `old` that was set otherwise, and the file it was written into."""
    with_image(fake)
    taos = Taos(folder, fake).start()
    await taos.deploy("old", network="none", memory_bytes=999 * MIB, model="stub/large")
    [volume] = fake.project().volumes.values()
    volume["config"] |= {"user.test": "mine", "volatile.idmap.last": "[]"}
    to = folder / "old.taos"
    job = await taos.agents.start_export_agent("old", to)
    ended = await taos.runner.wait_job(job.id)
    assert ended.state is JobState.succeeded, ended.error
    return taos, to


async def test_the_file_tells_all_and_is_nobody_elses(folder: Path, fake: FakeIncus) -> None:
    taos, file = await exported(folder, fake)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with tarfile.open(file) as tar:
        assert tar.getnames() == [STATE_FILE, AGENT_FILE]
        state = tar.extractfile(STATE_FILE)
        assert state
        assert b"mine" in gzip.decompress(state.read())
    carried = read(file)
    assert (carried.agent.name, carried.agent.network) == ("old", "none")
    assert (carried.agent.memory_bytes, carried.agent.model) == (999 * MIB, "stub/large")
    assert len(fake.project().volumes) == 1
    assert [one.name for one in folder.glob(".*")] == []
    with pytest.raises(Conflict):
        await taos.agents.start_export_agent("old", file)
    with pytest.raises(NotFound):
        await taos.agents.start_export_agent("nobody", folder / "x")
    with pytest.raises(InvalidInput):
        await taos.agents.start_export_agent("old", folder / "no" / "folder")
    await taos.close()


async def test_the_state_is_copied_while_the_agent_rests(folder: Path, fake: FakeIncus) -> None:
    taos, _ = await exported(folder, fake)
    seen: list[str] = []

    async def note(run: FakeExec) -> int:
        copies = sum("-export-" in name for _, name in fake.project().volumes)
        seen.append(f"{run.argv[1]} with {copies} copies")
        return 0

    fake.on_exec = note
    job = await taos.agents.start_export_agent("old", folder / "again.taos")
    assert (await taos.runner.wait_job(job.id)).state is JobState.succeeded
    assert seen == ["stop with 0 copies", "start with 1 copies"]
    await taos.close()


@pytest.mark.parametrize("step", EXPORT_STEPS)
async def test_an_export_survives_a_crash(step: str, folder: Path, fake: FakeIncus) -> None:
    taos, file = await exported(folder, fake)
    job = await taos.agents.start_export_agent("old", folder / "again.taos")
    await taos.until(job.id, step)
    await taos.die()
    second = Taos(folder, fake).start()
    assert (await second.runner.wait_job(job.id)).state is JobState.succeeded
    assert read(folder / "again.taos").sha256 == read(file).sha256
    assert len(fake.project().volumes) == 1
    assert [one.name for one in folder.glob(".*")] == []
    await second.close()


@pytest.mark.parametrize("step", EXPORT_STEPS)
async def test_a_cancelled_export_leaves_nothing(step: str, folder: Path, fake: FakeIncus) -> None:
    taos, _ = await exported(folder, fake)
    job = await taos.agents.start_export_agent("old", folder / "again.taos")
    await taos.until(job.id, step)
    taos.runner.cancel_job(job.id)
    ended = await taos.runner.wait_job(job.id)
    assert ended.state in (JobState.cancelled, JobState.succeeded)
    assert len(fake.project().volumes) == 1
    assert (folder / "again.taos").exists() == (ended.state is JobState.succeeded)
    assert [one.name for one in folder.glob(".*")] == []
    await taos.close()


@pytest.mark.parametrize("step", ["", *IMPORT_STEPS])
async def test_taken_in_and_deployed_on_a_host_that_knew_nothing(
    step: str, folder: Path, fake: FakeIncus
) -> None:
    taos, file = await exported(folder, fake)
    await taos.runner.wait_job((await taos.agents.start_delete("old")).id)
    job, spec = await taos.agents.start_import_agent(file, ImportChoice())
    if step:
        await taos.until(job.id, step)
        await taos.die()
        taos = Taos(folder, fake).start()
    ended = await taos.runner.wait_job(job.id)
    assert ended.state is JobState.succeeded, ended.error
    [kept] = await taos.agents.list_kept()
    assert (kept.agent, kept.framework, kept.name) == ("old", "openclaw", spec.state_of)
    [volume] = fake.project().volumes.values()
    assert volume["config"]["volatile.idmap.last"] == "[]"
    assert "user.test" not in volume["config"]  # what a foreign file says means nothing here
    deployed = await taos.runner.wait_job((await taos.agents.start_deploy(spec)).id)
    assert deployed.state is JobState.succeeded, deployed.error
    agent = await taos.agents.get_agent("old")
    assert (agent.state, agent.network, agent.memory_bytes) == (
        AgentState.ready, "none", 999 * MIB,
    )  # fmt: skip
    await taos.close()


def rewritten(file: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The file with another description."""
    with tarfile.open(file) as tar:
        members = {one.name: tar.extractfile(one).read() for one in tar}  # type: ignore[union-attr]
    told = json.loads(members[AGENT_FILE])
    del told["checksum"]  # as in a file from before there was one
    change(told)
    return written(
        file.with_name("changed.taos"), members | {AGENT_FILE: json.dumps(told).encode()}
    )


def written(file: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(file, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file


EVERYTHING = AgentSpec(
    "old", model="stub/large", fallbacks=("stub/small", "other/x"), monthly_tokens=5000,
    memory_bytes=999 * MIB, cpus=2, disk_bytes=20 * GIB, state_bytes=30 * GIB,
    network="lan:192.168.9.0/24", nesting=True, title="Grandma's helper", autostart=False,
    idle_stop_minutes=45, snapshots=SnapshotSchedule.daily,
)  # fmt: skip


async def test_all_that_was_set_is_carried(folder: Path, fake: FakeIncus) -> None:
    with_image(fake)
    taos = Taos(folder, fake).start()
    given = {key: value for key, value in vars(EVERYTHING).items() if key != "name"}
    assert (await taos.deploy("old", **given)).state is JobState.succeeded
    before = await taos.agents.get_agent("old")
    config = fake.project().instances[before.instance].json["config"]
    assert config["user.taos.fallback"] == "stub/small,other/x"
    assert config["user.taos.budget"] == "5000"
    file = folder / "old.taos"
    await taos.runner.wait_job((await taos.agents.start_export_agent("old", file)).id)
    assert read(file).agent == EVERYTHING
    await taos.runner.wait_job((await taos.agents.start_delete("old")).id)
    job, spec = await taos.agents.start_import_agent(file, ImportChoice(nesting=True, lan=True))
    await taos.runner.wait_job(job.id)
    # As the command line does: over the wire and back.
    sent = wire.NewAgent.model_validate_json(wire.NewAgent.of_spec(spec).model_dump_json())
    assert (await taos.runner.wait_job((await taos.agents.start_deploy(sent.to_spec())).id)).state
    after = await taos.agents.get_agent("old")
    fresh = {"instance": after.instance, "created_at": after.created_at}
    assert replace(before, **fresh) == after  # type: ignore[arg-type]
    assert after.nesting
    assert await taos.agents.get_schedule("old") is SnapshotSchedule.daily
    assert await taos.agents.get_state_bytes("old") == 30 * GIB
    config = fake.project().instances[after.instance].json["config"]
    assert config["user.taos.fallback"] == "stub/small,other/x"
    assert config["user.taos.budget"] == "5000"
    await taos.close()


NEWER = {
    "checksum", "fallbacks", "monthly_tokens", "disk_bytes", "state_bytes", "title", "autostart",
    "idle_stop_minutes", "snapshots", "nesting",
}  # fmt: skip


async def test_a_file_of_an_older_taos_is_taken(folder: Path, fake: FakeIncus) -> None:
    taos, file = await exported(folder, fake)
    older = rewritten(file, lambda told: [told.pop(key, None) for key in NEWER])
    expected = AgentSpec("old", model="stub/large", memory_bytes=999 * MIB, network="none")
    assert read(older).agent == expected
    job, _ = await taos.agents.start_import_agent(older, ImportChoice())
    assert (await taos.runner.wait_job(job.id)).state is JobState.succeeded
    await taos.close()


async def test_a_description_that_was_damaged_is_refused(folder: Path, fake: FakeIncus) -> None:
    taos, file = await exported(folder, fake)
    content = file.read_bytes()
    assert content.count(b'"none"') == 1
    file.write_bytes(content.replace(b'"none"', b'"Lone"'))
    with pytest.raises(Untrusted):
        await taos.agents.start_import_agent(file, ImportChoice())
    file.write_bytes(content.replace(b'"memory_bytes": "1', b'"memory_bytes": "9'))
    with pytest.raises(Untrusted):
        await taos.agents.start_import_agent(file, ImportChoice())
    await taos.close()


async def test_a_state_that_would_fill_the_pool_is_refused_unseen(
    folder: Path, fake: FakeIncus
) -> None:
    taos, file = await exported(folder, fake)
    before = left_over(fake, folder)
    fake.pools["taos"]["resources"]["space"]["total"] = 64 * MIB
    bomb = gzip.compress(pack_volume({}, entry("backup/volume/big", content=bytes(80 * MIB))))
    two = gzip.compress(bytes(40 * MIB)) + gzip.compress(bytes(40 * MIB))
    assert len(bomb) < MIB
    hostile = (bomb, "no_space"), (two, "untrusted"), (b"BZh9 whatever", "invalid_input")
    for state, code in hostile:
        path = with_state(file, state)
        asked = len(fake.calls)
        job, _ = await taos.agents.start_import_agent(path, ImportChoice())
        ended = await taos.runner.wait_job(job.id)
        assert ended.error
        assert (ended.state, ended.error.code) == (JobState.failed, code)
        assert not any(one.startswith("POST") for one in fake.calls[asked:])
    assert left_over(fake, folder) == before
    await taos.close()


def with_state(file: Path, state: bytes) -> Path:
    """The file with another state, as its description says."""
    digest = hashlib.sha256(state).hexdigest()
    changed = rewritten(file, lambda told: told.update(sha256=digest, size=len(state)))
    with tarfile.open(changed) as tar:
        told = tar.extractfile(AGENT_FILE)
        assert told
        members = {STATE_FILE: state, AGENT_FILE: told.read()}
    return written(changed, members)


async def test_nothing_is_written_into_what_somebody_else_put_there(
    folder: Path, fake: FakeIncus
) -> None:
    taos, _ = await exported(folder, fake)
    to, victim = folder / "again.taos", folder / "victim"
    victim.write_text("precious")
    job = await taos.agents.start_export_agent("old", to)
    (folder / f".again.taos.{job.id}.part").symlink_to(victim)
    ended = await taos.runner.wait_job(job.id)
    assert ended.state is JobState.succeeded, ended.error
    assert victim.read_text() == "precious"
    assert not to.is_symlink()
    assert stat.S_IMODE(to.stat().st_mode) == 0o600
    await taos.close()


async def test_what_is_no_exported_agent(folder: Path, fake: FakeIncus) -> None:
    taos, file = await exported(folder, fake)
    before = left_over(fake, folder)
    content = file.read_bytes()
    (folder / "cut.taos").write_bytes(content[:700])
    (folder / "empty.taos").write_bytes(b"")
    (folder / "text.taos").write_text("hello")
    wrong = [folder / name for name in ("cut.taos", "empty.taos", "text.taos", "absent.taos")]
    changes: tuple[Callable[[dict[str, Any]], object], ...] = (
        lambda told: told.update(format=2), lambda told: told.update(name="../../etc"),
        lambda told: told.update(network="everything"), lambda told: told.pop("framework"),
        lambda told: told.update(framework="unknown"), lambda told: told.update(sha256="x"),
        lambda told: told.update(size=1), lambda told: told.update(model="nonsense"),
        lambda told: told.update(snapshots="each second"), lambda told: told.update(title="a\nb"),
        lambda told: told.update(title="x" * 300), lambda told: told.update(fallbacks=7),
        lambda told: told.update(fallbacks=["stub/large"]),
        lambda told: told.update(monthly_tokens=float("inf")),
        lambda told: told.update(monthly_tokens=-1), lambda told: told.update(disk_bytes="1"),
        lambda told: told.update(idle_stop_minutes="99999999"),
    )  # fmt: skip
    for change in changes:
        with pytest.raises(InvalidInput):
            await taos.agents.start_import_agent(rewritten(file, change), ImportChoice())
    for path in wrong:
        with pytest.raises(InvalidInput):
            await taos.agents.start_import_agent(path, ImportChoice())
    many = written(folder / "many.taos", {STATE_FILE: b"x", AGENT_FILE: b"{}", "more": b""})
    with pytest.raises(InvalidInput):
        await taos.agents.start_import_agent(many, ImportChoice())
    assert left_over(fake, folder) == before
    await taos.close()


async def test_a_damaged_state_never_reaches_incus(folder: Path, fake: FakeIncus) -> None:
    taos, file = await exported(folder, fake)
    before = left_over(fake, folder)
    content = bytearray(file.read_bytes())
    content[520] ^= 1
    file.write_bytes(content)
    asked = len(fake.calls)
    job, _ = await taos.agents.start_import_agent(file, ImportChoice())
    ended = await taos.runner.wait_job(job.id)
    assert ended.error
    assert (ended.state, ended.error.code) == (JobState.failed, "untrusted")
    assert not any(one.startswith("POST") for one in fake.calls[asked:])
    assert left_over(fake, folder) == before
    await taos.close()


async def walls_of(folder: Path, fake: FakeIncus) -> tuple[Taos, Path]:
    """A server, and a file that asks for containers of its own and for a network at home."""
    taos, file = await exported(folder, fake)
    return taos, rewritten(
        file, lambda told: told.update(nesting=True, network="lan:192.168.9.0/24")
    )


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        (ImportChoice(), ("containers of its own", "192.168.9.0/24", "--nesting", "--no-lan")),
        (ImportChoice(nesting=True), ("192.168.9.0/24", "--lan")),
        (ImportChoice(lan=True), ("containers of its own", "--nesting")),
    ],
)
async def test_a_file_does_not_choose_its_own_walls(
    choice: ImportChoice, said: tuple[str, ...], folder: Path, fake: FakeIncus
) -> None:
    taos, file = await walls_of(folder, fake)
    asked = len(fake.calls)
    with pytest.raises(InvalidInput) as caught:
        await taos.agents.start_import_agent(file, choice)
    told = f"{caught.value.message} {caught.value.hint}"
    assert all(one in told for one in said)
    assert not any(one.startswith("POST") for one in fake.calls[asked:])
    await taos.close()


@pytest.mark.parametrize(
    ("nesting", "lan", "network"),
    [
        (True, True, "lan:192.168.9.0/24"),
        (False, True, "lan:192.168.9.0/24"),
        (True, False, "internet"),
        (False, False, "internet"),
    ],
)
async def test_a_person_chooses_the_walls(
    nesting: bool, lan: bool, network: str, folder: Path, fake: FakeIncus
) -> None:
    taos, file = await walls_of(folder, fake)
    choice = ImportChoice(nesting=nesting, lan=lan)
    job, spec = await taos.agents.start_import_agent(file, choice)
    await taos.runner.wait_job(job.id)
    assert (spec.nesting, spec.network) == (nesting, network)
    await taos.close()


async def test_what_a_file_does_not_ask_for_it_does_not_get(folder: Path, fake: FakeIncus) -> None:
    taos, file = await exported(folder, fake)
    job, spec = await taos.agents.start_import_agent(file, ImportChoice(nesting=True, lan=True))
    await taos.runner.wait_job(job.id)
    assert (spec.nesting, spec.network) == (False, "none")
    await taos.close()


async def test_more_memory_than_the_host_has_is_refused_with_numbers(
    folder: Path, fake: FakeIncus
) -> None:
    taos, file = await exported(folder, fake)
    large = rewritten(file, lambda told: told.update(memory_bytes=str(65 * GIB)))
    before = left_over(fake, folder)
    with pytest.raises(NoSpace) as imported:
        await taos.agents.start_import_agent(large, ImportChoice())
    with pytest.raises(NoSpace) as deployed:
        await taos.agents.start_deploy(AgentSpec("new", memory_bytes=65 * GIB))
    with pytest.raises(NoSpace) as changed:
        await taos.agents.start_change("old", AgentChange(memory_bytes=65 * GIB))
    for caught in (imported, deployed, changed):
        assert str(65 * 1024) in caught.value.message
        assert str(64 * 1024) in caught.value.message
    assert left_over(fake, folder) == before
    job, spec = await taos.agents.start_import_agent(large, ImportChoice(memory_bytes=2 * GIB))
    assert (await taos.runner.wait_job(job.id)).state is JobState.succeeded
    assert spec.memory_bytes == 2 * GIB
    await taos.close()


HOSTILE = {
    "device": gzip.compress(
        pack_volume({}, entry("backup/volume/sda", tarfile.BLKTYPE, devmajor=8))
    ),
    "snapshots": gzip.compress(pack_volume({}, index="snapshots:\n- null\n")),
    "zstd": zstandard.compress(pack_volume({})),
}


@pytest.mark.parametrize("what", HOSTILE)
async def test_a_hostile_state_never_reaches_incus(
    what: str, folder: Path, fake: FakeIncus
) -> None:
    taos, file = await exported(folder, fake)
    before, hostile = left_over(fake, folder), with_state(file, HOSTILE[what])
    asked = len(fake.calls)
    job, _ = await taos.agents.start_import_agent(hostile, ImportChoice())
    ended = await taos.runner.wait_job(job.id)
    assert ended.error
    assert ended.error.code in ("untrusted", "invalid_input")
    assert not any(one.startswith("POST") for one in fake.calls[asked:])
    assert left_over(fake, folder) == before
    await taos.close()


async def test_more_than_the_file_says_is_refused(folder: Path, fake: FakeIncus) -> None:
    taos, file = await exported(folder, fake)
    assert read(file).tally == Tally(0, 0)
    for tally in ({"members": 1, "content_bytes": 0}, {"members": 0, "content_bytes": 5}):
        changed = rewritten(file, lambda told, tally=tally: told.update(tally=tally))  # type: ignore[misc]
        job, _ = await taos.agents.start_import_agent(changed, ImportChoice())
        ended = await taos.runner.wait_job(job.id)
        assert ended.error
        assert ended.error.code == "untrusted"
    with pytest.raises(InvalidInput):
        read(rewritten(file, lambda told: told.update(tally={"members": 1})))
    await taos.close()


async def test_a_file_that_changes_after_it_was_checked_has_no_end(
    folder: Path, fake: FakeIncus
) -> None:
    taos, file = await exported(folder, fake)
    before = left_over(fake, folder)
    job, _ = await taos.agents.start_import_agent(file, ImportChoice())
    await taos.until(job.id, GIVE)
    content = bytearray(file.read_bytes())
    content[512 + 4] ^= 1  # the time in gzip's head: the same archive in other bytes
    file.write_bytes(content)
    ended = await taos.runner.wait_job(job.id)
    if ended.state is JobState.failed:  # else all of it was sent before
        assert ended.error
        assert ended.error.code == "untrusted"
        assert left_over(fake, folder) == before
    await taos.close()


async def test_what_is_no_plain_file_is_not_waited_for(folder: Path, fake: FakeIncus) -> None:
    taos, _ = await exported(folder, fake)
    os.mkfifo(folder / "fifo.taos")
    for path in (folder / "fifo.taos", folder, Path("/dev/zero"), Path("relative.taos")):
        with pytest.raises(InvalidInput):
            await taos.agents.start_import_agent(path, ImportChoice())
    await taos.close()


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 2**32), st.integers(1, 6))
def test_whatever_was_changed_in_the_file(tmp_path: Path, seed: int, changes: int) -> None:
    told = {
        "format": 1, "name": "old", "framework": "openclaw", "version": "1", "model": "",
        "network": "none", "memory_bytes": "", "cpus": "", "sha256": "0" * 64, "size": 5,
    }  # fmt: skip
    file = written(
        tmp_path / "old.taos", {STATE_FILE: b"state", AGENT_FILE: json.dumps(told).encode()}
    )
    chance, content = random.Random(seed), bytearray(file.read_bytes())
    for _ in range(changes):
        content[chance.randrange(2600)] = chance.randrange(256)
    file.write_bytes(content)
    try:
        carried = read(file)
    except TaosError:
        return
    assert 0 <= carried.offset <= carried.offset + carried.size <= len(content)


async def test_an_export_that_could_not_be_imported_is_not_written(
    folder: Path, fake: FakeIncus, monkeypatch: pytest.MonkeyPatch
) -> None:
    taos, _ = await exported(folder, fake)
    monkeypatch.setattr("tests.fakes.fake_routes.pack_volume", lambda _: b"no backup")
    job = await taos.agents.start_export_agent("old", folder / "again.taos")
    ended = await taos.runner.wait_job(job.id)
    assert ended.state is JobState.failed
    assert not (folder / "again.taos").exists()
    assert [one.name for one in folder.glob(".*")] == []
    await taos.close()
