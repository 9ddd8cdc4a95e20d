"""What agents took over a day: a value for each minute, small enough for hundreds of agents."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from tinyagentos.incus import Instance

EVERY = 60.0
KEPT = 24 * 60
# Listing instances with what they use costs Incus some milliseconds each. It is done again after so
# many times as long as it took: on two processors that both work on it, 0.7 % of one at most.
REST = 300


@dataclass(frozen=True)
class Usage:
    """What an agent takes now. cpu: share of one processor, None until it was seen twice."""

    memory_bytes: int
    cpu: float | None
    disk_bytes: int | None


class Meter:
    """Usage from one look to the next, by instance."""

    def __init__(self) -> None:
        self._spent: dict[str, tuple[float, int]] = {}
        self._shares: dict[str, float | None] = {}

    def measure(self, instances: Iterable[Instance], now: float) -> dict[str, Usage]:
        """What those of them take that run. now: seconds of any clock."""
        usage, spent, shares = {}, {}, {}
        for one in instances:
            if one.state is None or not one.is_running:
                continue
            at, before = self._spent.get(one.name, (now, one.state.cpu_ns))
            share = self._shares.get(one.name)
            if now - at > 1:  # what a shorter while says is mostly chance
                share = max(0.0, round((one.state.cpu_ns - before) / 1e9 / (now - at), 2))
                at, before = now, one.state.cpu_ns
            spent[one.name], shares[one.name] = (at, before), share
            disk = sum(one.state.disk_bytes.values()) or None
            usage[one.name] = Usage(one.state.memory_bytes, share, disk)
        self._spent, self._shares = spent, shares
        return usage


@dataclass(frozen=True)
class Taken:
    """What one instance took in each minute, the latest last. Eight bytes a minute."""

    memory_kib: array[int] = field(default_factory=lambda: array("I"))
    cpu: array[float] = field(default_factory=lambda: array("f"))

    def add(self, usage: Usage | None, minutes: int) -> None:
        """It took that for so many minutes; None: it did not run."""
        count = min(minutes, KEPT)
        self.memory_kib.extend([usage.memory_bytes >> 10 if usage else 0] * count)
        self.cpu.extend([(usage.cpu or 0.0) if usage else 0.0] * count)
        del self.memory_kib[:-KEPT], self.cpu[:-KEPT]


class History:
    """The last day of every instance that ran in it."""

    def __init__(self) -> None:
        self._taken: dict[str, Taken] = {}
        self._noted: float | None = None

    def note(self, there: Collection[str], usage: Mapping[str, Usage], now: float) -> None:
        """Keep what instances take since it was noted last; of those that are gone nothing.

        there: all instances; usage: what those take that run.
        """
        passed = EVERY if self._noted is None else now - self._noted
        self._noted = now
        for name in self._taken.keys() - set(there):
            del self._taken[name]
        for name in self._taken.keys() | usage.keys():
            taken = self._taken.get(name)
            # Of one that is new nothing is known before this minute.
            minutes = max(1, round(passed / EVERY)) if taken else 1
            self._taken.setdefault(name, Taken()).add(usage.get(name), minutes)

    def find(self, name: str) -> Taken | None:
        """What the instance took; None when it did not run yet."""
        return self._taken.get(name)


def pause_after(took: float) -> float:
    """Seconds until the next listing when one took so long."""
    return max(EVERY, REST * took)
