"""Streams: when an answer begins, how it ends, and what never gets to the agent."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.provider import KEY, fake_provider
from tests.unit.gateway.conftest import AGENT, HOST_KEY, QUESTION, Asking, asking
from tinyagentos.gateway.limits import MIB, Limits
from tinyagentos.gateway.tokens import model_token
from tinyagentos.model.provider import NewProvider, ProviderKind, Usage

CALLS = ["chat/completions", "messages"]
MESSAGE: dict[str, Any] = QUESTION | {"max_tokens": 100, "stream": True}


def event(**body: Any) -> bytes:
    """One event of a provider."""
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def piece(text: str = "", **choice: Any) -> bytes:
    """A piece of chat completions."""
    return event(id="c1", choices=[{"index": 0, "delta": {"content": text}} | choice])


COMMENT = b": PROCESSING\n\n"
ROLE = event(id="c1", choices=[{"delta": {"role": "assistant", "content": ""}}])
FILTERS = event(choices=[], prompt_filter_results=[])
OVERLOADED = {"message": "Overloaded", "code": 502}
STARTED = event(type="message_start", message={"id": "m1"})
PING = event(type="ping")
BLOCK = event(type="content_block_start", index=0, content_block={"type": "text", "text": ""})
ERROR = event(type="error", error={"type": "overloaded_error", "message": "Overloaded"})
DELTA = event(type="content_block_delta", index=0, delta={"type": "text_delta", "text": "Half"})

CHAT_PREAMBLES = [(), (COMMENT,), (ROLE,), (FILTERS, COMMENT, ROLE)]
MESSAGES_PREAMBLES = [(), (STARTED, PING), (PING, COMMENT, STARTED, BLOCK)]
FAILURES = [
    *((ProviderKind.openai, (*before, event(error=OVERLOADED))) for before in CHAT_PREAMBLES),
    (ProviderKind.openai, (ROLE, event(object="error", message="Overloaded"))),
    (
        ProviderKind.openai,
        (ROLE, event(choices=[{"delta": {}, "finish_reason": "error"}], error="Overloaded")),
    ),
    *((ProviderKind.anthropic, (*before, ERROR)) for before in MESSAGES_PREAMBLES),
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("kind", "events"), FAILURES)
async def test_an_error_before_anything_was_said_lets_the_next_model_take_over(
    ask: Asking, call: str, kind: ProviderKind, events: tuple[bytes, ...]
) -> None:
    await ask.add("first", kind, events=events)
    await ask.add("second")
    ask.choose("first/x", "second/y")
    status, said = await ask.post(call, MESSAGE)
    assert status == 200
    assert "lo" in said
    assert "Overloaded" not in said
    assert ask.used.errors == 0

    ask.choose("first/x")
    status, said = await ask.post(call, MESSAGE)
    assert (status, said["error"]["type"]) == (502, "provider_error")
    assert "first/x broke off: Overloaded" in said["error"]["message"]
    assert ask.used.errors == 1


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("kind", "events"),
    [(ProviderKind.openai, (ROLE, piece("Half"), event(error=OVERLOADED), b"data: [DONE]\n\n")),
     (ProviderKind.openai, (ROLE + piece("Half") + event(error=OVERLOADED),)),
     (ProviderKind.anthropic, (STARTED, BLOCK, DELTA, ERROR))],
)  # fmt: skip
async def test_an_error_amid_an_answer_is_passed_on_and_counted(
    ask: Asking, call: str, kind: ProviderKind, events: tuple[bytes, ...]
) -> None:
    await ask.add("first", kind, events=events)
    second = await ask.add("second")
    ask.choose("first/x", "second/y")
    status, said = await ask.post(call, MESSAGE)
    assert status == 200
    assert said.index("Half") < said.index("Overloaded")
    assert "message_stop" not in said
    assert not second.calls
    assert ask.used.errors == 1


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("events", [(), (COMMENT,), (ROLE,), (b"data: [DONE]\n\n",), (STARTED,)])
async def test_a_stream_without_an_answer_is_none(
    ask: Asking, call: str, events: tuple[bytes, ...]
) -> None:
    await ask.add("first", events=events)
    await ask.add("second")
    ask.choose("first/x", "second/y")
    assert "lo" in (await ask.post(call, MESSAGE))[1]
    ask.choose("first/x")
    assert (await ask.post(call, MESSAGE))[0] == 502


async def test_signs_of_life_do_not_put_off_the_next_model_for_ever(tmp_path: Path) -> None:
    async def now_and_then(_: int) -> None:
        await asyncio.sleep(0.05)

    async with asking(tmp_path, Limits(silent_within=0.4)) as ask:
        await ask.add("first", events=(COMMENT,) * 1000, wait=now_and_then)
        await ask.add("second")
        ask.choose("first/x", "second/y")
        begun = time.monotonic()
        assert "lo" in (await ask.chat(stream=True))[1]
        assert time.monotonic() - begun < 5


async def test_what_came_before_the_answer_comes_with_it(ask: Asking) -> None:
    await ask.add("one", events=(COMMENT, ROLE, piece("Hi"), piece(finish_reason="stop")))
    ask.choose("one/x")
    _, said = await ask.chat(stream=True)
    assert said.encode() == COMMENT + ROLE + piece("Hi") + piece(finish_reason="stop")


@pytest.mark.parametrize("end", [b"", b"\n", b"data: [DONE]", b"data: [DONE]\n\n"])
async def test_a_stream_ends_whole_however_the_provider_ends_it(ask: Asking, end: bytes) -> None:
    """Without `[DONE]`, and with a last event that has no blank line after it."""
    last = piece("lo", finish_reason="stop")
    events = (piece("Hel"), last, end) if b"D" in end else (piece("Hel"), last.rstrip() + end)
    await ask.add("one", events=events)
    ask.choose("one/x")
    _, said = await ask.post("messages", MESSAGE)
    kinds = [line.split()[1] for line in said.splitlines() if line.startswith("event:")]
    assert kinds == [
        "message_start", "content_block_start", "content_block_delta", "content_block_delta",
        "content_block_stop", "message_delta", "message_stop",
    ]  # fmt: skip
    assert '"lo"' in (await ask.chat(stream=True))[1]


async def test_messages_that_end_without_saying_so_end_chat_completions(ask: Asking) -> None:
    ended = event(type="message_delta", delta={"stop_reason": "end_turn"})
    await ask.add("one", ProviderKind.anthropic, events=(STARTED, BLOCK, DELTA, ended.rstrip()))
    ask.choose("one/x")
    _, said = await ask.chat(stream=True, stream_options={"include_usage": True})
    assert said.endswith("data: [DONE]\n\n")
    assert said.count('"finish_reason":"stop"') == 1
    assert '"usage"' in said


async def test_an_event_that_cannot_be_read_is_not_left_out(ask: Asking) -> None:
    async def one_by_one(_: int) -> None:
        await asyncio.sleep(0.05)

    deep = b'data: {"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}\n\n"
    for broken in (b'data: {"choices": [{"delta"\n\n', deep):
        events = (piece("Hel"), broken, piece("lo", finish_reason="stop"))
        await ask.add("one", events=events, wait=one_by_one)
        ask.choose("one/x")
        errors = ask.used.errors
        _, said = await ask.post("messages", MESSAGE)
        assert "broke off" in said
        assert "message_stop" not in said
        _, said = await ask.chat(stream=True)
        assert broken.decode() in said  # who speaks as the provider does gets it as it is
        assert ask.used.errors == errors + 1
        await ask.add("two")
        await ask.add("one", events=(broken, broken))
        ask.choose("one/x", "two/x")
        assert "lo" in (await ask.post("messages", MESSAGE))[1]


async def test_an_answer_that_has_no_end_is_broken_off(tmp_path: Path) -> None:
    async with asking(tmp_path, Limits(answer_bytes=MIB)) as ask:
        await ask.add("one", events=(piece("x"), *((COMMENT * 5000,) * 100)))
        ask.choose("one/x")
        _, said = await ask.chat(stream=True)
        assert "broke off" in said
        assert len(said) < 2 * MIB
        assert ask.used.errors == 1


async def test_an_agent_that_does_not_take_its_answer_is_cut_off(tmp_path: Path) -> None:
    large = "x" * (8 * MIB)
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {model_token(HOST_KEY, AGENT)}\r\nContent-Length: "
    )
    async with asking(tmp_path, Limits(silent_within=0.5)) as ask:
        await ask.add("one", says=(large, large))
        ask.choose("one/x")
        for streams in (True, False):
            body = json.dumps(QUESTION | {"stream": streams})
            before = ask.used.requests
            _, writer = await asyncio.open_unix_connection(str(ask.socket), limit=1)
            writer.write(f"{head}{len(body)}\r\n\r\n{body}".encode())
            async with asyncio.timeout(5):
                while ask.used.requests == before:
                    await asyncio.sleep(0.02)
            writer.close()


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", [ProviderKind.openai, ProviderKind.anthropic])
async def test_a_key_that_a_provider_quotes_does_not_come_through(
    ask: Asking, call: str, kind: ProviderKind
) -> None:
    await ask.add("one", kind, says=(f"the key {KEY} is", " fine"))
    ask.choose("one/x")
    for streams in (True, False):
        _, said = await ask.post(call, MESSAGE | {"stream": streams})
        assert KEY not in json.dumps(said)
        assert "fine" in json.dumps(said)
    error = f"bad key {KEY}"
    for events in (
        (event(error={"message": error}), event(type="error", error={"message": error})),
        (ROLE, piece("x"), event(error={"message": error})),
        (STARTED, DELTA, event(type="error", error={"message": error})),
    ):
        await ask.add("one", kind, events=events)
        _, said = await ask.post(call, MESSAGE)
        assert KEY not in json.dumps(said)


async def test_half_a_key_does_not_come_through(ask: Asking) -> None:
    for before in range(1950, 2001):
        await ask.add("one", status=400, sentence="x" * before + KEY)
        ask.choose("one/x")
        _, said = await ask.chat()
        assert KEY[:1] not in said["error"]["message"].replace("x", ""), before


async def test_a_key_comes_through_in_no_spelling(ask: Asking) -> None:
    key = 'ab/"cd\\ef/0123456789'
    async with fake_provider(key=key, status=400, sentence=f"see {key}") as fake:
        await ask.providers.add(NewProvider("odd", ProviderKind.openai, fake.url, key=key))
        ask.choose("odd/x")
        assert (await ask.chat())[1]["error"]["message"] == "see …"
        fake.status, fake.raw = 200, json.dumps({"a": key}).replace("/", "\\/").encode()
        assert (await ask.chat())[1] == {"a": "…"}


async def test_a_key_that_is_a_word_leaves_answers_as_they_are(ask: Asking) -> None:
    """Local servers want some key: `ollama` is no secret, and no word to take out of a text."""
    async with fake_provider(key="ollama", says=("ollama is ", "nice")) as fake:
        await ask.providers.add(NewProvider("local", ProviderKind.openai, fake.url, key="ollama"))
        ask.choose("local/x")
        _, said = await ask.chat()
        assert said["choices"][0]["message"]["content"] == "ollama is nice"
        fake.status, fake.sentence = 400, "bad key ollama"
        assert (await ask.chat())[1]["error"]["message"] == "bad key …"


async def test_an_agent_is_in_use_from_its_question_to_the_end_of_its_answer(ask: Asking) -> None:
    going_on = asyncio.Event()

    async def wait(number: int) -> None:
        if number:
            await going_on.wait()

    began = ask.now
    await ask.add("one", wait=wait)
    ask.choose("one/x")
    task = asyncio.create_task(ask.chat(stream=True))
    while not ask.fakes[0].calls:
        await asyncio.sleep(0.01)
    ask.now = began.replace(hour=5)
    assert ask.gateway.last_used(AGENT) == ask.now
    going_on.set()
    assert (await task)[0] == 200
    ended = ask.now
    ask.now = began.replace(hour=9)
    assert ask.gateway.last_used(AGENT) == ended
    async with ask.agent.get("/v1/models"):
        pass
    assert ask.gateway.last_used(AGENT) == ended
    assert ask.used == Usage(1, 0, 7, 5)
