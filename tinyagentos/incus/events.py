"""What happens in Incus, as it happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime

import aiohttp

from tinyagentos.incus.errors import Forbidden, IncusError
from tinyagentos.incus.operations import Api
from tinyagentos.incus.parse import Object, child, decode, moment, text
from tinyagentos.incus.transport import Texts

HEARTBEAT = 30.0
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 10.0


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    A lifecycle event has an action (`instance-started`) and a source (`/1.0/instances/x`), an
    operation event the operation's status as its action and its path as its source; metadata is
    what else Incus says.
    """

    type: str
    timestamp: datetime | None
    location: str
    project: str
    action: str
    source: str
    metadata: Object

    @property
    def name(self) -> str:
        """The name of the object the event is about."""
        return self.source.partition("?")[0].rsplit("/", 1)[-1]

    @classmethod
    def parse(cls, seen: Object) -> Event:
        """Read Incus's JSON."""
        kind, metadata = text(seen, "type"), child(seen, "metadata")
        is_operation = kind == "operation"
        return cls(
            type=kind,
            timestamp=moment(seen, "timestamp"),
            location=text(seen, "location"),
            project=text(seen, "project"),
            action=text(metadata, "status" if is_operation else "action"),
            source=(
                f"/1.0/operations/{text(metadata, 'id')}"
                if is_operation
                else text(metadata, "source")
            ),
            metadata=metadata,
        )


@dataclass(frozen=True)
class Resync:
    """The events from here on are complete; what happened before is not known: list it."""


async def follow(
    api: Api, types: Sequence[str], *, all_projects: bool
) -> AsyncIterator[Event | Resync]:
    """Events for ever: first a Resync, and again one each time the connection was lost.

    An unreachable daemon is tried again, at longer and longer intervals. Raises Forbidden.
    """
    query: dict[str, str] = {"type": ",".join(types)}
    query = {"all-projects": "true", **query} if all_projects else {**api.query(query)}
    pause = FIRST_PAUSE
    while True:
        async with aclosing(_listen(api, query)) as happening:
            try:
                async for event in happening:
                    pause = FIRST_PAUSE
                    yield event
            except Forbidden:
                raise
            except IncusError:
                pass  # a daemon that restarts; the Resync tells the caller
        await asyncio.sleep(pause)
        pause = min(LONGEST_PAUSE, pause * 2)


async def _listen(api: Api, query: Texts) -> AsyncGenerator[Event | Resync, None]:
    async with api.transport.websocket("/1.0/events", query=query, heartbeat=HEARTBEAT) as socket:
        yield Resync()
        async for message in socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                yield Event.parse(decode(message.data.encode()))
