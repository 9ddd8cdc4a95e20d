"""Whatever agents and providers send ends in a value or in the error that is meant for it."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.fuzz import TEXTS, bounded, deep, json_like
from tests.unit.gateway.conftest import Asking
from tests.unit.gateway.test_offline import GOOD
from tinyagentos.gateway import answers
from tinyagentos.gateway.dialects import Dialect, Exchange, make_exchange
from tinyagentos.gateway.events import Events, TooLarge, data_of
from tinyagentos.gateway.offline import without_fetching
from tinyagentos.gateway.reading import (
    answer_tokens,
    count_values,
    parse_json,
    question_tokens,
    read_json,
)
from tinyagentos.gateway.relay import UNREADABLE
from tinyagentos.gateway.translate import to_chat, to_messages
from tinyagentos.model.errors import InvalidInput
from tinyagentos.model.provider import ProviderKind

NAMES = [
    "messages", "role", "content", "type", "text", "tools", "tool_calls", "function", "name",
    "arguments", "id", "index", "input", "tool_use_id", "tool_call_id", "source", "data", "url",
    "image_url", "choices", "delta", "message", "finish_reason", "usage", "prompt_tokens",
    "completion_tokens", "input_tokens", "output_tokens", "content_block", "thinking", "error",
    "partial_json", "stop_reason", "system", "stream", "stream_options", "max_tokens", "n", "stop",
    "temperature", "tool_choice", "response_format", "output_config", "format", "schema", "file",
]  # fmt: skip
WORDS = [
    "user", "assistant", "system", "tool", "text", "image_url", "tool_use", "tool_result",
    "function", "image", "document", "base64", "url", "thinking", "refusal", "message_start",
    "content_block_start", "content_block_delta", "content_block_stop", "message_delta",
    "message_stop", "error", "stop", "tool_calls", "auto", "any", "none", "json_schema", "{}",
]  # fmt: skip
JSON = json_like(NAMES, WORDS)
OBJECTS = st.dictionaries(st.sampled_from(NAMES) | TEXTS, JSON, max_size=6)
CALLS = st.sampled_from(list(Dialect))
PIECES = st.sampled_from([
    b"\n", b"\r", b"\r\n", b"data:", b"data: ", b"event: x", b":", b"{", b"}", b'"a"', b"[DONE]",
    b"\x00", b"\xff", b"\xef\xbb\xbf", b"NaN", b"1e999", b'{"choices":[]}', b"9" * 5000,
]) | st.binary(max_size=6)  # fmt: skip
HOSTILE = [
    b"", b"\x00", b"\xff\xfe", b"NaN", b"Infinity", b"-Infinity", b"1e999", b"9" * 5000,
    b'{"a":1,"a":2}', b'"\\ud800"', b'{"a":NaN}', b'{"temperature":1e999}', b"\xef\xbb\xbf{}",
    deep(b"[", 100_000, b"]"), deep(b'{"a":', 100_000, b"}"), b"[" * 1000, b"[" + b"1," * 90_000,
    b'{"a":"' + b"\\u0000" * 1000 + b'"}',
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("read", [read_json, parse_json])
def test_a_hostile_text_is_a_value_or_no_json(text: bytes, read: Any) -> None:
    begun = time.process_time()
    try:
        value = read(text)
    except ValueError:
        value = None
    # What was read can be written again as JSON that everybody reads.
    json.dumps(value, allow_nan=False)
    assert time.process_time() - begun < 2


@given(st.binary(max_size=60) | st.lists(PIECES, max_size=20).map(b"".join))
@bounded(80)
def test_any_bytes_are_a_value_or_no_json(text: bytes) -> None:
    assert count_values(text) <= len(text)
    for read in (read_json, parse_json):
        try:
            value = read(text)
        except ValueError:
            continue
        json.dumps(value, allow_nan=False)
    assert data_of(text) is None or isinstance(data_of(text), dict)


@given(st.lists(PIECES, max_size=30))
@bounded(80)
def test_a_stream_means_the_same_however_it_is_cut(pieces: list[bytes]) -> None:
    def read(chunks: list[bytes]) -> list[object]:
        events = Events()
        found = [event for chunk in chunks for event in events.feed(chunk)]
        return [data_of(event) for event in (*found, *events.rest()) if data_of(event)]

    whole = b"".join(pieces)
    assert read(pieces) == read([bytes([one]) for one in whole])


def test_a_stream_without_an_end_is_let_go() -> None:
    events, begun = Events(), time.process_time()
    chunks = (event for _ in range(1000) for event in events.feed(b"x" * 64 * 1024))
    with pytest.raises(TooLarge):
        list(chunks)
    assert time.process_time() - begun < 5


@given(OBJECTS)
@bounded(100)
def test_any_question_is_worded_or_refused(asked: dict[str, Any]) -> None:
    assert question_tokens(1000, asked) >= 0
    assert answer_tokens(asked) > 0
    for word in (to_messages, to_chat):
        with contextlib.suppress(InvalidInput):
            json.dumps(word(asked))


def mutate(value: Any, data: st.DataObject) -> Any:
    """A good question with something put into some place of it."""
    made = copy.deepcopy(value)
    for _ in range(data.draw(st.integers(1, 3))):
        place = made
        while isinstance(place, dict | list) and place:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = data.draw(st.sampled_from(keys))
            if not isinstance(place[key], dict | list) or data.draw(st.booleans()):
                place[key] = data.draw(JSON)
                break
            place = place[key]
    return made


@given(CALLS, st.booleans(), st.data())
@bounded(100)
def test_a_question_that_is_nearly_right_is_worded_or_refused(
    dialect: Dialect, anthropic: bool, data: st.DataObject
) -> None:
    asked = mutate(GOOD[dialect.value], data)
    with contextlib.suppress(InvalidInput):
        asked = without_fetching(asked, dialect.value)
    try:
        exchange = make_exchange(asked, "m", dialect, anthropic=anthropic)
    except InvalidInput:
        return
    json.dumps(exchange.body)


def exchanges() -> Iterator[Exchange]:
    """One for each way between an agent and a provider."""
    for dialect in (Dialect.chat, Dialect.messages):
        for anthropic in (False, True):
            asked = {**GOOD[dialect.value], "stream": True}
            asked.pop("response_format", None)
            asked["tools"] = []
            asked["messages"] = [{"role": "user", "content": "Hi"}]
            asked.pop("tool_choice", None)
            asked.pop("system", None)
            yield make_exchange(asked, "m", dialect, anthropic=anthropic, question_tokens=3)


@given(st.lists(OBJECTS | JSON, max_size=5))
@bounded(80)
def test_any_answer_is_passed_on_or_unreadable(said: list[Any]) -> None:
    for exchange in exchanges():
        passed = b""
        try:
            for one in said:
                event = b"data: " + json.dumps(one).encode()
                passed += b"".join(exchange.event(event))
            passed += b"".join(exchange.end())
        except UNREADABLE:
            pass
        assert all(isinstance(one, int) and 0 <= one < 10**14 for one in exchange.tokens)
    for exchange in exchanges():
        with contextlib.suppress(UNREADABLE):
            exchange.whole(json.dumps(said[0] if said else None).encode())


ANSWERS: list[Any] = [
    {"id": "c", "choices": [{"index": 0, "delta": {"content": "a", "tool_calls": [
        {"index": 0, "id": "1", "function": {"name": "f", "arguments": "{}"}}]}}]},
    {"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
     "usage": {"prompt_tokens": 1, "completion_tokens": 2}},
    {"id": "c", "choices": [{"message": {"content": "a", "tool_calls": [
        {"id": "1", "function": {"name": "f", "arguments": "{}"}}]}, "finish_reason": "stop"}]},
    {"type": "message_start", "message": {"id": "m", "usage": {"input_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {
        "type": "tool_use", "id": "1", "name": "f", "input": {}}},
    {"type": "content_block_delta", "index": 0, "delta": {"partial_json": "{}"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}},
    {"id": "m", "content": [{"type": "text", "text": "a"}, {"type": "tool_use", "id": "1",
     "name": "f", "input": {}}], "stop_reason": "end_turn", "usage": {"input_tokens": 1}},
]  # fmt: skip


@given(st.data())
@bounded(100)
def test_an_answer_that_is_nearly_right_is_passed_on_or_unreadable(data: st.DataObject) -> None:
    said = [mutate(data.draw(st.sampled_from(ANSWERS)), data) for _ in range(3)]
    for exchange in exchanges():
        with contextlib.suppress(UNREADABLE):
            for one in said:
                for event in exchange.event(b"data: " + json.dumps(one).encode()):
                    assert isinstance(event, bytes)
        with contextlib.suppress(UNREADABLE):
            assert isinstance(exchange.whole(json.dumps(said[0]).encode()), bytes)
        assert all(isinstance(one, int) and 0 <= one < 10**14 for one in exchange.tokens)


@given(OBJECTS)
@bounded(80)
def test_what_is_told_of_any_answer(said: dict[str, Any]) -> None:
    given_tokens, made = answers.read_usage(said)
    assert 0 <= given_tokens < 10**14
    assert 0 <= made < 10**14
    assert isinstance(answers.error_of(said), str)
    for ask in (answers.is_content, answers.is_last):
        assert isinstance(ask(said), bool)
    with contextlib.suppress(UNREADABLE):
        assert answers.text_bytes(said) >= 0


@pytest.mark.parametrize("kind", list(ProviderKind))
@pytest.mark.parametrize("may_fetch", [True, False])
async def test_any_question_to_the_gateway_has_an_answer_and_no_traceback(
    ask: Asking, kind: ProviderKind, may_fetch: bool, caplog: pytest.LogCaptureFixture
) -> None:
    await ask.add("one", kind)
    ask.choose("one/large")
    ask.may_fetch = may_fetch
    chance = random.Random(7)
    for number in range(60):
        call = chance.choice(list(Dialect)).value
        text = bytearray(json.dumps(GOOD[call]).encode())
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(len(text))
            text[at : at + chance.randrange(3)] = chance.choice(
                [b"null", b"[]", b"{}", b'"', b"\xff", b"\x00", b"NaN", b"1e999", b"-1", b"\\ud800"]
            )
        body = HOSTILE[number % len(HOSTILE)] if number % 3 == 0 else bytes(text)
        async with ask.agent.post(f"/v1/{call}", data=body) as response:
            said = await response.read()
            assert response.status in {200, 400, 404, 413, 502}, said
            if response.status != 200:
                assert json.loads(said)["error"]["message"]
    assert [one for one in caplog.records if one.exc_info or one.levelno >= logging.ERROR] == []


@pytest.mark.parametrize("kind", list(ProviderKind))
async def test_any_answer_of_a_provider_ends_in_json_that_everybody_reads(
    ask: Asking, kind: ProviderKind, caplog: pytest.LogCaptureFixture
) -> None:
    fake = await ask.add("one", kind)
    ask.choose("one/large")
    ends = b'"choices":[{"index":0,"delta":{"content":NaN}}]', b'"type":"message_stop"'
    for text in (*HOSTILE, *(b"{%b}" % one for one in ends), b'{"usage":{"input_tokens":1e999}}'):
        for call in ("chat/completions", "messages"):
            fake.raw, fake.events = text, None
            status, _ = await ask.post(call, {**GOOD[call], "messages": [], "max_tokens": 5})
            assert status in {200, 400, 502}
            fake.raw, fake.events = None, (b"data: " + text + b"\n\n",)
            asked = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 5}
            status, _ = await ask.post(call, {**asked, "stream": True})
            assert status in {200, 502, 504}
    assert [one for one in caplog.records if one.exc_info or one.levelno >= logging.ERROR] == []
