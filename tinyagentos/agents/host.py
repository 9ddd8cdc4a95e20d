"""What the agents' side works with: the real objects, chosen by app.py and by tests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address
from pathlib import Path

from tinyagentos.agents.build import Builder
from tinyagentos.agents.uses import Uses
from tinyagentos.agents.watch import Watch
from tinyagentos.config import Settings
from tinyagentos.host.walls import Walls
from tinyagentos.images.line import Line
from tinyagentos.images.service import Images
from tinyagentos.incus import Incus
from tinyagentos.jobs.runner import Runner
from tinyagentos.model.recipe import Recipe
from tinyagentos.store.timings import TimingTable


@dataclass(frozen=True)
class Host:
    """The host as the agents' side sees it. memory_available: bytes the host could give now;
    memory_total: bytes
    it has; slowness: how many times as long as the reference machine it takes for the same work;
    addresses: the host's own.
    """

    settings: Settings
    incus: Incus
    runner: Runner
    timings: TimingTable
    recipes: Mapping[str, Recipe]
    builder: Builder
    images: Images
    line: Line
    arch: str
    key: bytes
    new_suffix: Callable[[], str]
    memory_available: Callable[[], int]
    memory_total: Callable[[], int]
    slowness: Callable[[], float]
    now: Callable[[], datetime]
    watch: Watch
    addresses: Callable[[], Awaitable[tuple[IPv4Address, ...]]]
    uses: Uses
    walls: Walls

    def socket(self, instance: str) -> Path:
        """Where the host reaches the agent's port."""
        return self.settings.agent_sockets / f"{instance}.sock"
