"""A provider's answer on its way to the agent: whole, or event by event as it comes.

Nothing is passed on before the first event of the answer itself: until then another model can take
over. After it a broken answer ends with an error event.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass

import aiohttp
from aiohttp import web

from tinyagentos.gateway.dialects import Dialect, Exchange, stream_problem
from tinyagentos.gateway.events import Events, TooLarge
from tinyagentos.gateway.limits import Limits
from tinyagentos.gateway.reading import COPIES
from tinyagentos.gateway.refusal import LONGEST_SENTENCE, Refusal
from tinyagentos.gateway.upstream import Upstream
from tinyagentos.model.provider import ModelRef

# Signs of life, and who speaks: what comes before the answer itself.
LARGEST_PREAMBLE = 256 * 1024
# What reading somebody else's body can raise; an event without an end is a ValueError too.
UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
SSE = "text/event-stream"


class AgentLeft(Exception):
    """The agent does not take its answer."""


@dataclass(frozen=True)
class Relay:
    """Between one question of an agent and the model that answers it.

    hold: told how many bytes a whole answer needs, as they come; may raise Refusal.
    """

    request: web.Request
    dialect: Dialect
    model: ModelRef
    exchange: Exchange
    upstream: Upstream
    limits: Limits
    hold: Callable[[int], None]

    async def run(self, response: aiohttp.ClientResponse) -> web.StreamResponse:
        """Pass the answer on.

        Raises Refusal, or what the connection to the provider raises, while nothing of it was.
        """
        is_stream = response.content_type == SSE
        answer = _stream() if is_stream else await self._read_whole(response)
        try:
            if is_stream:
                await self._pass_events(response, answer)
            else:
                await self._taken(answer.prepare(self.request))
                await self._taken(answer.write_eof())
        except AgentLeft:
            # The server would wait for ever for the agent to take what is left.
            if self.request.transport:
                self.request.transport.abort()
        return answer

    async def _read_whole(self, response: aiohttp.ClientResponse) -> web.StreamResponse:
        # The model has done its work, whether the agent gets the answer or not.
        self.exchange.has_begun = True
        body = bytearray()
        async for chunk in response.content.iter_any():
            self.hold(COPIES * len(chunk))
            body += chunk
        try:
            said = self.exchange.whole(self.upstream.clean(bytes(body)))
        except UNREADABLE as error:
            raise self._unreadable() from error
        if self.exchange.failure:
            self.exchange.has_begun = False
            raise self._failed()
        return web.Response(body=said, content_type="application/json")

    async def _pass_events(
        self, response: aiohttp.ClientResponse, answer: web.StreamResponse
    ) -> None:
        """The events as they come; what breaks them off is an event too."""
        try:
            held, begun = b"", time.monotonic()
            async with aclosing(self._worded(response)) as pieces:
                async for piece in pieces:
                    held += piece
                    if self.exchange.has_begun:
                        await self._pass(held, answer)
                        held = b""
                    elif self.exchange.failure:
                        raise self._failed()
                    elif len(held) > LARGEST_PREAMBLE or self._is_late(begun):
                        raise Refusal(504, "timeout_error", f"{self.model} does not begin.")
            if not answer.prepared:
                raise Refusal(502, "provider_error", f"{self.model} ended without an answer.")
        except (aiohttp.ClientError, OSError, *UNREADABLE) as error:
            if not answer.prepared and isinstance(error, UNREADABLE):
                raise self._unreadable() from error
            if not answer.prepared:
                raise
            self.exchange.failure = f"{type(error).__name__}: {error}"
            await self._pass(stream_problem(self.dialect, "The model's answer broke off."), answer)

    async def _worded(self, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
        """What the agent gets, as it comes: the provider's events in its words, without the key."""
        events, size_bytes = Events(), 0

        def say(found: Iterable[bytes]) -> bytes:
            clean = map(self.upstream.clean, found)
            return b"".join(said for event in clean for said in self.exchange.event(event))

        async for chunk in response.content.iter_any():
            size_bytes += len(chunk)
            if size_bytes > self.limits.answer_bytes:
                raise TooLarge("an answer without an end")
            yield say(events.feed(chunk))
        yield say(events.rest()) + b"".join(self.exchange.end())

    async def _pass(self, said: bytes, answer: web.StreamResponse) -> None:
        if not said:
            return
        if not answer.prepared:
            await self._taken(answer.prepare(self.request))
        await self._taken(answer.write(said))

    async def _taken(self, giving: Awaitable[object]) -> None:
        """Wait until the agent has taken it; AgentLeft when it does not."""
        try:
            async with asyncio.timeout(self.limits.silent_within):
                await giving
        except OSError as error:
            raise AgentLeft from error

    def _is_late(self, begun: float) -> bool:
        return time.monotonic() - begun > self.limits.silent_within

    def _unreadable(self) -> Refusal:
        return Refusal(502, "provider_error", f"The answer of {self.model} cannot be read.")

    def _failed(self) -> Refusal:
        said = f"{self.model} broke off: {self.exchange.failure}"
        return Refusal(502, "provider_error", said[:LONGEST_SENTENCE])


def _stream() -> web.StreamResponse:
    return web.StreamResponse(headers={"Content-Type": SSE, "Cache-Control": "no-cache"})
