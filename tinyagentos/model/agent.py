"""An agent: what a person asks for, and what it is now."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from tinyagentos.model.errors import InvalidInput

MAX_NAME = 32
# What is deployed when nobody says otherwise; it stands first wherever people choose.
DEFAULT_FRAMEWORK = "openclaw"
_NAME = re.compile(r"[a-z](?:[a-z0-9-]*[a-z0-9])?")
MIB = 1024 * 1024
_AGO = re.compile(r"(\d{1,9})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class AgentState(StrEnum):
    """Derived from desired state, Incus status and the last health answer; never stored."""

    deploying = "deploying"
    starting = "starting"
    ready = "ready"
    unhealthy = "unhealthy"
    stopped = "stopped"
    failed = "failed"


class Source(StrEnum):
    """How a deploy gets its root: a prebuilt image, the recipe, or whichever is quicker."""

    image = "image"
    build = "build"
    fastest = "fastest"


class SnapshotSchedule(StrEnum):
    """How often an agent's state is kept by itself."""

    off = "off"
    hourly = "hourly"
    daily = "daily"
    weekly = "weekly"


@dataclass(frozen=True)
class AgentSpec:
    """What to deploy. Sizes in bytes; None means the recipe's default.

    nesting: it may run containers of its own, which opens more of the host's kernel to it.
    model, fallbacks: `provider/model`, the latter used when those before fail; monthly_tokens and
    idle_stop_minutes: 0 means no limit, and never.
    """

    name: str
    framework: str = DEFAULT_FRAMEWORK
    source: Source = Source.fastest
    model: str = ""
    memory_bytes: int | None = None
    cpus: int | None = None
    disk_bytes: int | None = None
    state_bytes: int | None = None
    network: str = "internet"
    state_of: str = ""
    nesting: bool = False
    fallbacks: tuple[str, ...] = ()
    monthly_tokens: int = 0
    title: str = ""
    autostart: bool = True
    idle_stop_minutes: int = 0
    snapshots: SnapshotSchedule = SnapshotSchedule.off


@dataclass(frozen=True)
class ImportChoice:
    """What a person decides about an agent in a file.

    nesting, lan: whether it gets them if the file asks for them; None: not decided.
    memory_bytes: its limit, if not the file's.
    """

    nesting: bool | None = None
    lan: bool | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True)
class KeptState:
    """State that outlived its agent. name: its volume's."""

    name: str
    agent: str
    framework: str
    kept_at: datetime


@dataclass(frozen=True)
class AgentChange:
    """What to change of an agent; None leaves it. cpus: 0 means all; idle_stop_minutes: 0 never."""

    memory_bytes: int | None = None
    cpus: int | None = None
    disk_bytes: int | None = None
    state_bytes: int | None = None
    title: str | None = None
    autostart: bool | None = None
    idle_stop_minutes: int | None = None
    snapshots: SnapshotSchedule | None = None


@dataclass(frozen=True)
class Agent:
    """An agent as it is now, read from Incus."""

    name: str
    framework: str
    version: str
    state: AgentState
    instance: str
    reason: str = ""
    source: str = ""
    created_at: datetime | None = None
    memory_bytes: int | None = None
    newest: str = ""
    undo_version: str = ""
    network: str = ""
    title: str = ""
    cpus: int = 0
    disk_bytes: int | None = None
    autostart: bool = True
    idle_stop_minutes: int = 0
    nesting: bool = False


@dataclass(frozen=True)
class Snapshot:
    """The agent's state as it was at a moment."""

    name: str
    created_at: datetime | None


@dataclass(frozen=True)
class Framework:
    """What can be deployed, and what that takes here. Sizes in bytes.

    image_size_bytes: of the image that is here, else of the newest release; None when neither is
    known. image_budget_bytes: the most it may weigh by its recipe. expected_seconds: of a deploy by
    `image` once that is here, and by `build`; `download`: until the image is in use, 0 when it is.
    None: nobody knows.
    """

    name: str
    version: str
    title: str
    memory_bytes: int
    image_size_bytes: int | None
    expected_seconds: Mapping[str, float | None]
    image_budget_bytes: int | None = None


def parse_since(text: str, now: datetime) -> datetime:
    """The moment that `10m`, `2h`, `3d`, `90s` ago or an ISO 8601 time means."""
    found = _AGO.fullmatch(text.strip())
    try:
        if found:
            return now - timedelta(seconds=int(found[1]) * _SECONDS[found[2]])
        moment = datetime.fromisoformat(text.strip())
        moment.timestamp()
    except (ValueError, OverflowError) as error:
        raise InvalidInput(
            f"{text[:40]!r} is no time.",
            hint="Give one such as 10m, 2h, 3d or 2026-05-17T08:00.",
        ) from error
    return moment if moment.tzinfo else moment.astimezone()


def check_agent_name(name: str) -> str:
    """The name, if it can be an agent's; InvalidInput says what is wrong with it.

    Instance names are `<agent>-<6 hex>` and must be a DNS label (63 characters at most).
    """
    rule = (
        f"Use 1 to {MAX_NAME} lower-case letters, digits and single hyphens, "
        "starting with a letter and not ending with a hyphen, such as `hello` or `my-agent`."
    )
    if not name:
        raise InvalidInput("An agent needs a name.", hint=rule)
    if len(name) > MAX_NAME:
        raise InvalidInput(f"The agent's name has {len(name)} characters.", hint=rule)
    if not _NAME.fullmatch(name) or "--" in name:
        raise InvalidInput(f"{name!r} cannot be an agent's name.", hint=rule)
    return name
