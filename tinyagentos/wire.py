"""The JSON contract, both directions: what the API answers and what it takes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from tinyagentos.model import agent as agents
from tinyagentos.model import image as images
from tinyagentos.model import job as jobs
from tinyagentos.model import provider as providers

_SIZE = re.compile(r"\s*(\d{1,12}(?:\.\d{1,6})?)\s*([KMGT]?)(iB|B|)\s*", re.IGNORECASE)
_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def parse_size(value: object) -> object:
    """A size in bytes from a number or from words such as `512MiB`, `2GiB` or `1.5G`."""
    if isinstance(value, str):
        found = _SIZE.fullmatch(value)
        if not found:
            raise ValueError("give bytes, or a size such as 512MiB or 2GiB")
        number, unit, suffix = found.groups()
        step = 1000 if suffix.upper() == "B" and unit else 1024
        return round(float(number) * step ** _UNITS[unit.upper()])
    return value


# More than this a JSON number cannot say exactly everywhere (RFC 8259, section 6).
MOST = 2**53 - 1
Size = Annotated[int, BeforeValidator(parse_size), Field(gt=0, le=MOST)]


class Wire(BaseModel):
    """A value of the contract, read from one of our own values by attribute."""

    model_config = ConfigDict(from_attributes=True)

    @classmethod
    def of(cls, value: object) -> Self:
        """Our value as the contract has it."""
        return cls.model_validate(value)


class Problem(Wire):
    """Why a job failed."""

    code: str
    message: str
    hint: str


class Step(Wire):
    """A named, timed part of a job."""

    name: str
    state: jobs.StepState
    started_at: datetime | None = None
    seconds: float
    done_bytes: int | None = None
    total_bytes: int | None = None
    detail: str = ""


class Job(Wire):
    """A piece of durable work."""

    id: str
    kind: str
    subject: str
    state: jobs.JobState
    source: str
    source_reason: str
    attempt: int
    steps: tuple[Step, ...]
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error: Problem | None = None
    expected_seconds: float | None = Field(
        None, description="What all steps together are expected to take; null: not known"
    )

    @property
    def is_active(self) -> bool:
        """Whether the job still has work to do."""
        return self.state in jobs.ACTIVE


class JobAnswer(Wire):
    """The job that a request began."""

    job: Job

    @classmethod
    def of_job(cls, job: jobs.Job) -> JobAnswer:
        """The answer that has just the job."""
        return JobAnswer(job=Job.of(job))


class Agent(Wire):
    """An agent as it is now."""

    name: str
    framework: str
    version: str
    state: agents.AgentState
    reason: str
    instance: str
    source: str
    created_at: datetime | None = None
    memory_bytes: int | None = None
    newest: str = Field("", description="A newer version it can be upgraded to")
    undo_version: str = Field("", description="The version an undone upgrade returns to")
    network: str = Field("", description="What it may reach: internet, none or lan:<cidr,...>")
    title: str = Field("", description="What people call it")
    cpus: int = Field(0, description="Most processor cores; 0: all")
    disk_bytes: int | None = None
    autostart: bool = Field(True, description="Whether it may start when the host does")
    idle_stop_minutes: int = Field(0, description="Stopped after so long without a question")
    nesting: bool = Field(False, description="Whether it may run containers of its own")


class Snapshot(Wire):
    """The agent's state as it was at a moment."""

    name: str
    created_at: datetime | None = None


class NewSnapshot(BaseModel):
    """What to call a snapshot; a name with the time when nothing is given."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = Field("", max_length=1000)


class Framework(Wire):
    """What can be deployed."""

    name: str
    version: str
    title: str
    memory_bytes: int = Field(description="What the host must have free")
    image_size_bytes: int | None = Field(
        None, description="Of the image that is here, else of the newest release that is known"
    )
    image_budget_bytes: int | None = Field(
        None, description="The most that an image may weigh, by the recipe"
    )
    expected_seconds: Mapping[str, float | None] = Field(
        description="Of a deploy by `image` once that is here, and by `build`; `download`: until "
        "the image is in use, 0 when it is. null: not known yet"
    )


class Image(Wire):
    """One framework's image for one architecture, or another image of the project."""

    framework: str
    arch: str
    state: images.ImageState
    version: str
    newest: str
    fingerprint: str
    alias: str
    size_bytes: int | None = Field(None, description="As a file; of the newest when none is here")
    origin: str
    reason: str
    unpacked_bytes: int | None = Field(None, description="As far as it was weighed or is told")
    partial_bytes: int = Field(0, description="What has come of a download that is not done")


class Policy(BaseModel):
    """When images are fetched."""

    model_config = ConfigDict(extra="forbid", strict=True)

    policy: Annotated[images.ImagePolicy, Field(strict=False)]


FilePath = Annotated[str, Field(min_length=1, max_length=4000, pattern=r"^/[^\x00]*$")]


class ImportFile(BaseModel):
    """An exported image on the server's machine."""

    model_config = ConfigDict(extra="forbid", strict=True)

    path: FilePath = Field(description="The file's whole path")


class ImportAgent(ImportFile):
    """An exported agent on the server's machine, and what it gets of what it asks for."""

    nesting: bool | None = Field(
        None, description="Whether it may run containers of its own, if the file asks for it"
    )
    lan: bool | None = Field(
        None, description="Whether it may reach the private networks that the file asks for"
    )
    memory: Size | None = Field(None, description="Most memory it may take, if not the file's")

    def to_choice(self) -> agents.ImportChoice:
        """As the agents' side takes it."""
        return agents.ImportChoice(self.nesting, self.lan, self.memory)


class ExportFile(BaseModel):
    """Where an image is to be written on the server's machine."""

    model_config = ConfigDict(extra="forbid", strict=True)

    framework: str = Field(max_length=1000)
    path: FilePath = Field(description="The whole path of a file that is not there yet")


class Provider(Wire):
    """A place that has models. Its key is never told, only whether there is one."""

    name: str
    kind: providers.ProviderKind
    url: str
    model: str = Field("", description="Used by agents that chose none")
    has_key: bool
    found: bool = Field(description="Runs on this host; nobody had to add it")
    models: tuple[str, ...] = Field((), description="Those it told of when it was tested last")


class NewProvider(BaseModel):
    """A provider to keep. Without a key, one that was given for the same address stays."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = Field(max_length=1000)
    kind: Annotated[providers.ProviderKind, Field(strict=False)]
    url: str = Field("", max_length=4000, description="The usual one of its kind when empty")
    model: str = Field("", max_length=1000, description="For agents that chose none")
    key: str = Field("", max_length=10_000, repr=False)

    def to_provider(self) -> providers.NewProvider:
        """As the gateway's side takes it."""
        return providers.NewProvider(self.name, self.kind, self.url, self.model, self.key)


class ProviderTest(Wire):
    """What a provider said."""

    models: tuple[str, ...]
    seconds: float


class ModelChoice(BaseModel):
    """The models an agent is to use; none: the default."""

    model_config = ConfigDict(extra="forbid", strict=True)

    models: Annotated[tuple[str, ...], Field(strict=False, max_length=20)] = Field(
        (), description="PROVIDER/MODEL, best first: each is used when those before it fail"
    )
    monthly_tokens: int = Field(0, ge=0, le=MOST, description="Most tokens a month; 0: no limit")

    def to_choice(self) -> providers.ModelChoice:
        """As the agents' side takes it; InvalidInput for what names no model."""
        return providers.ModelChoice(
            tuple(map(providers.parse_model, self.models)), self.monthly_tokens
        )


class Usage(Wire):
    """What an agent asked of models."""

    requests: int
    errors: int
    input_tokens: int
    output_tokens: int


class AgentModels(Wire):
    """The models of an agent, and what it used of them this month."""

    models: tuple[str, ...] = Field(description="Empty: the default of the host")
    monthly_tokens: int
    usage: Usage
    months: tuple[tuple[str, Usage], ...] = Field((), description="By month, the oldest first")


class Question(BaseModel):
    """What to say to an agent."""

    model_config = ConfigDict(extra="forbid", strict=True)

    message: str = Field(min_length=1, max_length=32_000)
    conversation: str = Field("main", max_length=64, pattern=r"^[A-Za-z0-9._-]+$")


class Answer(BaseModel):
    """What the agent said."""

    answer: str


class NewAgent(BaseModel):
    """What to deploy. Sizes in bytes, or words such as `2GiB`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = Field(description="Lower-case letters, digits and hyphens", max_length=1000)
    framework: str = Field(agents.DEFAULT_FRAMEWORK, max_length=1000)
    source: Annotated[agents.Source, Field(strict=False)] = agents.Source.fastest
    model: str = Field("", max_length=200)
    memory: Size | None = Field(None, description="Most memory the agent may take")
    cpu: int | None = Field(
        None, gt=0, le=MOST, description="Most processor cores the agent may take"
    )
    disk: Size | None = Field(None, description="Most disk the agent's root may take")
    state_disk: Size | None = Field(None, description="Most disk its state may take")
    state_of: str = Field(
        "", max_length=1000, description="Begin with the state that was kept of this agent"
    )
    network: str = Field(
        "internet", max_length=1000, description="What it may reach: internet, none, lan:<cidr,...>"
    )
    nesting: bool = Field(
        False, description="It may run containers of its own: more of the host is open to it"
    )
    fallbacks: Annotated[tuple[str, ...], Field(strict=False, max_length=20)] = Field(
        (), description="PROVIDER/MODEL, best first: each is used when those before it fail"
    )
    monthly_tokens: int = Field(0, ge=0, le=MOST, description="Most tokens a month; 0: no limit")
    title: str = Field("", max_length=200, description="What people call it")
    autostart: bool = Field(True, description="Whether it may start when the host does")
    idle_stop_minutes: int = Field(
        0, ge=0, le=MOST, description="Stop it after so long without a question; 0: never"
    )
    snapshots: Annotated[agents.SnapshotSchedule, Field(strict=False)] = Field(
        agents.SnapshotSchedule.off, description="How often its state is kept by itself"
    )

    @classmethod
    def of_spec(cls, spec: agents.AgentSpec) -> Self:
        """The deploy that to_spec() reads back as this."""
        return cls(
            name=spec.name, framework=spec.framework, source=spec.source, model=spec.model,
            memory=spec.memory_bytes, cpu=spec.cpus, disk=spec.disk_bytes, network=spec.network,
            state_disk=spec.state_bytes, state_of=spec.state_of, nesting=spec.nesting,
            fallbacks=spec.fallbacks, monthly_tokens=spec.monthly_tokens, title=spec.title,
            autostart=spec.autostart, idle_stop_minutes=spec.idle_stop_minutes,
            snapshots=spec.snapshots,
        )  # fmt: skip

    def to_spec(self) -> agents.AgentSpec:
        """As the agents' side takes it."""
        return agents.AgentSpec(
            name=self.name,
            framework=self.framework,
            source=self.source,
            model=self.model,
            memory_bytes=self.memory,
            cpus=self.cpu,
            disk_bytes=self.disk,
            state_bytes=self.state_disk,
            network=self.network,
            state_of=self.state_of,
            nesting=self.nesting,
            fallbacks=self.fallbacks,
            monthly_tokens=self.monthly_tokens,
            title=self.title,
            autostart=self.autostart,
            idle_stop_minutes=self.idle_stop_minutes,
            snapshots=self.snapshots,
        )


class AgentChange(BaseModel):
    """What to change of an agent; what is left out stays."""

    model_config = ConfigDict(extra="forbid", strict=True)

    memory: Size | None = Field(None, description="Most memory the agent may take")
    cpu: int | None = Field(None, ge=0, le=MOST, description="Most processor cores; 0: all")
    disk: Size | None = Field(None, description="Most disk the agent's root may take")
    state_disk: Size | None = Field(None, description="Most disk its state may take")
    title: str | None = Field(None, max_length=200, description="What people call it")
    autostart: bool | None = Field(None, description="Whether it may start when the host does")
    idle_stop_minutes: int | None = Field(
        None, ge=0, le=MOST, description="Stop it after so long without a question; 0: never"
    )
    snapshots: Annotated[agents.SnapshotSchedule, Field(strict=False)] | None = Field(
        None, description="How often its state is kept by itself"
    )

    def to_change(self) -> agents.AgentChange:
        """As the agents' side takes it."""
        return agents.AgentChange(
            memory_bytes=self.memory,
            cpus=self.cpu,
            disk_bytes=self.disk,
            state_bytes=self.state_disk,
            title=self.title,
            autostart=self.autostart,
            idle_stop_minutes=self.idle_stop_minutes,
            snapshots=self.snapshots,
        )


class Schedule(BaseModel):
    """How an agent's state is kept."""

    snapshots: agents.SnapshotSchedule = Field(description="How often by itself")
    state_bytes: int | None = Field(None, description="Most it may take; null: no limit")


class KeptState(Wire):
    """State that outlived its agent."""

    name: str = Field(description="To remove it, or to deploy with it")
    agent: str
    framework: str
    kept_at: datetime


class Network(BaseModel):
    """What an agent is to reach."""

    model_config = ConfigDict(extra="forbid", strict=True)

    policy: str = Field(max_length=1000, description="internet, none or lan:<cidr,...>")


class ExportAgent(BaseModel):
    """Which agent is to be written where on the server's machine."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = Field(max_length=1000)
    path: FilePath = Field(description="The whole path of a file that is not there yet")


class ImportAnswer(JobAnswer):
    """The job that keeps an imported state, and the deploy that begins with it."""

    deploy: NewAgent


class ProblemDetails(BaseModel):
    """An error as RFC 9457 has it, with our code and hint."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    message: str = Field("", description="The same sentence as detail")
    code: str
    hint: str


class Health(BaseModel):
    """That the process serves."""

    status: str
    version: str


class Readiness(BaseModel):
    """What keeps the server from deploying agents."""

    ready: bool
    missing: tuple[Problem, ...]


class SetupCode(Wire):
    """What lets a first visitor set the web password, once."""

    code: str
    path: str = Field(description="The page that takes it, with the code in it")
    until: datetime


class NewPassword(BaseModel):
    """The web password to set."""

    password: str = Field(repr=False)
