"""An agent's instances: the one that is the agent, and those an upgrade keeps beside it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

ROLE_KEY = "user.taos.role"  # empty: the agent itself
REPLACED_KEY = "user.taos.replaced_by"
SNAPSHOT_KEY = "user.taos.snapshot"
SINCE_KEY = "user.taos.replaced_at"
NEXT, PREVIOUS = "next", "previous"


def next_name(instance: str) -> str:
    """The instance that an upgrade makes beside the agent's."""
    return f"{instance}-next"


def previous_name(instance: str) -> str:
    """The instance that the agent was before its last upgrade."""
    return f"{instance}-previous"


def replaced_at(config: Mapping[str, str]) -> datetime | None:
    """When an upgrade replaced the instance; None when it does not say so readably."""
    try:
        moment = datetime.fromisoformat(config.get(SINCE_KEY, ""))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
