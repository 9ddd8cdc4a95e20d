"""An agent without a network has nothing fetched, searched or run by its provider."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.gateway.conftest import QUESTION, Asking
from tinyagentos.gateway.offline import searches, without_fetching
from tinyagentos.model.errors import InvalidInput
from tinyagentos.model.provider import ProviderKind

AWAY = "https://attacker.example/?all-i-know"
DATA = "data:image/png;base64,AAAA"
CHAT, MESSAGES = "chat/completions", "messages"
SCHEMA = {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}}
FUNCTION = {"type": "function", "function": {"name": "look", "parameters": SCHEMA}}
OWN = {"name": "look", "input_schema": SCHEMA}


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": AWAY}, *parts]}]}


GOOD: dict[str, dict[str, Any]] = {
    CHAT: {
        "model": "default", "stream": True, "temperature": 0.5, "seed": 1, "store": False,
        "stream_options": {"include_usage": True}, "reasoning_effort": "low",
        "tools": [FUNCTION, {"type": "custom", "custom": {"name": "free"}}],
        "tool_choice": {"type": "function", "function": {"name": "look"}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
        "messages": [
            {"role": "system", "content": f"Read {AWAY}"},
            {"role": "user", "name": "me", "content": [
                {"type": "text", "text": AWAY},
                {"type": "image_url", "image_url": {"url": DATA, "detail": "low"}},
                {"type": "image_url", "image_url": DATA},
                {"type": "file", "file": {"filename": "a.pdf", "file_data": DATA}},
                {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
                {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AA"}},
            ]},
            {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "1", "content": "found"},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        ],
    },
    MESSAGES: {
        "model": "default", "max_tokens": 9, "system": [{"type": "text", "text": AWAY}],
        "thinking": {"type": "enabled", "budget_tokens": 1024}, "tool_choice": {"type": "auto"},
        "tools": [
            OWN, {**OWN, "type": "custom"}, {"type": "bash_20250124", "name": "bash"},
            {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool"},
            {"type": "computer_20250124", "name": "computer", "display_width_px": 9},
            {"type": "memory_20250818", "name": "memory"},
            {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"},
        ],
        "messages": [
            {"role": "user", "content": f"Read {AWAY}"},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "tool_use", "id": "1", "name": "look", "input": {"url": AWAY}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "1", "content": [
                    {"type": "text", "text": AWAY},
                    {"type": "image", "source": {
                        "type": "base64", "media_type": "image/png", "data": "AAAA"}}]},
                {"type": "document", "source": {"type": "text", "data": AWAY}},
                {"type": "document", "source": {"type": "content", "content": [
                    {"type": "text", "text": AWAY}]}},
                {"type": "search_result", "source": "my notes", "title": "t", "content": [
                    {"type": "text", "text": AWAY}]}]},
        ],
    },
    "embeddings": {"model": "m", "input": ["a", AWAY], "dimensions": 3},
}  # fmt: skip

REFUSED: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"web_search_options": {}}),
    (CHAT, {"search_parameters": {"mode": "on"}}),
    (CHAT, {"plugins": [{"id": "web"}]}),
    (CHAT, {"enable_search": True}),
    (CHAT, {"extra_body": {"google": {}}}),
    (CHAT, {"models": ["openai/gpt:online"]}),
    (CHAT, {"mcp_servers": [{"url": AWAY}]}),
    *((CHAT, {"tools": [tool]}) for tool in (
        {"type": "web_search"}, {"type": "web_search_preview"}, {"type": "openrouter:web_search"},
        {"type": "mcp", "server_url": AWAY}, {"type": "code_interpreter"}, {"type": "file_search"},
        {"type": "image_generation"}, {"type": "browser_search"}, {"type": "url_context"},
        {"type": "builtin_function", "function": {"name": "$web_search"}},
        {"googleSearch": {}}, {"google_search": {}}, {"urlContext": {}}, "web_search",
        {"type": ["function"]}, {"type": None, "googleSearch": {}},
        {"type": "function", "function": {"name": "x", "parameters": {"$ref": AWAY}}},
        {"type": "function\n", "function": {}},
    )),
    (CHAT, {"tools": {"googleSearch": {}}}),
    (CHAT, {"tool_choice": {"type": "web_search_preview"}}),
    (CHAT, {"response_format": {"type": "json_schema", "json_schema": {"schema": {"$ref": AWAY}}}}),
    *((CHAT, user(part)) for part in (
        {"type": "image_url", "image_url": {"url": AWAY}},
        {"type": "image_url", "image_url": AWAY},
        {"type": "image_url", "image_url": {"url": " " + AWAY}},
        {"type": "image_url", "image_url": {"url": "HTTP://x.example/a.png"}},
        {"type": "image_url", "image_url": {"url": "//x.example/a.png"}},
        {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
        {"type": "image_url", "image_url": {"url": "gs://bucket/a"}},
        {"type": "image_url", "image_url": {"url": "/etc/passwd"}},
        {"type": "image_url", "image_url": {"url": AWAY}, "role": "user", "content": "x"},
        {"type": "image_url"},
        {"type": "video_url", "video_url": {"url": AWAY}},
        {"type": "audio_url", "audio_url": {"url": AWAY}},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "file", "file": {"file_data": AWAY, "filename": "x.pdf"}},
        {"type": "file", "file": {"file_data": DATA, "file_id": "file-1"}},
        {"type": "input_file", "file_url": AWAY},
        {"type": "input_file", "file_data": DATA, "file_url": AWAY},
        {"type": "file_url", "file_url": {"url": AWAY}},
        {"type": "input_audio", "input_audio": {"url": AWAY, "format": "wav"}},
        {"type": "input_audio", "input_audio": {"data": AWAY, "format": "wav"}},
        {"type": "input_image", "image_url": AWAY},
        {"type": "anything-new", "where": AWAY},
        {"image_url": {"url": AWAY}},
    )),
    (CHAT, {"messages": {"role": "user", "content": [{"type": "image_url", "image_url": AWAY}]}}),
    (MESSAGES, {"mcp_servers": [{"type": "url", "url": AWAY, "name": "x"}]}),
    (MESSAGES, {"container": "container_1"}),
    (MESSAGES, {"container": {"skills": [{"type": "anthropic", "skill_id": "pptx"}]}}),
    *((MESSAGES, {"tools": [{"type": kind, "name": "x"}]}) for kind in (
        "web_search_20250305", "web_search_20260318", "web_fetch_20250910", "web_fetch_20260318",
        "code_execution_20250522", "code_execution_20260521", "mcp_toolset", "advisor_20260301",
    )),
    (MESSAGES, {"tool_choice": {"type": "web_search"}}),
    *((MESSAGES, user(part)) for part in (
        {"type": "image", "source": {"type": "url", "url": AWAY}},
        {"type": "image", "source": {"type": "file", "file_id": "file_1"}},
        {"type": "image", "source": {"type": "base64", "data": "AA", "url": AWAY}},
        {"type": "image", "source": AWAY},
        {"type": "image", "url": AWAY},
        {"type": "document", "source": {"type": "url", "url": AWAY}},
        {"type": "document", "source": {"type": "file", "file_id": "file_1"}},
        {"type": "document", "source": {"type": "content", "content": [
            {"type": "image", "source": {"type": "url", "url": AWAY}}]}},
        {"type": "tool_result", "tool_use_id": "1", "content": [
            {"type": "image", "source": {"type": "url", "url": AWAY}}]},
        {"type": "tool_result", "tool_use_id": "1", "content": {
            "type": "document", "source": {"type": "url", "url": AWAY}}},
        {"type": "container_upload", "file_id": "file_1"},
        {"type": "server_tool_use", "id": "1", "name": "web_fetch", "input": {"url": AWAY}},
        {"type": "mcp_tool_use", "id": "1", "name": "x", "server_name": "y", "input": {}},
    )),
    (MESSAGES, {"system": [{"type": "image", "source": {"type": "url", "url": AWAY}}]}),
    ("embeddings", {"input": [{"image": AWAY}]}),
    ("embeddings", {"input": {"url": AWAY}}),
]  # fmt: skip


@pytest.mark.parametrize("call", GOOD)
def test_what_carries_its_content_goes_through_as_it_is(call: str) -> None:
    assert without_fetching(GOOD[call], call) == GOOD[call]


@pytest.mark.parametrize(("call", "asked"), REFUSED, ids=lambda one: json.dumps(one)[:70])
def test_what_a_provider_would_fetch_is_refused_in_words(call: str, asked: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="network policy `none`"):
        without_fetching(GOOD[call] | asked, call)


@pytest.mark.parametrize("call", GOOD)
@pytest.mark.parametrize("nothing", [None, [], False, ""])
def test_a_field_that_asks_for_nothing_is_no_offence(call: str, nothing: object) -> None:
    asked = GOOD[call] | {"plugins": nothing, "mcp_servers": nothing, "enable_search": nothing}
    assert without_fetching(asked, call) == GOOD[call]


def test_what_nobody_knows_is_left_out() -> None:
    asked = copy.deepcopy(GOOD[CHAT]) | {"fetch_this_for_me": AWAY, "route": "fallback"}
    asked["messages"][0] |= {"images": [AWAY]}
    asked["tools"][0] = {**FUNCTION, "googleSearch": {}}
    assert without_fetching(asked, CHAT) == GOOD[CHAT]


@pytest.mark.parametrize(
    ("model", "does"),
    [
        ("openai/gpt-4o:online", True), ("gpt-4o-search-preview-2025-03-11", True),
        ("gpt-5-search-api", True), ("sonar-pro", True), ("perplexity/sonar", True),
        ("groq/compound-mini", True), ("o3-deep-research", True), ("gpt-4o", False),
        ("llama3.2:latest", False), ("research-model", False), ("a/unsonar", False),
    ],
)  # fmt: skip
def test_models_that_search_by_themselves(model: str, does: bool) -> None:
    assert searches(model) is does


# Where something can be put beside what is known, and what it could be.
PLACES: dict[str, list[tuple[Any, ...]]] = {
    CHAT: [(), ("messages", 1), *(("messages", 1, "content", n) for n in range(1, 6)),
           ("messages", 1, "content", 1, "image_url"), ("messages", 1, "content", 3, "file"),
           ("messages", 1, "content", 4, "input_audio"), ("tools", 0), ("tool_choice",)],
    MESSAGES: [(), ("messages", 2), ("system", 0), ("tools", 0), ("tools", 2),
               *(("messages", 2, "content", n) for n in range(4)),
               ("messages", 2, "content", 0, "content", 1, "source"),
               ("messages", 2, "content", 1, "source"), ("messages", 2, "content", 2, "source")],
}  # fmt: skip
NAMES = st.sampled_from([
    "url", "uri", "file_id", "file_url", "fileUri", "image", "images", "image_url", "source",
    "plugins", "mcp_servers", "server_url", "web", "search", "attachments", "documents",
    "googleSearch", "type", "content", "data", "file_data", "file", "input_audio", "role",
]) | st.text(max_size=8)  # fmt: skip
VALUES = st.sampled_from([
    AWAY, {"url": AWAY}, [AWAY], [{"url": AWAY}], {"type": "url", "url": AWAY},
    [{"type": "image_url", "image_url": {"url": AWAY}}],
    [{"type": "image", "source": {"type": "url", "url": AWAY}}],
    {"type": "image", "source": {"type": "url", "url": AWAY}}, "url", "file", "image_url",
])  # fmt: skip
FREE = {"text", "thinking", "signature", "input", "title", "detail", "filename", "format",
        "cache_control", "media_type", "name", "context", "role", "citations", "configs",
        "function", "custom", "refusal", "extra_content", "metadata"}  # fmt: skip


def addresses(value: object, name: str = "") -> list[str]:
    """The names under which the address stands, where it is no text of the conversation."""
    match value:
        case str():
            return [name] if AWAY in value and name not in FREE else []
        case list():
            return [found for one in value for found in addresses(one, name)]
        case dict():
            return [found for key, one in value.items() if key not in FREE
                    for found in addresses(one, key)]  # fmt: skip
    return []


@given(st.sampled_from([CHAT, MESSAGES]), st.data())
def test_wherever_an_address_is_put_it_reaches_no_provider(call: str, data: st.DataObject) -> None:
    asked = copy.deepcopy(GOOD[call])
    before = addresses(without_fetching(asked, call))
    place: Any = asked
    for step in data.draw(st.sampled_from(PLACES[call])):
        place = place[step]
    if not isinstance(place, dict):
        return
    place[data.draw(NAMES)] = data.draw(VALUES)
    try:
        kept = without_fetching(asked, call)
    except InvalidInput:
        return
    # Words of the conversation, and the label of the sender's own search result, are no address.
    assert set(addresses(kept)) <= {*before, "content", "data", "source"}
    for turn in kept["messages"]:
        for part in turn["content"] if isinstance(turn.get("content"), list) else ():
            assert "url" not in part or part["url"] is None


@pytest.mark.parametrize("kind", list(ProviderKind))
@pytest.mark.parametrize(("call", "asked"), [
    (CHAT, {"web_search_options": {}}),
    (CHAT, user({"type": "image_url", "image_url": {"url": AWAY}})),
    (MESSAGES, {"max_tokens": 9, "tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
    (MESSAGES, {"max_tokens": 9} | user({"type": "image", "source": {"type": "url", "url": AWAY}})),
])  # fmt: skip
async def test_the_agent_is_told_in_its_dialect_and_the_provider_hears_nothing(
    ask: Asking, kind: ProviderKind, call: str, asked: dict[str, Any]
) -> None:
    fake = await ask.add("one", kind)
    await ask.add("two", kind)
    ask.choose("one/large", "two/large")
    ask.may_fetch = False
    status, said = await ask.post(call, QUESTION | asked)
    assert status == 400
    assert ("type" in said) is (call == MESSAGES)
    assert said["error"]["type"] == "invalid_request_error"
    assert "network policy `none`" in said["error"]["message"]
    assert "taos agent network" in said["error"]["message"]
    assert [call for one in ask.fakes for call, _ in one.calls] == []
    assert ask.used.errors == 1
    assert (await ask.chat())[0] == 200
    assert "Hi" in str(fake.calls[-1][1]["messages"])


async def test_with_a_network_the_same_is_passed_on(ask: Asking) -> None:
    fake = await ask.add("one")
    ask.choose("one/large")
    asked = user({"type": "image_url", "image_url": {"url": AWAY}}) | {"web_search_options": {}}
    assert (await ask.chat(**asked))[0] == 200
    assert fake.calls[-1][1] == {"model": "large", **asked}


async def test_a_model_that_searches_gives_way_to_one_that_does_not(ask: Asking) -> None:
    fake = await ask.add("one")
    ask.choose("one/large:online", "one/large")
    ask.may_fetch = False
    assert (await ask.chat())[0] == 200
    assert [asked["model"] for _, asked in fake.calls] == ["large"]
    ask.choose("one/large:online")
    status, said = await ask.chat()
    assert status == 400
    assert "searches the web by itself" in said["error"]["message"]
