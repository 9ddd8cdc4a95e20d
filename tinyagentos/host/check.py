"""A check: one thing that must be so on the host, why it matters, and how it is made so."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from tinyagentos.config import Settings
from tinyagentos.host.facts import HostFacts
from tinyagentos.incus import Incus, IncusError, IncusUnreachable

Report = Callable[[str], None]


@dataclass(frozen=True)
class Ground:
    """What checks look at."""

    settings: Settings
    facts: HostFacts

    def incus(self, project: str = "") -> Incus:
        """A client of the host's Incus; the caller closes it (`async with`)."""
        return Incus.unix(
            self.settings.incus_socket, project=project or self.settings.incus_project, within=20
        )


class Verdict(StrEnum):
    """How a thing stands."""

    ok = "ok"
    warn = "warn"
    fail = "fail"


@dataclass(frozen=True)
class Finding:
    """What a look found. plan: what the fix would do, in words; empty: there is nothing to fix."""

    verdict: Verdict
    said: str
    plan: str = ""
    hint: str = ""


Look = Callable[[Ground], Awaitable[Finding]]
Fix = Callable[[Ground, Report], Awaitable[None]]


@dataclass(frozen=True)
class Check:
    """One thing that must be so. look only reads; fix makes it so and may run twice."""

    name: str
    why: str
    look: Look
    fix: Fix | None = None


def fine(said: str) -> Finding:
    """It is as it must be."""
    return Finding(Verdict.ok, said)


def warning(said: str, hint: str) -> Finding:
    """It works, at a cost."""
    return Finding(Verdict.warn, said, hint=hint)


def broken(said: str, *, plan: str = "", hint: str = "") -> Finding:
    """It is not as it must be."""
    return Finding(Verdict.fail, said, plan=plan, hint=hint or "Run `taos setup`.")


def unseen(error: IncusError, *, plan: str) -> Finding:
    """It cannot be looked at, as Incus does not tell."""
    silent = isinstance(error, IncusUnreachable)
    return broken(
        "not known while Incus does not answer" if silent else f"Incus says: {error}", plan=plan
    )
