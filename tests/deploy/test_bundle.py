"""An agent in one file: written, checked, taken in again."""

from __future__ import annotations

import io
import json
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.world import Taos, left_over, with_image
from tests.fakes.fake_incus import FakeIncus
from tests.fakes.fake_parts import FakeExec
from tinyagentos.agents.bundle import AGENT_FILE, EXPORT_STEPS, IMPORT_STEPS, STATE_FILE
from tinyagentos.agents.bundle import read_carried as read
from tinyagentos.model.agent import MIB, AgentState
from tinyagentos.model.errors import Conflict, InvalidInput, NotFound
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
        assert b"mine" in state.read()
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
    job, spec = await taos.agents.start_import_agent(file)
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
    )  # fmt: skip
    for change in changes:
        with pytest.raises(InvalidInput):
            await taos.agents.start_import_agent(rewritten(file, change))
    for path in wrong:
        with pytest.raises(InvalidInput):
            await taos.agents.start_import_agent(path)
    many = written(folder / "many.taos", {STATE_FILE: b"x", AGENT_FILE: b"{}", "more": b""})
    with pytest.raises(InvalidInput):
        await taos.agents.start_import_agent(many)
    assert left_over(fake, folder) == before
    await taos.close()


async def test_a_damaged_state_never_reaches_incus(folder: Path, fake: FakeIncus) -> None:
    taos, file = await exported(folder, fake)
    before = left_over(fake, folder)
    content = bytearray(file.read_bytes())
    content[520] ^= 1
    file.write_bytes(content)
    asked = len(fake.calls)
    job, _ = await taos.agents.start_import_agent(file)
    ended = await taos.runner.wait_job(job.id)
    assert ended.error
    assert (ended.state, ended.error.code) == (JobState.failed, "untrusted")
    assert not any(one.startswith("POST") for one in fake.calls[asked:])
    assert left_over(fake, folder) == before
    await taos.close()
