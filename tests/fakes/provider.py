"""A provider on the loopback that speaks both dialects and misbehaves when told."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

KEY = "sk-the-providers-own-key"


@dataclass
class FakeProvider:
    """Where it listens, what it was asked, and how it behaves.

    says: the pieces of its answer. status: answered instead when it is not 200. breaks_after:
    pieces after which a stream is cut off. wait: for each piece of a stream, before it is sent.
    tells: whether it says how many tokens were used. raw, events: sent instead of a whole answer,
    of a stream.
    """

    port: int = 0
    key: str = KEY
    says: tuple[str, ...] = ("Hel", "lo")
    status: int = 200
    sentence: str = "no"
    breaks_after: int | None = None
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    raw: bytes | None = None
    wait: Callable[[int], Any] | None = None
    tells: bool = True
    events: tuple[bytes, ...] | None = None

    @property
    def url(self) -> str:
        """Its address as an OpenAI-like one has it."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def root(self) -> str:
        """Its address as Anthropic and Ollama have it."""
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def fake_provider(**behaviour: Any) -> AsyncIterator[FakeProvider]:
    """One that serves while it lasts."""
    fake = FakeProvider(**behaviour)
    app = web.Application(client_max_size=64 * 1024 * 1024)

    async def serve(request: web.Request) -> web.StreamResponse:
        return await _serve(fake, request)

    app.router.add_route("*", "/v1/{call:.*}", serve)
    runner = web.AppRunner(app, shutdown_timeout=1.0, handler_cancellation=True)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        fake.port = runner.addresses[0][1]
        yield fake
    finally:
        await runner.cleanup()


@contextmanager
def serving_provider(**behaviour: Any) -> Iterator[FakeProvider]:
    """The same for a test that is not asynchronous: it serves in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    provider = fake_provider(**behaviour)
    try:
        yield asyncio.run_coroutine_threadsafe(provider.__aenter__(), loop).result(10)
    finally:
        asyncio.run_coroutine_threadsafe(provider.__aexit__(None, None, None), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _serve(fake: FakeProvider, request: web.Request) -> web.StreamResponse:
    call = request.match_info["call"]
    fake.headers.append(dict(request.headers))
    asked = await request.json() if request.can_read_body else {}
    fake.calls.append((call, asked))
    shown = request.headers.get("x-api-key") or request.headers.get("Authorization", "")[7:]
    if fake.key and shown != fake.key:
        return web.json_response({"error": {"message": f"bad key {shown}"}}, status=401)
    if fake.status != 200:
        headers = {"Location": "/v1/models"} if fake.status == 302 else {}
        body = {"error": {"message": fake.sentence}}
        return web.json_response(body, status=fake.status, headers=headers)
    if fake.raw is not None:
        return web.Response(body=fake.raw, content_type="application/json")
    if call == "models":
        return web.json_response({"data": [{"id": "small"}, {"id": "large"}]})
    if call == "embeddings":
        return web.json_response(
            {"data": [{"embedding": [0.5]}], "usage": {"prompt_tokens": 3, "total_tokens": 3}}
        )
    events = _chat_events(fake) if call == "chat/completions" else _message_events(fake)
    if fake.events is not None:
        events = list(fake.events)
    elif not asked.get("stream"):
        whole = _whole_chat(fake) if call == "chat/completions" else _whole_message(fake)
        return web.json_response(whole if fake.tells else {**whole, "usage": None})
    stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await stream.prepare(request)
    for number, event in enumerate(events):
        if fake.breaks_after == number:
            assert request.transport
            request.transport.abort()
            return stream
        if fake.wait:
            await fake.wait(number)
        await stream.write(event)
    return stream


USED_CHAT = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
USED_MESSAGE = {"input_tokens": 7, "output_tokens": 5}


def _whole_chat(fake: FakeProvider) -> dict[str, Any]:
    message = {"role": "assistant", "content": "".join(fake.says)}
    return {"id": "c1", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": USED_CHAT}  # fmt: skip


def _whole_message(fake: FakeProvider) -> dict[str, Any]:
    content = [{"type": "text", "text": "".join(fake.says)}]
    return {"id": "m1", "type": "message", "role": "assistant", "content": content,
            "stop_reason": "end_turn", "usage": USED_MESSAGE}  # fmt: skip


def _chat_events(fake: FakeProvider) -> list[bytes]:
    parts: list[dict[str, Any]] = [
        {"id": "c1", "choices": [{"index": 0, "delta": {"content": one}}]} for one in fake.says
    ]
    parts.append({"id": "c1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    if fake.tells:
        parts.append({"id": "c1", "choices": [], "usage": USED_CHAT})
    return [*(b"data: %b\n\n" % json.dumps(one).encode() for one in parts), b"data: [DONE]\n\n"]


def _message_events(fake: FakeProvider) -> list[bytes]:
    begun: dict[str, Any] = {"id": "m1", "role": "assistant"}
    if fake.tells:
        begun["usage"] = {"input_tokens": 7, "output_tokens": 1}
    block = {"type": "text", "text": ""}
    parts: list[dict[str, Any]] = [
        {"type": "message_start", "message": begun},
        {"type": "content_block_start", "index": 0, "content_block": block},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": one}}
          for one in fake.says),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"},
         "usage": {"output_tokens": 5} if fake.tells else {}},
        {"type": "message_stop"},
    ]  # fmt: skip
    return [f"event: {one['type']}\ndata: {json.dumps(one)}\n\n".encode() for one in parts]


async def never(_: int) -> None:
    """A piece that does not come."""
    await asyncio.Event().wait()
