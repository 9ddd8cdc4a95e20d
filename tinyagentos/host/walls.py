"""The firewall rules of policies' bridges kept in the kernel: looked at, and loaded again.

They are a second wall before the rules that Incus makes for the same bridges (docs/adr/0075).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from ipaddress import IPv4Address
from pathlib import Path

from tinyagentos import proc
from tinyagentos.host.wall import (
    FAMILY,
    FILTERS,
    INCUS,
    PolicyBridge,
    Rules,
    Ruleset,
    missing_rules,
    parse_ruleset,
    plan_rules,
    render_wall,
)
from tinyagentos.model.errors import CommandFailed, HostNotReady

_log = logging.getLogger(__name__)
WITHIN = 10.0
# A table that goes while it is read, a moment without memory: no reason to unplug anybody.
ATTEMPTS = 2
LINKS = Path("/sys/class/net")
IS_UP = 1
RECORD = "walls.json"
# The kernel tells this group of every change of its nftables rules (linux/netfilter/nfnetlink.h).
NETLINK_NETFILTER, NFTABLES_GROUP = 12, 7


class Firewall:
    """The kernel's firewall and interfaces.

    Every method raises CommandFailed when the kernel or the tool refuses.
    """

    @property
    def is_ours(self) -> bool:
        """Whether this process may look at rules and change them."""
        return os.geteuid() == 0

    async def look(self, bridges: Collection[str]) -> Ruleset:
        """The tables of these bridges and of Incus as they are now."""
        tables = json.loads(await proc.run("nft", "-j", "list", "tables", within=WITHIN))
        here = {
            (one["table"]["family"], one["table"]["name"])
            for one in tables["nftables"] if "table" in one
        }  # fmt: skip
        wanted = here & {INCUS, FILTERS, *((FAMILY, name) for name in bridges)}
        # One each: nft (1.0.6) forgets all tables but one when it is asked for several at once.
        shown = [
            await proc.run("nft", "-j", "list", "table", family, name, within=WITHIN)
            for family, name in sorted(wanted)
        ]
        return parse_ruleset("\n".join(shown))

    async def load(self, rules: str) -> None:
        """Carry out what is written in nft's language, all of it or nothing."""
        await proc.run("nft", "-f", "-", stdin=rules.encode(), within=WITHIN)

    def is_up(self, link: str) -> bool | None:
        """Whether the interface is switched on; None when there is none."""
        try:
            return bool(int((LINKS / link / "flags").read_text(), 16) & IS_UP)
        except OSError:
            return None

    async def switch(self, link: str, *, on: bool) -> None:
        """Switch the interface on or off; nothing passes one that is off."""
        await proc.run("ip", "link", "set", "dev", link, "up" if on else "down", within=WITHIN)


@dataclass(frozen=True)
class Record:
    """What a server has done since it started.

    repaired: how often rules were put back that somebody had removed; at: when last.
    unplugged: why an interface is switched off, by its name.
    """

    repaired: int = 0
    at: datetime | None = None
    unplugged: Mapping[str, str] = field(default_factory=dict)


class Walls:
    """The rules of the bridges that ensure() was called for."""

    def __init__(
        self,
        firewall: Firewall,
        addresses: Callable[[], Awaitable[tuple[IPv4Address, ...]]],
        now: Callable[[], datetime],
        file: Path | None = None,
    ) -> None:
        """addresses: the host's own of now. file: where doctor reads the record, if anywhere."""
        self.firewall = firewall
        self._addresses = addresses
        self._now = now
        self._file = file
        self._bridges: dict[str, PolicyBridge] = {}
        self._host: tuple[IPv4Address, ...] = ()
        # The rules that each bridge had at the last look.
        self._seen: dict[str, Rules] = {}
        self._lock = asyncio.Lock()
        self.record = Record()
        self._note(self.record)

    @property
    def bridges(self) -> tuple[str, ...]:
        """The bridges that have rules here."""
        return tuple(self._bridges)

    async def ensure(self, bridge: PolicyBridge) -> None:
        """Have the bridge's rules in the kernel, with the host's addresses of now.

        Raises HostNotReady when they cannot be loaded; the bridge is switched off then.
        """
        if not self.firewall.is_ours:
            return
        self._host = await self._addresses()
        known = self._bridges.get(bridge.name)
        if known is None and bridge.address not in self._host:
            return  # the Incus that has it is not of this network namespace
        self._bridges[bridge.name] = bridge
        await self.keep()
        if reason := self.record.unplugged.get(bridge.name):
            raise HostNotReady(
                f"The agent cannot be confined: {reason}.",
                hint="`taos doctor` says what is missing.",
            )

    async def forget(self, name: str) -> None:
        """Remove the rules of a bridge that is gone."""
        if self._bridges.pop(name, None):
            self._seen.pop(name, None)
            with contextlib.suppress(CommandFailed):
                await self.firewall.load(
                    f"table {FAMILY} {name} {{}}\ndelete table {FAMILY} {name}"
                )

    async def keep(self) -> Ruleset | None:
        """Have all rules in the kernel, whatever became of them; what is there then.

        None when that is not known, or there are no bridges. Bridges whose rules cannot be loaded
        are switched off.
        """
        if not self._bridges:
            return None
        async with self._lock:
            for _ in range(ATTEMPTS):
                try:
                    return await self._ensure_loaded()
                except CommandFailed as error:
                    why = f"its firewall rules cannot be read ({_clause(error)})"
            for name in tuple(self._bridges):
                await self.unplug(name, why)
            return None

    async def _ensure_loaded(self) -> Ruleset:
        seen = await self.firewall.look(self._bridges)
        if _missing(self._plan(), seen):
            # Perhaps the host has other addresses now.
            self._host = await self._addresses()
        walls = self._plan()
        lacking, removed = _missing(walls, seen), _missing(self._seen, seen)
        for name in lacking:
            await self._load(name, walls[name])
        if lacking:
            seen = await self.firewall.look(self._bridges)
        still = _missing(walls, seen)
        for name in tuple(self._bridges):
            if why := still.get(name):
                await self.unplug(name, f"its firewall rules are missing ({'; '.join(why)})")
            else:
                await self.plug(name)
        if removed:
            self._tell(removed)
        self._seen = {name: wall for name, wall in walls.items() if name not in still}
        return seen

    def _plan(self) -> dict[str, Rules]:
        return {name: plan_rules(one, self._host) for name, one in self._bridges.items()}

    async def _load(self, name: str, rules: Rules) -> None:
        try:
            await self.firewall.load(render_wall(name, rules))
        except CommandFailed as error:
            _log.error("the firewall rules of %s cannot be loaded: %s", name, error.message)

    def _tell(self, removed: Mapping[str, tuple[str, ...]]) -> None:
        said = "; ".join(f"{name}: {', '.join(lacking)}" for name, lacking in removed.items())
        _log.warning("somebody removed firewall rules of agents; they are back: %s", said)
        self._note(replace(self.record, repaired=self.record.repaired + 1, at=self._now()))

    async def unplug(self, link: str, reason: str) -> None:
        """Let nothing pass the interface, and say why."""
        # Incus switches a bridge on whenever it works on it.
        if self.firewall.is_up(link):
            await self._switch(link, on=False)
        if self.record.unplugged.get(link) != reason:
            _log.error("%s is unplugged: %s", link, reason)
            unplugged = {**self.record.unplugged, link: reason}
            self._note(replace(self.record, unplugged=unplugged))

    async def plug(self, link: str) -> None:
        """Let packets pass the interface again."""
        if self.firewall.is_up(link) is False:
            await self._switch(link, on=True)
        if link in self.record.unplugged:
            _log.warning("%s is plugged in again", link)
            rest = {name: why for name, why in self.record.unplugged.items() if name != link}
            self._note(replace(self.record, unplugged=rest))

    async def _switch(self, link: str, *, on: bool) -> None:
        try:
            await self.firewall.switch(link, on=on)
        except CommandFailed as error:
            _log.error("%s cannot be switched: %s", link, error.message)

    def _note(self, record: Record) -> None:
        self.record = record
        if self._file:
            write_record(record, self._file)


def _missing(walls: Mapping[str, Rules], seen: Ruleset) -> dict[str, tuple[str, ...]]:
    found = {name: missing_rules(rules, seen.walls.get(name, {})) for name, rules in walls.items()}
    return {name: lacking for name, lacking in found.items() if lacking}


def write_record(record: Record, file: Path) -> None:
    """Leave the record for doctor; without it doctor knows less, and nothing else is amiss."""
    said = {**vars(record), "at": record.at.isoformat() if record.at else None}
    try:
        part = file.with_suffix(".part")
        part.write_text(json.dumps(said))
        part.replace(file)
    except OSError as error:
        _log.debug("the record of the walls was not written", extra={"because": str(error)})


def read_record(file: Path) -> Record:
    """What the server last wrote; an empty record when it wrote none."""
    try:
        said = json.loads(file.read_text())
        at = datetime.fromisoformat(said["at"]) if said["at"] else None
        return Record(int(said["repaired"]), at, dict(said["unplugged"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Record()


@contextlib.contextmanager
def rules_followed(changed: Callable[[], None]) -> Iterator[None]:
    """Call changed() whenever anybody changes rules of the kernel's nftables.

    Where the kernel does not tell, nothing is called.
    """
    loop = asyncio.get_running_loop()
    try:
        told = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    except OSError as error:
        _log.debug("changes of rules cannot be followed", extra={"because": str(error)})
        yield
        return
    with told:

        def drain() -> None:
            with contextlib.suppress(BlockingIOError):
                while True:
                    _take(told)
            changed()

        told.setblocking(False)
        try:
            told.bind((0, 1 << (NFTABLES_GROUP - 1)))
        except OSError as error:
            _log.debug("changes of rules cannot be followed", extra={"because": str(error)})
        else:
            loop.add_reader(told, drain)
        try:
            yield
        finally:
            loop.remove_reader(told)


def _take(told: socket.socket) -> None:
    try:
        told.recv(1 << 16)
    except OSError as error:
        # There was more than the kernel could keep for us: something did change.
        if error.errno != errno.ENOBUFS:
            raise


def _clause(error: CommandFailed) -> str:
    return " ".join(error.message.split()).rstrip(".")
