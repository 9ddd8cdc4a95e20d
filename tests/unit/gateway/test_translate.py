"""Each dialect said in the other's words, tools and pictures too."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyagentos.gateway.answers import chat_answer, messages_answer
from tinyagentos.gateway.dialects import Dialect, make_exchange
from tinyagentos.gateway.events import LARGEST_EVENT, Events, TooLarge, data_of
from tinyagentos.gateway.translate import to_chat, to_messages
from tinyagentos.model.errors import InvalidInput

WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}}
CHAT: dict[str, Any] = {
    "model": "m", "max_tokens": 50, "temperature": 0.5, "stop": ["END"],
    "tools": [{"type": "function", "function": {"name": "weather", "description": "tells",
                                                "parameters": WEATHER}}],
    "tool_choice": "required",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [
            {"type": "text", "text": "And this?"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "t1", "type": "function",
             "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}]},
        {"role": "tool", "tool_call_id": "t1", "content": "sunny"},
    ],
}  # fmt: skip
MESSAGES: dict[str, Any] = {
    "model": "m", "max_tokens": 50, "temperature": 0.5, "stop_sequences": ["END"],
    "system": "Be brief.",
    "tools": [{"name": "weather", "description": "tells", "input_schema": WEATHER}],
    "tool_choice": {"type": "any"},
    "messages": [
        {"role": "user", "content": [
            {"type": "text", "text": "And this?"},
            {"type": "image",
             "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}]},
        {"role": "assistant", "content": [
            {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Rome"}}]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t1", "content": "sunny"}]},
    ],
}  # fmt: skip


def plain(value: object) -> Any:
    """The value without differences that both sides read alike."""
    match value:
        case [{"type": "text", "text": text}]:
            return text
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list) else value


def test_a_request_for_chat_as_one_for_messages() -> None:
    assert plain(to_messages(CHAT)) == plain(MESSAGES)


def test_a_request_for_messages_as_one_for_chat() -> None:
    assert plain(to_chat(MESSAGES)) == plain(CHAT)


def test_a_call_of_a_tool_comes_back_in_either_dialect() -> None:
    call = {"id": "t", "type": "function", "function": {"name": "w", "arguments": '{"a": 1}'}}
    message = {"content": "Well", "tool_calls": [call]}
    choice = {"finish_reason": "tool_calls", "message": message}
    used = {"prompt_tokens": 1, "completion_tokens": 2}
    chat = {"id": "1", "usage": used, "choices": [choice]}
    said = messages_answer(chat, "m")
    assert said["stop_reason"] == "tool_use"
    assert said["content"] == [
        {"type": "text", "text": "Well"},
        {"type": "tool_use", "id": "t", "name": "w", "input": {"a": 1}},
    ]
    back = chat_answer(said, "m")
    assert back["choices"][0]["message"]["tool_calls"] == [call]
    assert back["choices"][0]["finish_reason"] == "tool_calls"


def stream(dialect: Dialect, *, anthropic: bool, events: list[dict[str, Any]]) -> list[Any]:
    """What an agent of the dialect gets for the provider's events."""
    exchange = make_exchange(CHAT if dialect is Dialect.chat else MESSAGES, "m", dialect,
                             anthropic=anthropic)  # fmt: skip
    out = []
    for event in events:
        text = f"event: {event.get('type')}\ndata: {json.dumps(event)}".encode()
        out += [data_of(one) for one in exchange.event(text)]
    return out


def test_a_streamed_call_of_two_tools_from_messages_to_chat() -> None:
    def block(index: int) -> list[dict[str, Any]]:
        use = {"type": "tool_use", "id": f"t{index}", "name": "w", "input": {}}
        part = {"type": "input_json_delta", "partial_json": '{"a":'}
        return [
            {"type": "content_block_start", "index": index, "content_block": use},
            {"type": "content_block_delta", "index": index, "delta": part},
            {"type": "content_block_stop", "index": index},
        ]

    got = stream(Dialect.chat, anthropic=True, events=[*block(1), *block(2)])
    calls = [one["choices"][0]["delta"]["tool_calls"][0] for one in got]
    assert [call["index"] for call in calls] == [0, 0, 1, 1]
    assert [call.get("id") for call in calls] == ["t1", None, "t2", None]
    assert "".join(call["function"]["arguments"] for call in calls[:2]) == '{"a":'


def test_a_streamed_text_and_tool_from_chat_to_messages() -> None:
    call = {"index": 0, "id": "t", "function": {"name": "w", "arguments": ""}}
    more = {"index": 0, "function": {"arguments": '{"a":1}'}}
    events = [
        {"id": "1", "choices": [{"delta": {"content": "Well"}}]},
        {"id": "1", "choices": [{"delta": {"tool_calls": [call]}}]},
        {"id": "1", "choices": [{"delta": {"tool_calls": [more]}, "finish_reason": "tool_calls"}]},
    ]
    got = stream(Dialect.messages, anthropic=False, events=events)
    assert [one["type"] for one in got] == [
        "message_start", "content_block_start", "content_block_delta", "content_block_stop",
        "content_block_start", "content_block_delta",
    ]  # fmt: skip
    assert got[4]["content_block"]["name"] == "w"
    assert got[5]["delta"] == {"type": "input_json_delta", "partial_json": '{"a":1}'}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["role", "content", "type", "text", "tool_calls", "tools", "messages",
                         "function", "name", "system", "tool_use_id", "source", "image_url"]),
        inner, max_size=4),
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(["messages", "system", "tools", "stop"]), JSON))
def test_any_request_is_translated_or_refused(asked: dict[str, Any]) -> None:
    for translate in (to_messages, to_chat):
        try:
            json.dumps(translate(asked))
        except InvalidInput:
            continue


EVENT = st.binary(min_size=1, max_size=20).filter(
    lambda event: bool(event.strip()) and not {10, 13} & set(event)
)


@given(st.lists(EVENT), st.sampled_from([b"\n\n", b"\r\n\r\n"]), st.data())
def test_events_are_cut_alike_however_they_come(
    events: list[bytes], end: bytes, data: st.DataObject
) -> None:
    whole = b"".join(event + end for event in events)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    found, cutter = [], Events()
    for start, stop in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        found += cutter.feed(whole[start:stop])
    assert found == events


def test_an_event_without_an_end_is_given_up() -> None:
    with pytest.raises(TooLarge):
        list(Events().feed(b"x" * (LARGEST_EVENT + 1)))
