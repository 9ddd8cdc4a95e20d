"""What a hostile agent can take of the gateway, and what it counts of a budget."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path

import pytest

from tests.fakes.provider import KEY
from tests.unit.gateway.conftest import QUESTION, Asking, asking
from tests.unit.gateway.test_serve import MESSAGE, events, stream
from tinyagentos.gateway.limits import Limits
from tinyagentos.model.provider import ProviderKind


async def ask_at(path: Path) -> bytes:
    """The answer; nothing where the connection was not let in."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    said = b""
    with contextlib.suppress(ConnectionError):
        said = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    return said


@pytest.mark.parametrize("limits", [Limits(connections=3), Limits(connections_each=3)])
async def test_connections_past_the_limit_are_closed_and_leave_room_when_they_go(
    tmp_path: Path, limits: Limits
) -> None:
    async with asking(tmp_path, limits) as ask:
        path = ask.socket
        held = [await asyncio.open_unix_connection(str(path)) for _ in range(3)]
        await asyncio.sleep(0)
        assert await ask_at(path) == b""
        for _, writer in held:
            writer.close()
            await writer.wait_closed()
        async with asyncio.timeout(5):
            while b"no token" not in await ask_at(path):
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost:"])
async def test_who_asks_nothing_is_shown_out(tmp_path: Path, said: bytes) -> None:
    async with asking(tmp_path, Limits(idle_within=0.05)) as ask:
        reader, writer = await asyncio.open_unix_connection(str(ask.socket))
        writer.write(said)
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()


async def test_who_asks_again_in_time_stays(tmp_path: Path) -> None:
    async with asking(tmp_path, Limits(idle_within=0.5)) as ask:
        reader, writer = await asyncio.open_unix_connection(str(ask.socket))
        for _ in range(4):
            writer.write(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"401" in await asyncio.wait_for(reader.readuntil(b"401"), 5)
            await asyncio.sleep(0.2)
        writer.close()


async def test_a_question_of_very_many_parts_is_not_even_read(ask: Asking) -> None:
    await ask.add("one")
    ask.choose("one/m")
    many = b'{"messages":[' + b"{}," * 400_000 + b"{}]}"
    async with ask.agent.post("/v1/chat/completions", data=many) as response:
        assert response.status == 413
        assert "too many parts" in await response.text()
    status, _ = await ask.chat()
    assert status == 200


async def test_what_all_agents_hold_together_has_a_limit(tmp_path: Path) -> None:
    async with asking(tmp_path, Limits(host_bytes=5000)) as ask:
        await ask.add("one")
        ask.choose("one/m")
        status, said = await ask.chat(messages=[{"role": "user", "content": "x" * 5000}])
        assert (status, said["error"]["type"]) == (429, "rate_limit_error")
        assert (await ask.chat())[0] == 200  # nothing is held when it was refused


async def test_a_stream_without_usage_is_counted_by_what_passed(ask: Asking) -> None:
    pieces = b"".join(
        b"data: " + json.dumps({"choices": [{"delta": {"content": "x"}}]}).encode() + b"\n\n"
        for _ in range(50)
    )
    await ask.add("one", events=(pieces + b"data: [DONE]\n\n",))
    ask.choose("one/m")
    await stream(ask, "chat/completions", messages=[{"role": "user", "content": "y" * 400}])
    assert ask.used.output_tokens >= 50
    assert ask.used.input_tokens >= 100


async def test_questions_at_once_do_not_all_fit_into_what_is_left(ask: Asking) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def wait(_: int) -> None:
        begun.set()
        await go_on.wait()

    fake = await ask.add("one", wait=wait)
    ask.choose("one/m", budget=500)
    first = asyncio.create_task(stream(ask, "chat/completions", max_tokens=1000))
    await begun.wait()
    statuses = [(await ask.chat())[0] for _ in range(5)]
    go_on.set()
    await first
    assert statuses == [429] * 5
    assert len(fake.calls) == 1
    assert (await ask.chat())[0] == 200  # what was promised is settled


@pytest.mark.parametrize("kind", list(ProviderKind))
async def test_an_error_as_the_first_event_lets_the_next_model_answer(
    ask: Asking, kind: ProviderKind
) -> None:
    error = b'event: error\ndata: {"type":"error","error":{"message":"overloaded"}}\n\n'
    await ask.add("one", kind, events=(b": PROCESSING\n\n" + error,))
    await ask.add("two")
    ask.choose("one/m", "two/m")
    text = await stream(ask, "chat/completions")
    assert "".join(one["choices"][0]["delta"].get("content", "") for one in events(text)) == "Hello"


async def test_an_error_later_in_the_stream_is_counted(ask: Asking) -> None:
    said = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\ndata: {"error":{"message":"no"}}\n\n'
    await ask.add("one", events=(said,))
    ask.choose("one/m")
    assert "no" in await stream(ask, "chat/completions")
    assert ask.used.errors == 1


async def test_a_stream_that_only_stops_is_ended_for_the_agent(ask: Asking) -> None:
    said = b'data: {"id":"c","choices":[{"delta":{"content":"x"},"finish_reason":"stop"}]}'
    await ask.add("one", events=(said,))
    ask.choose("one/m")
    kinds = [one["type"] for one in events(await stream(ask, "messages"))]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]


async def test_a_model_of_embeddings_is_asked_by_its_own_name(ask: Asking) -> None:
    fake = await ask.add("one")
    ask.choose("one/chatter")
    for asked, sent in (
        ("text-embedding-3-small", "text-embedding-3-small"),
        ("one/text-embedding-3-small", "text-embedding-3-small"),
        ("default", "chatter"),
        ("one/chatter", "chatter"),
    ):
        status, _ = await ask.post("embeddings", {"model": asked, "input": "x"})
        assert status == 200
        assert fake.calls[-1][1]["model"] == sent


async def test_a_key_that_a_provider_repeats_does_not_reach_the_agent(ask: Asking) -> None:
    await ask.add("one", says=("your key is ", KEY))
    ask.choose("one/m")
    _, said = await ask.chat()
    assert KEY not in json.dumps(said)
    assert KEY not in await stream(ask, "chat/completions")
    await ask.add("two", status=400, sentence="x" * 1990 + KEY)
    ask.choose("two/m")
    _, said = await ask.chat()
    assert KEY[:9] not in json.dumps(said)


async def test_an_agent_that_is_being_answered_is_in_use(ask: Asking) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def wait(_: int) -> None:
        begun.set()
        await go_on.wait()

    await ask.add("one", wait=wait)
    ask.choose("one/m")
    question = asyncio.create_task(
        ask.agent.post("/v1/chat/completions", json=MESSAGE | QUESTION | {"stream": True})
    )
    await begun.wait()
    assert ask.gateway.last_used("hello-abcdef") is not None
    go_on.set()
    (await question).release()


async def test_deep_nonsense_in_an_event_is_passed_over(ask: Asking) -> None:
    deep = b'data: {"usage":' + b"[" * 200_000 + b"\n\n"
    await ask.add("one", events=(deep, b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'))
    ask.choose("one/m")
    await stream(ask, "chat/completions")
    assert ask.used.requests == 1
