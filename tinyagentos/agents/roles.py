"""An agent's instances: the one that is the agent, and those an upgrade keeps beside it."""

from __future__ import annotations

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
