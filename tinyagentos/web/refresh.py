"""Filling an open page: it is useful at once, and what has to be asked for comes later."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from nicegui import background_tasks, ui

from tinyagentos.model.errors import HostNotReady

# Somebody looks at a page meanwhile; an Incus that is well answers in milliseconds.
ASK_WITHIN = 8.0
T = TypeVar("T")


class Refresh:
    """Does something for an open page, in the background: one at a time, and again when asked.

    Who calls it never waits, so a page that waits for Incus keeps no other page from its news.
    """

    def __init__(self, act: Callable[[], Awaitable[None]], name: str) -> None:
        self._act = act
        self._name = name
        self._client = ui.context.client
        self._client.on_delete(self._end)
        self._wanted = False
        self._task: asyncio.Task[None] | None = None

    def __call__(self) -> None:
        """Have it done soon; asked for meanwhile, it is done once more."""
        self._wanted = True
        if self._task is None or self._task.done():
            self._task = background_tasks.create(self._run(), name=self._name)

    async def _run(self) -> None:
        with self._client:
            while self._wanted:
                self._wanted = False
                await self._act()

    def _end(self) -> None:
        if self._task:
            self._task.cancel()


async def within_reason(asked: Awaitable[T], seconds: float = ASK_WITHIN) -> T:
    """What Incus answers; HostNotReady when it keeps silent for longer than a person waits."""
    try:
        async with asyncio.timeout(seconds):
            return await asked
    except TimeoutError as error:
        raise HostNotReady("Incus does not answer.", hint="Run `taos doctor`.") from error
