"""An agent: what a person asks for, and what it is now."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from tinyagentos.model.errors import InvalidInput

MAX_NAME = 32
_NAME = re.compile(r"[a-z](?:[a-z0-9-]*[a-z0-9])?")
MIB = 1024 * 1024


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


@dataclass(frozen=True)
class AgentSpec:
    """What to deploy. Sizes in bytes; None means the recipe's default."""

    name: str
    framework: str = "openclaw"
    source: Source = Source.fastest
    model: str = ""
    memory_bytes: int | None = None
    cpus: int | None = None
    disk_bytes: int | None = None
    network: str = "internet"


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


@dataclass(frozen=True)
class Snapshot:
    """The agent's state as it was at a moment."""

    name: str
    created_at: datetime | None


@dataclass(frozen=True)
class Framework:
    """What can be deployed. Sizes in bytes; expected deploy seconds by source, None: unknown."""

    name: str
    version: str
    title: str
    memory_bytes: int
    image_size_bytes: int | None
    expected_seconds: Mapping[str, float | None]


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
