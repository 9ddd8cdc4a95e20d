"""What a hostile agent cannot use up: memory, connections, the month's budget."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.provider import never
from tests.unit.gateway.conftest import AGENT, HOST_KEY, QUESTION, Asking, asking, under_way
from tinyagentos.gateway.limits import MIB, Limits
from tinyagentos.gateway.tokens import model_token
from tinyagentos.model.provider import ModelChoice, parse_model

OTHER = "other-123456"
HEAD = (
    "POST /v1/messages HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
    f"Authorization: Bearer {model_token(HOST_KEY, AGENT)}\r\n\r\n"
).encode()


def with_picture(size: int, text: str = "What is this?") -> dict[str, Any]:
    """A question with a picture of so many bytes."""
    url = "data:image/png;base64," + "A" * size
    parts = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": url}}]
    return {"messages": [{"role": "user", "content": parts}]}


async def test_pictures_of_some_megabytes_are_asked_about(ask: Asking) -> None:
    fake = await ask.add("one")
    ask.choose("one/x")
    for text in ("What is this?", "What is this? 🙂"):
        asked = with_picture(8 * MIB, text)
        assert (await ask.chat(**asked))[0] == 200
        assert fake.calls[-1][1]["messages"] == asked["messages"]


@pytest.mark.parametrize("call", ["chat/completions", "messages", "embeddings"])
async def test_a_question_of_too_many_values_is_refused_with_a_sentence(
    ask: Asking, call: str
) -> None:
    fake = await ask.add("one")
    ask.choose("one/x")
    for body, refused, why in (
        (b'{"messages":[' + b"{}," * 1_000_000 + b"{}]}", 413, "too many parts"),
        (b'{"messages":' + b"[" * 50_000 + b"]" * 50_000 + b"}", 400, "too deep"),
    ):
        async with ask.agent.post(f"/v1/{call}", data=body) as response:
            said = await response.json()
            assert (response.status, why in said["error"]["message"]) == (refused, True)
    assert not fake.calls


async def test_what_can_just_be_read_can_be_sent_on_or_is_refused(ask: Asking) -> None:
    for name in ("one", "two"):
        await ask.add(name)
    ask.choose("one/x", "two/x")
    for depth in range(700, 1000, 20):
        inner = b"[" * depth + b"]" * depth
        async with ask.agent.post(
            "/v1/chat/completions", data=b'{"messages":[],"x":' + inner + b"}"
        ) as response:
            assert response.status in (200, 400), await response.text()


async def test_large_questions_of_one_agent_leave_room_for_others(tmp_path: Path) -> None:
    limits = Limits(agent_bytes=9 * MIB, host_bytes=20 * MIB)
    async with asking(tmp_path, limits) as ask:
        await ask.add("one", wait=never)
        await ask.add("fine")
        ask.choose("one/x")
        large = with_picture(2 * MIB)
        async with under_way(ask, 1, **large):
            status, said = await ask.chat(**large)
            assert (status, said["error"]["type"]) == (429, "rate_limit_error")
            ask.choices[OTHER] = ModelChoice((parse_model("fine/x"),))
            headers = {"Authorization": f"Bearer {model_token(HOST_KEY, OTHER)}"}
            for question in (large, QUESTION):
                assert (await ask.post("chat/completions", question, headers))[0] == 200
        ask.choose("fine/x")
        assert (await ask.chat(**large))[0] == 200
        assert (await ask.chat(**with_picture(4 * MIB)))[0] == 413


async def test_the_host_has_an_end_too(tmp_path: Path) -> None:
    async with asking(tmp_path, Limits(host_bytes=9 * MIB)) as ask:
        await ask.add("one", wait=never)
        ask.choose("one/x")
        large = with_picture(2 * MIB)
        async with under_way(ask, 1, **large):
            ask.choices[OTHER] = ask.choices[AGENT]
            headers = {"Authorization": f"Bearer {model_token(HOST_KEY, OTHER)}"}
            status, said = await ask.post("chat/completions", large, headers)
            assert (status, said["error"]["type"]) == (429, "rate_limit_error")
            assert "host" in said["error"]["message"]


async def test_a_whole_answer_that_has_no_end_is_given_up(tmp_path: Path) -> None:
    async with asking(tmp_path, Limits(agent_bytes=MIB)) as ask:
        await ask.add("one", raw=b" " * (2 * MIB))
        ask.choose("one/x")
        assert (await ask.chat())[0] == 413


async def test_a_question_that_breaks_off_or_never_ends(tmp_path: Path) -> None:
    async with asking(tmp_path, Limits(read_within=0.2)) as ask:
        fake = await ask.add("one")
        ask.choose("one/x")
        reader, writer = await asyncio.open_unix_connection(str(ask.socket))
        writer.write(HEAD + b'5\r\n{"a":\r\n')
        assert b"408" in await reader.readline()
        writer.close()
        reader, writer = await asyncio.open_unix_connection(str(ask.socket))
        writer.write(HEAD + b"nonsense\r\n")
        assert b"400" in await reader.readline()
        writer.close()
        assert not fake.calls
        assert ask.used.errors >= 1


async def test_connections_that_say_nothing_are_few_and_do_not_last(tmp_path: Path) -> None:
    limits = Limits(connections_each=5, idle_within=1.0)
    async with asking(tmp_path, limits) as ask:
        await ask.add("one")
        ask.choose("one/x")
        opened = [await asyncio.open_unix_connection(str(ask.socket)) for _ in range(300)]
        ends = [asyncio.create_task(reader.read()) for reader, _ in opened]
        async with asyncio.timeout(5):
            while sum(end.done() for end in ends) < 295:
                await asyncio.sleep(0.01)
        waiting = [number for number, end in enumerate(ends) if not end.done()]
        assert len(waiting) == 5
        # A byte now and then, or half a head, is no request.
        for number in waiting:
            opened[number][1].write(HEAD[: 10 * number])
        await asyncio.wait_for(asyncio.gather(*ends, return_exceptions=True), 5)
        assert (await ask.chat())[0] == 200
        for _, writer in opened:
            writer.close()


async def test_a_connection_may_wait_for_its_answer_but_is_not_kept_for_nothing(
    tmp_path: Path,
) -> None:
    async def slow(number: int) -> None:
        await asyncio.sleep(0.3)

    async with asking(tmp_path, Limits(idle_within=0.2)) as ask:
        await ask.add("one", says=("a", "b", "c"), wait=slow)
        ask.choose("one/x")
        reader, writer = await asyncio.open_unix_connection(str(ask.socket))
        body = json.dumps(QUESTION | {"stream": True, "max_tokens": 9}).encode()
        writer.write(HEAD + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        async with asyncio.timeout(10):
            said = await reader.read()  # until the connection is closed
        assert b"message_stop" in said
        writer.close()
