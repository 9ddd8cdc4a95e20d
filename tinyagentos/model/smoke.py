"""A check of an image, and what it means when one failed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from tinyagentos.model.errors import SmokeFailed


class CheckState(StrEnum):
    """How a check ended. One that could not be tried is never called passed."""

    passed = "ok"
    failed = "failed"
    not_run = "not run"


@dataclass(frozen=True)
class Check:
    """One check. detail: what was seen, why it failed, or why it could not be run."""

    name: str
    state: CheckState
    seconds: float
    detail: str


def raise_failed(checks: Iterable[Check], image: str) -> None:
    """Return when none of the checks failed, else raise SmokeFailed naming what did."""
    failed = [one for one in checks if one.state is CheckState.failed]
    if not failed:
        return
    more = f" {len(failed) - 1} more failed." if len(failed) > 1 else ""
    raise SmokeFailed(
        f"{image} failed the check {failed[0].name!r}: {failed[0].detail.rstrip('.')}.{more}",
        hint="Do not publish it. `taos image smoke FILE` checks it again.",
    )
