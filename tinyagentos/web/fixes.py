"""Fixes under way: each thing of the host is mended once at a time, and all open pages see how."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace

from nicegui import background_tasks

from tinyagentos.host.check import Check, Report
from tinyagentos.incus import IncusError
from tinyagentos.model.errors import TaosError
from tinyagentos.model.job import Problem

Mend = Callable[[Check, Report], Awaitable[None]]
WAITS = "waits until another fix is done"


@dataclass(frozen=True)
class FixRun:
    """One run of a fix: what it said so far, and how it ended. began_at: of a monotonic clock."""

    began_at: float
    lines: tuple[str, ...] = ()
    is_running: bool = True
    problem: Problem | None = None


@dataclass
class Fixes:
    """The runs of fixes by the name of their check; the last one of each is kept.

    mend: makes the check pass, and reports. explain: a failure in words.
    """

    mend: Mend
    explain: Callable[[BaseException], Problem]
    clock: Callable[[], float] = time.monotonic
    _runs: dict[str, FixRun] = field(default_factory=dict)
    _shows: dict[Callable[[], None], None] = field(default_factory=dict)
    # Two of them at once could both want the package manager, or the Incus that one restarts.
    _one: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def runs(self) -> Mapping[str, FixRun]:
        """The last run of each fix."""
        return self._runs

    def begin(self, check: Check) -> None:
        """Have the check mended; nothing more happens when that is under way."""
        found = self._runs.get(check.name)
        if not (found and found.is_running):
            background_tasks.create(self.run(check), name=f"fix {check.name}")

    async def run(self, check: Check) -> None:
        """Mend the check, and keep what is said and how it ends."""
        name = check.name
        self._put(name, FixRun(self.clock()))

        def report(line: str) -> None:
            run = self._runs[name]
            self._put(name, replace(run, lines=(*run.lines, line.strip())))

        problem: Problem | None = None
        try:
            if self._one.locked():
                report(WAITS)
            async with self._one:
                await self.mend(check, report)
        except (TaosError, IncusError) as error:
            problem = self.explain(error)
        except Exception as error:
            problem = self.explain(error)
            raise
        finally:
            self._put(name, replace(self._runs[name], is_running=False, problem=problem))

    def listen(self, show: Callable[[], None]) -> Callable[[], None]:
        """Have show called after each change; what is returned ends that."""
        self._shows[show] = None

        def end() -> None:
            self._shows.pop(show, None)

        return end

    def _put(self, name: str, run: FixRun) -> None:
        self._runs[name] = run
        for show in tuple(self._shows):
            show()
