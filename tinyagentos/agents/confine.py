"""Agents stay confined: rules are looked at every minute, and when something happened to them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tinyagentos.agents.watch import Watch
from tinyagentos.host.incus_rules import IncusRules
from tinyagentos.host.walls import rules_followed
from tinyagentos.incus import IncusError, Instance

LOOK_EVERY = 60.0
# One reload of a firewall is hundreds of changes.
LEAST_PAUSE = 0.5


async def keep_confined(rules: IncusRules, watch: Watch, every: float = LOOK_EVERY) -> None:
    """Look at once, every so many seconds, and soon after rules, instances or agents changed."""
    wake = asyncio.Event()
    listening = asyncio.create_task(_listen(watch, wake.set))
    try:
        with rules_followed(wake.set):
            while True:
                wake.clear()
                await rules.keep(await _instances(watch))
                await asyncio.sleep(LEAST_PAUSE)
                try:
                    async with asyncio.timeout(every - LEAST_PAUSE):
                        await wake.wait()
                except TimeoutError:
                    continue
    finally:
        listening.cancel()


async def _listen(watch: Watch, changed: Callable[[], None]) -> None:
    async for _ in watch.changes():
        changed()


async def _instances(watch: Watch) -> tuple[Instance, ...]:
    try:
        return await watch.instances()
    except IncusError:
        return ()  # bridges are looked after all the same
