"""Incus's own firewall rules of bridges and NICs, which Incus makes anew when they are gone."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta
from functools import partial

from tinyagentos.host.policy import filters_of, remake_filter, remake_rules
from tinyagentos.host.wall import Filter, Ruleset, has_incus_rules, unfiltered
from tinyagentos.host.walls import Walls
from tinyagentos.incus import Incus, IncusError, Instance, NotFound

_log = logging.getLogger(__name__)
DRIVER = "nftables"
# Until Incus is asked again to make what it did not.
AGAIN_AFTER = timedelta(minutes=10).total_seconds()
UNFILTERED = "its sender's addresses are not filtered"


class IncusRules:
    """Looks after them. The bridges' own tables stand while Incus works, so nothing opens."""

    def __init__(
        self,
        incus: Incus,
        walls: Walls,
        default_bridge: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """default_bridge: that of instances which are being built; it has no policy."""
        self._incus = incus
        self._walls = walls
        self._default = default_bridge
        self._clock = clock
        self._asked: dict[str, float] = {}
        # Whether Incus makes rules of nftables, once that is known.
        self._applies: bool | None = None

    async def keep(self, instances: Iterable[Instance]) -> None:
        """Have bridges and NICs as they must be; what cannot be confined is unplugged.

        Incus is asked for something only when rules are missing.
        """
        nics = filters_of(instances, self._walls.bridges)
        seen = await self._walls.keep()
        if seen is None or not await self._remake(nics, seen):
            return
        seen = await self._walls.keep()
        bare = unfiltered(nics, seen) if seen else ()
        for nic in nics:
            if nic in bare:
                await self._walls.unplug(nic.link, UNFILTERED)
            else:
                await self._walls.plug(nic.link)

    async def _remake(self, nics: tuple[Filter, ...], seen: Ruleset) -> bool:
        """Have Incus make what is missing; whether NICs are to be looked at again."""
        lacking, bare = self._lacking(seen), unfiltered(nics, seen)
        for name in self._asked.keys() - {*lacking, *(nic.link for nic in bare)}:
            del self._asked[name]
        if not lacking and not bare:
            return bool(self._walls.record.unplugged)
        if not await self._is_nftables():
            return False
        for bridge in lacking:
            await self._ask(bridge, bridge, partial(remake_rules, bridge, self._incus))
        for nic in bare:
            await self._ask(nic.link, nic.instance, partial(remake_filter, nic, self._incus))
        return True

    def _lacking(self, seen: Ruleset) -> tuple[str, ...]:
        found = {name: has_incus_rules(name, seen, acl=True) for name in self._walls.bridges}
        found[self._default] = has_incus_rules(self._default, seen, acl=False)
        return tuple(name for name, is_whole in found.items() if not is_whole)

    async def _is_nftables(self) -> bool:
        if self._applies is None:
            try:
                self._applies = (await self._incus.server()).firewall == DRIVER
            except IncusError as error:
                _log.warning("Incus cannot be asked for its firewall: %s", error)
                return True
            if not self._applies:
                _log.warning("Incus does not use nftables: its own rules are not looked after")
        return self._applies

    async def _ask(self, key: str, what: str, remake: Callable[[], Awaitable[None]]) -> None:
        now = self._clock()
        if self._asked.get(key, now) > now:
            return
        self._asked[key] = now + AGAIN_AFTER
        try:
            await remake()
            _log.warning("Incus made its firewall rules of %s anew", what)
        except (IncusError, NotFound, KeyError) as error:
            _log.warning("Incus did not make its firewall rules of %s anew: %s", what, error)
