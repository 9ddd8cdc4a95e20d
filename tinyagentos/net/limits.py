"""How many connections a listener takes, and whom it closes to make room. Pure functions.

A connection costs an open file and some memory before anybody has said who they are. So each caller
has a limit and all callers together have one, and a caller that has not sent a whole request is the
first to be closed.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol, TypeVar

HOUSEHOLD_BITS = 64
# What a caller in the same house needs until its request is there.
HEARD_WITHIN = 0.1


@dataclass(frozen=True)
class Limits:
    """Times in seconds."""

    # All connections, and those of one caller.
    connections: int = 1024
    connections_each: int = 128
    # One in so many of the files that the process may open: the rest is for the Unix socket, the
    # database, Incus and the other listeners.
    files_share: int = 8
    # From the connection, or the answer before, to the last byte of a request.
    request_within: float = 30.0
    # How long a caller may take nothing of an answer that waits for it.
    take_within: float = 60.0
    # Whether a caller at its limit has its oldest idle connection closed, or the new one.
    replaces_own: bool = True

    def most(self, files: int) -> int:
        """How many connections there may be. files: the most that this process may open."""
        return max(1, min(self.connections, files // self.files_share))

    def most_each(self, files: int) -> int:
        """How many of them may be one caller's: half of all at most, so that others get in."""
        if not self.replaces_own:
            return self.connections_each
        return max(1, min(self.connections_each, self.most(files) // 2))


class Phase(IntEnum):
    """What a connection is doing; the lower, the sooner it is closed to make room."""

    waiting = 0  # for a whole request, its first or the next one
    stuck = 1  # its caller takes nothing of the answer
    answering = 2  # it has sent a whole request, or is a WebSocket


class Seen(Protocol):
    """A connection as admission sees it. since: when the phase began, in seconds of any clock."""

    @property
    def phase(self) -> Phase: ...

    @property
    def since(self) -> float: ...


S = TypeVar("S", bound=Seen)


class Room(IntEnum):
    """What has to be done before a connection can be taken."""

    free = 0
    one_of_callers = 1
    one_of_others = 2
    one_of_anybody = 3


def room_for(of_caller: int, of_all: int, limits: Limits, files: int) -> Room:
    """Whose connection has to be closed before a caller can have another.

    of_caller, of_all: how many connections the caller has, and all callers together.
    files: the most that this process may open.
    """
    if of_caller >= limits.most_each(files):
        return Room.one_of_callers
    if of_all >= limits.most(files):
        return Room.one_of_anybody if limits.replaces_own else Room.one_of_others
    return Room.free


def first_to_close(connections: Iterable[S]) -> S | None:
    """The connection to close to make room; None when every one is answering.

    connections: those that wait first, the longest wait before all.
    """
    stuck: S | None = None
    for one in connections:
        if one.phase is Phase.waiting:
            return one
        if one.phase is Phase.stuck and (stuck is None or one.since < stuck.since):
            stuck = one
    return stuck


def needs_to_have_asked(oldest: Seen, now: float) -> bool:
    """Whether a connection is so young that only one with a whole request may take its place.

    Then more are coming than can be heard: who has asked already is not to lose its place to them.
    """
    return oldest.phase is Phase.waiting and now - oldest.since < HEARD_WITHIN


def network_of(address: str) -> str:
    """What a caller is counted by: an IPv4 address, or the network of an IPv6 one.

    A household has one /64 at least, and each of its machines as many addresses as it likes.
    """
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(found), HOUSEHOLD_BITS), strict=False))
