"""Services in memory, for the faces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from tests.unit.api.fake_models import FakeModels
from tinyagentos.access import Access
from tinyagentos.app import explain
from tinyagentos.config import Settings
from tinyagentos.host.walls import Record
from tinyagentos.incus import IncusUnreachable
from tinyagentos.model.agent import (
    Agent,
    AgentChange,
    AgentSpec,
    AgentState,
    Framework,
    ImportChoice,
    KeptState,
    Snapshot,
    SnapshotSchedule,
    check_agent_name,
    parse_since,
)
from tinyagentos.model.errors import Conflict, InvalidInput, NoSpace, NotFound
from tinyagentos.model.image import ImagePolicy, ImageRow, ImageState
from tinyagentos.model.job import Accepted, Job, JobState, Problem, Step, StepState
from tinyagentos.model.network import NetworkPolicy
from tinyagentos.store.access import AccessTable

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class MemoryTable(AccessTable):
    """Passwords and sessions for any thread: test clients call from threads of their own."""

    def __init__(self) -> None:
        self.secrets: dict[str, str] = {}
        self.sessions: dict[str, datetime] = {}

    def find_secret(self, name: str, now: datetime) -> str:
        return self.secrets.get(name, "")

    def put_secret(self, name: str, value: str, until: datetime) -> None:
        self.secrets[name] = value

    def drop_secret(self, name: str) -> None:
        self.secrets.pop(name, None)

    def find_session(self, digest: str, now: datetime) -> datetime | None:
        return self.sessions.get(digest)

    def put_session(self, digest: str, until: datetime, now: datetime) -> None:
        self.sessions[digest] = until

    def drop_session(self, digest: str) -> None:
        self.sessions.pop(digest, None)

    def drop_sessions(self) -> None:
        self.sessions.clear()


class FakeServices:
    """All nouns in one object; it remembers what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(data_dir=folder, run_dir=folder, port=0)
        self.token = "secret-token"
        self.access = Access(MemoryTable())
        self.jobs = self.images = self.agents = self
        self.providers = self.models = self.chat = self.interfaces = FakeModels()
        self.shells: object = None
        self.specs: list[AgentSpec] = []
        self.accepted: dict[str, Accepted] = {}
        self.kept: dict[str, Job] = {}
        self.discarded: list[str] = []
        self.problems: tuple[Problem, ...] = ()
        self.explain = explain
        self.log = ["one", "two"]
        self.walls = Record()

    async def missing(self) -> tuple[Problem, ...]:
        return self.problems

    def add(self, kind: str, name: str, state: JobState = JobState.succeeded) -> Job:
        step = Step("plan", StepState.succeeded, NOW, 0.5)
        job = Job(f"j{len(self.kept)}", kind, f"agent:{name}", NOW, state, steps=(step,))
        self.kept[job.id] = job
        return job

    async def start_deploy(self, spec: AgentSpec) -> Job:
        self._check(spec)
        self.specs.append(spec)
        return self.add("deploy", spec.name)

    def _check(self, spec: AgentSpec) -> None:
        check_agent_name(spec.name)
        if spec.framework != "openclaw":
            raise InvalidInput("There is no such framework.", hint="There is: openclaw.")
        if spec.memory_bytes is not None and spec.memory_bytes < 1:
            raise InvalidInput("memory cannot be negative.", hint="Give more.")
        special = {
            "taken": Conflict("The name is taken.", hint="Take another."),
            "full": NoSpace("3 MiB are free; 4 MiB needed.", hint="Wait."),
            "away": IncusUnreachable("no such file"),
            "boom": RuntimeError("secret detail"),
        }
        if spec.name in special:
            raise special[spec.name]

    async def list_agents(self) -> tuple[Agent, ...]:
        return (Agent("hello", "openclaw", "1", AgentState.ready, "hello-abcdef"),)

    async def get_agent(self, name: str) -> Agent:
        if name != "hello":
            raise NotFound(f"There is no agent {name!r}.", hint="List them.")
        return (await self.list_agents())[0]

    async def start_power(self, name: str, action: Literal["start", "stop", "restart"]) -> Job:
        await self.get_agent(name)
        return self.add(action, name)

    async def start_export_agent(self, name: str, file: Path) -> Job:
        await self.get_agent(name)
        return self.add("export agent", name)

    async def start_import_agent(self, file: Path, choice: ImportChoice) -> tuple[Job, AgentSpec]:
        if file.suffix != ".taos":
            raise InvalidInput("There is no such file.", hint="Give its whole path.")
        return self.add("import state", "old"), AgentSpec("old", state_of="old-abcdef-state")

    async def list_kept(self) -> tuple[KeptState, ...]:
        return (KeptState("old-abcdef-state", "old", "openclaw", NOW),)

    async def drop_kept(self, name: str) -> None:
        if name != "old-abcdef-state":
            raise NotFound("There is no such state.", hint="List them.")

    async def start_delete(self, name: str, *, keep_state: bool = False) -> Job:
        await self.get_agent(name)
        return self.add("delete", name)

    async def start_change(self, name: str, change: AgentChange) -> Job:
        await self.get_agent(name)
        return self.add("change settings", name)

    async def get_state_bytes(self, name: str) -> int | None:
        return 10 * 2**30

    async def get_schedule(self, name: str) -> SnapshotSchedule:
        await self.get_agent(name)
        return SnapshotSchedule.daily

    async def open_log(
        self, name: str, *, follow: bool, lines: int, since: str = ""
    ) -> AsyncIterator[str]:
        if since:
            parse_since(since, NOW)
        await self.get_agent(name)

        async def read() -> AsyncIterator[str]:
            for line in self.log[-lines:]:
                yield line

        return read()

    async def list_frameworks(self) -> tuple[Framework, ...]:
        return (Framework("openclaw", "1", "OpenClaw", 7, None, {"image": 12.0, "build": None}),)

    async def list_images(self) -> tuple[ImageRow, ...]:
        return (ImageRow("openclaw", "x64", ImageState.absent, newest="1"),)

    policy = ImagePolicy.lazy

    def choose_policy(self, policy: ImagePolicy) -> None:
        self.policy = policy

    def start_import(self, file: Path) -> Job:
        raise InvalidInput("There is no such file.", hint="Give its whole path.")

    def start_export(self, framework: str, file: Path) -> Job:
        return self.start_download(framework)

    def start_download(self, framework: str) -> Job:
        if framework != "openclaw":
            raise InvalidInput("There is no such framework.", hint="There is: openclaw.")
        return self.add("download image", framework)

    def discard(self, framework: str) -> None:
        if framework != "openclaw":
            raise InvalidInput("There is no such framework.", hint="There is: openclaw.")
        self.discarded.append(framework)

    async def remove(self, framework: str) -> None:
        if framework != "openclaw":
            raise NotFound("There is no such image.", hint="List them.")

    async def start_upgrade(self, name: str) -> Job:
        await self.get_agent(name)
        return self.add("upgrade", name)

    async def start_upgrade_all(self) -> Job:
        return self.add("upgrade all", "agents")

    async def start_undo(self, name: str) -> Job:
        await self.get_agent(name)
        return self.add("undo upgrade", name)

    async def start_network(self, name: str, written: str) -> Job:
        NetworkPolicy.parse(written)
        await self.get_agent(name)
        return self.add("network", name)

    async def list_snapshots(self, name: str) -> tuple[Snapshot, ...]:
        await self.get_agent(name)
        return (Snapshot("one", NOW),)

    async def start_snapshot(self, name: str, snapshot: str = "") -> Job:
        await self.get_agent(name)
        return self.add("snapshot", snapshot or name)

    async def start_restore(self, name: str, snapshot: str) -> Job:
        await self.get_agent(name)
        return self.add("restore", snapshot)

    async def start_drop(self, name: str, snapshot: str) -> Job:
        await self.get_agent(name)
        return self.add("delete snapshot", snapshot)

    def list_jobs(self) -> tuple[Job, ...]:
        return tuple(reversed(self.kept.values()))

    def get_job(self, job_id: str) -> Job:
        if job_id not in self.kept:
            raise NotFound("There is no such job.", hint="List them.")
        return self.kept[job_id]

    def cancel_job(self, job_id: str) -> Job:
        if not self.get_job(job_id).is_active:
            raise Conflict("The job has ended.", hint="Nothing to do.")
        self.kept[job_id] = replace(self.kept[job_id], state=JobState.cancelled)
        return self.kept[job_id]

    async def retry_job(self, job_id: str) -> Job:
        return self.add(self.get_job(job_id).kind, "again")

    def find_accepted(self, key: str) -> Accepted | None:
        return self.accepted.get(key)

    def keep_accepted(self, accepted: Accepted) -> None:
        self.accepted[accepted.key] = accepted

    async def watch_job(self, job_id: str) -> AsyncIterator[Job]:
        job = self.get_job(job_id)
        yield replace(job, state=JobState.running)
        await asyncio.sleep(0)
        yield job
