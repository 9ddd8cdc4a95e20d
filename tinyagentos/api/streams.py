"""Answers that go on: server-sent events and logs.

They end when the server stops, and when the caller's session does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from typing import Annotated, Protocol, TypeVar, cast

from fastapi import Depends, FastAPI
from starlette.requests import HTTPConnection

from tinyagentos.access import Access
from tinyagentos.api.auth import SESSION
from tinyagentos.api.services import Services

HEARTBEAT = 15.0
T = TypeVar("T")


def allow_streams(app: FastAPI) -> None:
    """Give the app what ends its streams."""
    app.state.stopping = asyncio.Event()


def end_streams(app: FastAPI) -> None:
    """Let every stream of the app end now."""
    app.state.stopping.set()


class Ends(Protocol):
    """What ends an answer that goes on."""

    async def wait(self) -> object: ...


@dataclass(frozen=True)
class Ending:
    """The server's stop, or the end of the session that the caller came with (its hash)."""

    stopping: asyncio.Event
    access: Access
    session: str

    async def wait(self) -> None:
        """Return when it is there."""
        waits: list[Awaitable[object]] = [self.stopping.wait()]
        if self.session:
            waits.append(self.access.wait_end(self.session))
        tasks = [asyncio.ensure_future(one) for one in waits]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in tasks:
                one.cancel()


def ending_of(caller: HTTPConnection) -> Ending:
    """What ends an answer to the caller."""
    state = caller.app.state  # Starlette's state is untyped
    services = cast(Services, state.services)
    stopping = cast(asyncio.Event, state.stopping)
    return Ending(stopping, services.access, caller.scope.get(SESSION, ""))


Stopping = Annotated[Ending, Depends(ending_of)]


async def paced(
    source: AsyncIterator[T], stopping: Ends, every: float = HEARTBEAT
) -> AsyncIterator[T | None]:
    """What the source gives, and None whenever it gave nothing for a while.

    Ends with the source, or when it is to stop. The source is closed in either case.
    """
    ended = asyncio.ensure_future(stopping.wait())
    coming = asyncio.ensure_future(anext(source))
    try:
        while True:
            done, _ = await asyncio.wait(
                {coming, ended}, timeout=every, return_when=asyncio.FIRST_COMPLETED
            )
            if coming in done:
                try:
                    yield coming.result()
                except StopAsyncIteration:
                    return
                coming = asyncio.ensure_future(anext(source))
            elif ended in done:
                return
            else:
                yield None
    finally:
        ended.cancel()
        coming.cancel()
        # Cancelling the source's step lets it close what it holds; wait until it has.
        await asyncio.wait({coming})
