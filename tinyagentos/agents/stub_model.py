"""A model server that answers every question with one word: it shows whether questions arrive."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from tinyagentos.gateway.reading import read_json

MODEL = "stub"
CLOSE_WITHIN = 2.0
LARGEST_QUESTION = 16 * 1024 * 1024


@dataclass
class StubModel:
    """Where it listens, what it answers, the key it knows, and what it was called with."""

    port: int
    word: str
    key: str
    callers: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Its address as a provider has it."""
        return f"http://127.0.0.1:{self.port}/v1"


@asynccontextmanager
async def stub_model(word: str) -> AsyncIterator[StubModel]:
    """A server on a free port of the loopback that speaks as OpenAI's chat completions do."""
    stub = StubModel(0, word, secrets.token_hex(16))

    async def answer(request: web.Request) -> web.StreamResponse:
        stub.callers.append(request.headers.get("Authorization", "").removeprefix("Bearer "))
        stub.questions.append((await request.read()).decode(errors="replace"))
        try:
            asked = read_json(await request.read())
        except ValueError:
            asked = None
        if not isinstance(asked, dict):
            return web.json_response({"error": {"message": "This is no question."}}, status=400)
        if not asked.get("stream"):
            return web.json_response(_whole(word))
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        for part in (_part({"role": "assistant", "content": word}, None), _part({}, "stop")):
            await stream.write(f"data: {json.dumps(part)}\n\n".encode())
        await stream.write(b"data: [DONE]\n\n")
        return stream

    app = web.Application(client_max_size=LARGEST_QUESTION)
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app, shutdown_timeout=CLOSE_WITHIN)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        stub.port = runner.addresses[0][1]
        yield stub
    finally:
        await asyncio.shield(runner.cleanup())


def _whole(word: str) -> dict[str, object]:
    message = {"role": "assistant", "content": word}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return {"id": MODEL, "object": "chat.completion", "created": 0, "model": MODEL,
            "choices": [choice], "usage": usage}  # fmt: skip


def _part(delta: dict[str, str], finished: str | None) -> dict[str, object]:
    choice = {"index": 0, "delta": delta, "finish_reason": finished}
    return {"id": MODEL, "object": "chat.completion.chunk", "created": 0, "model": MODEL,
            "choices": [choice]}  # fmt: skip
