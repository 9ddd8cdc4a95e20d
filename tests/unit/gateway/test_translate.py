"""Each dialect said in the other's words, tools and pictures too."""

from __future__ import annotations

import json
from collections.abc import Callable
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


PNG = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
PDF = {"type": "base64", "media_type": "application/pdf", "data": "BBBB"}
PICTURE = {"type": "image", "source": PNG}
PICTURE_URL = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
TOOLS = {"tools": CHAT["tools"]}
TOOLS_THERE = {"tools": MESSAGES["tools"]}
USE = {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Rome"}}
CALL = CHAT["messages"][2]["tool_calls"][0]


def user(*content: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def result(content: Any, **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "t1", "content": content} | more


@pytest.mark.parametrize(
    ("turns", "there"),
    [
        ([user(result("no city", is_error=True))],
         [{"role": "tool", "tool_call_id": "t1", "content": "Error: no city"}]),
        ([user(result(None, is_error=True))],
         [{"role": "tool", "tool_call_id": "t1", "content": "Error"}]),
        ([user(result([text("a map"), PICTURE]), text("And now?"))],
         [{"role": "tool", "tool_call_id": "t1", "content": "a map"},
          user(PICTURE_URL, text("And now?"))]),
        ([user(result([PICTURE]))],
         [{"role": "tool", "tool_call_id": "t1", "content": "The result follows."},
          user(PICTURE_URL)]),
        ([user({"type": "image", "source": {"type": "url", "url": "https://x/y.png"}})],
         [user({"type": "image_url", "image_url": {"url": "https://x/y.png"}})]),
        ([user({"type": "document", "title": "a.pdf", "source": PDF})],
         [user({"type": "file", "file": {"filename": "a.pdf",
                                         "file_data": "data:application/pdf;base64,BBBB"}})]),
        ([user({"type": "document", "title": "a", "context": "old",
                "source": {"type": "text", "media_type": "text/plain", "data": "words"}})],
         [user(text("a\nold\nwords"))]),
        ([{"role": "assistant", "content": [
            {"type": "thinking", "thinking": "Hm", "signature": "s"},
            text("Let "), text("me."), USE]}],
         [{"role": "assistant", "content": "Let me.", "tool_calls": [CALL]}]),
        ([{"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"}]}],
         [{"role": "assistant", "content": ""}]),
    ],
)  # fmt: skip
def test_turns_of_messages_in_chat(turns: list[Any], there: list[Any]) -> None:
    assert to_chat({"messages": turns})["messages"] == there


@pytest.mark.parametrize(
    ("turns", "there"),
    [
        ([{"role": "tool", "tool_call_id": "t1", "content": [text("a map"), PICTURE_URL]}],
         [user(result([text("a map"), PICTURE]))]),
        ([{"role": "tool", "tool_call_id": "t1", "content": ""}], [user(result(""))]),
        ([user({"type": "image_url", "image_url": "data:image/png;base64,AAAA"})], [user(PICTURE)]),
        ([user({"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}})],
         [user({"type": "image", "source": {"type": "url", "url": "https://x/y.png"}})]),
        ([user({"type": "file", "file": {"file_data": "data:application/pdf;base64,BBBB"}})],
         [user({"type": "document", "source": PDF})]),
        ([{"role": "user", "name": "Ann", "content": "Hi"}], [user(text("Ann:"), text("Hi"))]),
        ([{"role": "assistant", "content": None, "refusal": "I cannot."}],
         [{"role": "assistant", "content": [text("I cannot.")]}]),
        ([{"role": "assistant", "content": "", "tool_calls": [
            {"id": "t1", "function": {"name": "w", "arguments": '{"city": '}}]}],
         [{"role": "assistant", "content": [
             {"type": "tool_use", "id": "t1", "name": "w", "input": {"arguments": '{"city": '}}]}]),
        ([{"role": "user", "content": ""}, user(text(""), text("Hi"))], [user(text("Hi"))]),
    ],
)  # fmt: skip
def test_turns_of_chat_in_messages(turns: list[Any], there: list[Any]) -> None:
    assert to_messages({"messages": turns})["messages"] == there


@pytest.mark.parametrize(
    ("asked", "there"),
    [
        (TOOLS | {"parallel_tool_calls": False},
         {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}),
        (TOOLS | {"parallel_tool_calls": False, "tool_choice": "required"},
         {"tool_choice": {"type": "any", "disable_parallel_tool_use": True}}),
        (TOOLS | {"parallel_tool_calls": False, "tool_choice": "none"},
         {"tool_choice": {"type": "none"}}),
        (TOOLS | {"parallel_tool_calls": True}, {}),
        (TOOLS | {"tool_choice": {"type": "function", "function": {"name": "weather"}}},
         {"tool_choice": {"type": "tool", "name": "weather"}}),
        ({"stop": "END"}, {"stop_sequences": ["END"]}),
        ({"stop": ["a", "b"]}, {"stop_sequences": ["a", "b"]}),
        ({"max_completion_tokens": 9}, {"max_tokens": 9}),
        ({"response_format": {"type": "text"}}, {}),
        ({"n": 1, "logprobs": False, "presence_penalty": 0.0, "logit_bias": {}, "seed": 5}, {}),
    ],
)  # fmt: skip
def test_what_chat_asks_for_in_messages(asked: dict[str, Any], there: dict[str, Any]) -> None:
    usual = {"model": "", "messages": [], "max_tokens": 8192}
    usual |= TOOLS_THERE if "tools" in asked else {}
    assert to_messages({"messages": []} | asked) == usual | there


@pytest.mark.parametrize(
    ("asked", "there"),
    [
        (TOOLS_THERE | {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
         {"parallel_tool_calls": False}),
        (TOOLS_THERE | {"tool_choice": {"type": "tool", "name": "weather",
                                        "disable_parallel_tool_use": True}},
         {"tool_choice": {"type": "function", "function": {"name": "weather"}},
          "parallel_tool_calls": False}),
        (TOOLS_THERE | {"tool_choice": {"type": "none"}}, {"tool_choice": "none"}),
        ({"stop_sequences": ["a", "b"]}, {"stop": ["a", "b"]}),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, {}),
        ({"output_config": {"format": {"type": "json_schema", "schema": WEATHER}}},
         {"response_format": {"type": "json_schema",
                              "json_schema": {"name": "answer", "schema": WEATHER}}}),
    ],
)  # fmt: skip
def test_what_messages_ask_for_in_chat(asked: dict[str, Any], there: dict[str, Any]) -> None:
    usual = {"model": "", "messages": []} | (TOOLS if "tools" in asked else {})
    assert to_chat({"messages": []} | asked) == usual | there


@pytest.mark.parametrize(
    "asked",
    [
        {"n": 2}, {"logprobs": True}, {"logit_bias": {"50256": -100}}, {"frequency_penalty": 0.5},
        {"modalities": ["text", "audio"]}, {"functions": [{"name": "f"}]},
        {"web_search_options": {}}, {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": WEATHER}}},
        {"tools": [{"type": "custom", "custom": {"name": "c"}}]},
        TOOLS | {"tool_choice": {"type": "allowed_tools", "allowed_tools": {}}},
        {"messages": [user({"type": "input_audio", "input_audio": {"data": "x"}})]},
        {"messages": [user({"type": "file", "file": {"file_id": "f1"}})]},
        {"messages": [user({"type": "image_url", "image_url": {"url": "data:image/png,%00"}})]},
        {"messages": [{"role": "function", "name": "f", "content": "x"}]},
        {"messages": [{"role": "assistant", "audio": {"id": "a1"}, "content": None}]},
        {"messages": [{"role": "system", "content": [PICTURE_URL]}]},
    ],
)  # fmt: skip
def test_what_messages_have_no_words_for_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="has no words for"):
        to_messages({"messages": []} | asked)


@pytest.mark.parametrize(
    "asked",
    [
        {"top_k": 5}, {"mcp_servers": [{"url": "https://x"}]}, {"container": "c1"},
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        {"output_config": {"format": {"type": "grammar"}}},
        {"system": [PICTURE]},
        {"messages": [user({"type": "image", "source": {"type": "file", "file_id": "f1"}})]},
        {"messages": [user({"type": "document", "source": {"type": "url", "url": "https://x"}})]},
        {"messages": [user({"type": "document", "source": PDF, "citations": {"enabled": True}})]},
        {"messages": [user({"type": "search_result", "source": "x", "content": []})]},
        {"messages": [{"role": "assistant", "content": [{"type": "server_tool_use"}]}]},
    ],
)  # fmt: skip
def test_what_chat_has_no_words_for_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="has no words for"):
        to_chat({"messages": []} | asked)


@pytest.mark.parametrize(
    ("message", "finish", "content", "reason"),
    [
        ({"content": None, "refusal": "I cannot."}, "stop", [text("I cannot.")], "refusal"),
        ({"content": [{"type": "thinking", "thinking": []}, text("Hi")]}, "stop", [text("Hi")],
         "end_turn"),
        ({"content": None, "tool_calls": [CALL]}, "stop", [USE], "tool_use"),
        ({"content": "Hi", "reasoning_content": "Hm"}, "length", [text("Hi")], "max_tokens"),
        ({"content": "Hi"}, "content_filter", [text("Hi")], "refusal"),
    ],
)  # fmt: skip
def test_answers_of_chat_in_messages(
    message: dict[str, Any], finish: str, content: list[Any], reason: str
) -> None:
    said = messages_answer({"choices": [{"message": message, "finish_reason": finish}]}, "m")
    assert (said["content"], said["stop_reason"]) == (content, reason)


def test_thoughts_of_messages_in_chat() -> None:
    thought = {"type": "thinking", "thinking": "Hm", "signature": "s"}
    said = {"id": "1", "content": [thought, text("Hi")], "stop_reason": "stop_sequence"}
    choice = chat_answer(said, "m")["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert choice["message"] == {"role": "assistant", "content": "Hi", "reasoning_content": "Hm"}


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


def stream(
    dialect: Dialect, *, anthropic: bool, events: list[dict[str, Any]], to_the_end: bool = False
) -> list[Any]:
    """What an agent of the dialect gets for the provider's events."""
    exchange = make_exchange(CHAT if dialect is Dialect.chat else MESSAGES, "m", dialect,
                             anthropic=anthropic)  # fmt: skip
    out = []
    for event in events:
        text = f"event: {event.get('type')}\ndata: {json.dumps(event)}".encode()
        out += [data_of(one) for one in exchange.event(text)]
    return out + ([data_of(one) for one in exchange.end()] if to_the_end else [])


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


def test_thoughts_are_streamed_as_what_the_other_side_knows() -> None:
    thought = {"type": "thinking_delta", "thinking": "Hm"}
    got = stream(Dialect.chat, anthropic=True, events=[
        {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking"}},
        {"type": "content_block_delta", "index": 0, "delta": thought},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta"}},
    ])  # fmt: skip
    assert [one["choices"][0]["delta"] for one in got] == [{"reasoning_content": "Hm"}]
    for name in ("reasoning_content", "reasoning"):
        events = [{"choices": [{"delta": {name: "Hm"}}]}]
        got = stream(Dialect.messages, anthropic=False, events=events)
        assert [one["type"] for one in got] == ["message_start", "ping"]


def test_a_streamed_call_without_arguments_has_an_empty_object() -> None:
    use = {"type": "tool_use", "id": "t", "name": "w", "input": {}}
    empty = {"type": "input_json_delta", "partial_json": ""}
    got = stream(Dialect.chat, anthropic=True, events=[
        {"type": "content_block_start", "index": 0, "content_block": use},
        {"type": "content_block_delta", "index": 0, "delta": empty},
        {"type": "content_block_stop", "index": 0},
    ])  # fmt: skip
    functions = [one["choices"][0]["delta"]["tool_calls"][0]["function"] for one in got]
    assert [one["arguments"] for one in functions] == ["", "{}"]


@pytest.mark.parametrize(
    ("numbers", "ids"),
    [
        ((0, 1), ("a", "b")),
        ((0, 1), (None, None)),
        ((0, 0), ("a", "b")),
        ((None, None), ("a", "b")),
    ],
)
def test_streamed_calls_are_kept_apart_by_number_or_id(
    numbers: tuple[int | None, ...], ids: tuple[str | None, ...]
) -> None:
    deltas: list[dict[str, Any]] = []
    for number, called in zip(numbers, ids, strict=True):
        at = {} if number is None else {"index": number}
        begun = at | {"id": called, "function": {"name": "w", "arguments": '{"a":'}}
        rest = at | {"function": {"arguments": "1}"}}
        deltas += [{"tool_calls": [one]} for one in (begun, rest)]
    events: list[dict[str, Any]] = [{"id": "c1", "choices": [{"delta": one}]} for one in deltas]
    events.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    got = stream(Dialect.messages, anthropic=False, events=events, to_the_end=True)
    blocks = [one["content_block"] for one in got if one["type"] == "content_block_start"]
    assert [one["name"] for one in blocks] == ["w", "w"]
    assert len({one["id"] for one in blocks if one["id"]}) == 2
    parts = [one["delta"]["partial_json"] for one in got if one["type"] == "content_block_delta"]
    assert parts == ['{"a":', "1}"] * 2
    assert [one["type"] for one in got].count("content_block_stop") == 2
    assert got[-2]["delta"]["stop_reason"] == "tool_use"


def test_a_refusal_is_streamed_with_its_words() -> None:
    exchange = make_exchange(MESSAGES, "m", Dialect.messages, anthropic=False)
    piece = b'data: {"choices": [{"delta": {"refusal": "I cannot."}}]}'
    said = b"".join((*exchange.event(piece), *exchange.end())).decode()
    assert '"text":"I cannot."' in said
    assert '"stop_reason":"refusal"' in said


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


RED = {"type": "base64", "media_type": "image/png", "data": "AAAA"}


def test_what_a_tool_gave_back_keeps_its_pictures_and_its_failure() -> None:
    results = [
        {"type": "tool_result", "tool_use_id": "a", "is_error": True, "content": "no such file"},
        {"type": "tool_result", "tool_use_id": "b",
         "content": [{"type": "text", "text": "seen"}, {"type": "image", "source": RED}]},
    ]  # fmt: skip
    out = to_chat({"messages": [{"role": "user", "content": results}]})
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    assert out["messages"] == [
        {"role": "tool", "tool_call_id": "a", "content": "Error: no such file"},
        {"role": "tool", "tool_call_id": "b", "content": "seen"},
        {"role": "user", "content": [picture]},
    ]
    parts = [{"type": "text", "text": "seen"}, picture]
    back = to_messages({"messages": [{"role": "tool", "tool_call_id": "b", "content": parts}]})
    assert back["messages"][0]["content"] == [
        {"type": "tool_result", "tool_use_id": "b",
         "content": [{"type": "text", "text": "seen"}, {"type": "image", "source": RED}]},
    ]  # fmt: skip


def test_one_tool_at_a_time_is_carried_both_ways() -> None:
    tool = {"function": {"name": "f"}}
    there = to_messages({"messages": [], "tools": [tool], "parallel_tool_calls": False})
    assert there["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
    back = to_chat({"messages": [], "tools": [{"name": "f"}], "tool_choice": there["tool_choice"]})
    assert back["parallel_tool_calls"] is False


@pytest.mark.parametrize(
    ("translate", "asked", "said"),
    [
        (to_messages, {"messages": [], "response_format": {"type": "json_object"}}, "response_fo"),
        (
            to_messages,
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            "input_audio",
        ),
        (
            to_chat,
            {"messages": [{"role": "user", "content": [{"type": "document", "source": {}}]}]},
            "document",
        ),
    ],
)
def test_what_would_change_the_answer_is_refused_and_not_left_out(
    translate: Callable[[dict[str, Any]], dict[str, Any]], asked: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidInput, match=said):
        translate(asked)
