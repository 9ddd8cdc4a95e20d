"""What an agent without a network may have its provider do: answer, and nothing else.

A provider can fetch addresses, search the web, run code and call other servers for who asks. With
the network policy `none` that would be a way out, so a question then is rebuilt from the fields,
the parts and the tools listed here, which carry their content in themselves. What asks for more is
refused with its name. A field that nobody here knows is left out: it reaches no provider, and a
framework that adds a harmless hint goes on working.

Sources: the parameter types of the packages openai 3.57 and anthropic 2.14; the API references of
OpenRouter (plugins, `:online`), xAI (search_parameters), Perplexity, Alibaba Cloud (enable_search),
Moonshot (builtin_function) and Groq (compound models).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set

from tinyagentos.gateway.reading import Body
from tinyagentos.model.errors import InvalidInput

_SAMPLING = frozenset({
    "model", "messages", "max_tokens", "metadata", "service_tier", "stream", "temperature",
    "thinking", "tool_choice", "tools", "top_k", "top_p",
})  # fmt: skip
CHAT_FIELDS = _SAMPLING | {
    "audio", "chat_template_kwargs", "enable_thinking", "frequency_penalty", "function_call",
    "functions", "keep_alive", "logit_bias", "logprobs", "max_completion_tokens", "min_p",
    "modalities", "n", "options", "parallel_tool_calls", "prediction", "presence_penalty",
    "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "reasoning",
    "reasoning_effort", "repeat_penalty", "repetition_penalty", "response_format",
    "safety_identifier", "seed", "stop", "store", "stream_options", "think", "top_a",
    "top_logprobs", "user", "verbosity",
}  # fmt: skip
MESSAGES_FIELDS = _SAMPLING | {
    "cache_control", "compaction", "context_management", "inference_geo", "output_config",
    "output_format", "speed", "stop_sequences", "system",
}  # fmt: skip
EMBEDDINGS_FIELDS = frozenset({"model", "input", "dimensions", "encoding_format", "user"})
# Fields with which an agent asks to have something fetched, searched or run.
FETCHING_FIELDS = frozenset({
    "container", "enable_search", "extra_body", "mcp_servers", "models", "plugins", "search",
    "search_options", "search_parameters", "skills", "web_search", "web_search_options",
})  # fmt: skip
# Tools that the caller carries out itself, and a search among the tools of the question.
_OWN_TOOL = re.compile(
    r"(function|custom|(bash|text_editor|computer|memory)_\d{8}|(computer|browser)_toolset_\d{8}"
    r"|tool_search_tool_(bm25|regex)(_\d{8})?)"
)
TOOL_KEYS = frozenset({
    "allowed_callers", "cache_control", "configs", "custom", "defer_loading", "description",
    "display_height_px", "display_number", "display_width_px", "eager_input_streaming",
    "enable_zoom", "function", "input_examples", "input_schema", "max_characters", "name", "strict",
    "type",
})  # fmt: skip
MESSAGE_KEYS = frozenset({
    "audio", "cache_control", "content", "extra_content", "function_call", "name", "partial",
    "prefix", "reasoning", "reasoning_content", "reasoning_details", "refusal", "role",
    "thinking_blocks", "tool_call_id", "tool_calls",
})  # fmt: skip
_CHOICE_KEYS = {"type", "name", "function", "custom", "allowed_tools", "disable_parallel_tool_use"}
_CHOICES = {"function", "custom", "allowed_tools", "auto", "any", "tool", "none"}
# Models that search the web whatever they are asked.
_SEARCHING = re.compile(
    r":online\b|-search-(preview|api)\b|(^|/)sonar\b|-deep-research\b|(^|/)compound\b",
    re.IGNORECASE,
)
# Parts of messages, and what each may have besides its type.
PART_KEYS: Mapping[str, Set[str]] = {
    "text": {"text", "citations"},
    "input_text": {"text"},
    "output_text": {"text"},
    "refusal": {"refusal"},
    "thinking": {"thinking", "signature"},
    "redacted_thinking": {"data"},
    "compaction": {"content"},
    "content": {"content"},
    "image": {"source"},
    "document": {"source", "title", "context", "citations"},
    "search_result": {"content", "source", "title", "citations"},
    "tool_use": {"id", "name", "input"},
    "tool_reference": {"tool_name"},
    "tool_result": {"tool_use_id", "content", "is_error"},
    "image_url": {"image_url"},
    "audio_url": {"audio_url"},
    "video_url": {"video_url"},
    "input_audio": {"input_audio"},
    "file": {"file"},
}
_MEDIA = {"image_url", "audio_url", "video_url"}
_PLAIN = {"context", "data", "refusal", "signature", "text", "thinking", "title"}
_MEDIA_KEYS = {"url", "detail", "format"}
_FILE_KEYS = {"file_data", "filename"}
_SOUND_KEYS = {"data", "format"}
_SOURCE_KEYS = {"type", "media_type", "data"}
_ELSEWHERE = {"file_id", "file_uri", "file_url", "fileUri", "uri", "url"}
_REFERENCES = {"$ref", "$dynamicRef", "$recursiveRef"}


def searches(model: str) -> bool:
    """Whether the model is one that fetches by itself, as far as its name tells."""
    return _SEARCHING.search(model) is not None


def without_fetching(asked: Body, call: str) -> Body:
    """The question as it may go to a provider; InvalidInput names what would have it fetch.

    call: `chat/completions`, `messages` or `embeddings`. What is malformed in another way is left
    to whoever reads the question next. Raises RecursionError when the question is too deep.
    """
    fields = _FIELDS[call]
    for name in sorted(FETCHING_FIELDS & asked.keys()):
        # An empty object asks for it with the usual settings.
        if asked[name] or asked[name] == {}:
            raise _refused(f"`{name}`")
    kept = {name: value for name, value in asked.items() if name in fields}
    if call == "embeddings":
        _check_input(kept.get("input"))
        return kept
    if kept.get("tools"):
        kept["tools"] = [_tool(one, call) for one in _listed(kept, "tools")]
    if kept.get("messages"):
        kept["messages"] = [_message(one) for one in _listed(kept, "messages")]
    if isinstance(choice := kept.get("tool_choice"), dict):
        kept["tool_choice"] = _choice(choice)
    _check_references([kept.get(name) for name in _SCHEMAS])
    for name in {"system", "prediction"} & kept.keys():
        kept[name] = _content(kept[name])
    return kept


_FIELDS: Mapping[str, frozenset[str]] = {
    "chat/completions": CHAT_FIELDS, "messages": MESSAGES_FIELDS, "embeddings": EMBEDDINGS_FIELDS
}  # fmt: skip
_SCHEMAS = ("tools", "functions", "response_format", "output_config", "output_format")


def _listed(kept: Body, name: str) -> list[object]:
    value = kept[name]
    if not isinstance(value, list):
        raise _refused(f"`{name}` that is no list")
    return value


def _only(value: Body, keys: Set[str]) -> Body:
    return {name: one for name, one in value.items() if name in keys}


def _flat(value: Body, keys: Set[str]) -> Body:
    """The same of an object of plain values."""
    kept = _only(value, keys)
    for name, one in kept.items():
        if isinstance(one, dict | list):
            raise _refused(f"a part with an object as `{name}`")
    return kept


def _message(turn: object) -> object:
    if not isinstance(turn, dict):
        return turn
    kept = _only(turn, MESSAGE_KEYS)
    if "content" in kept:
        kept["content"] = _content(kept["content"])
    return kept


def _tool(tool: object, call: str) -> object:
    """The tool, if the agent carries it out itself."""
    given = tool.get("type") if isinstance(tool, dict) else str(tool)
    # Of messages a tool without a type is the caller's own; of chat completions it is none.
    kind = "custom" if given is None and call == "messages" else given
    if not isinstance(kind, str) or not _OWN_TOOL.fullmatch(kind):
        raise _refused(f"a tool of type {str(given)[:60]!r}")
    return _only(tool, TOOL_KEYS) if isinstance(tool, dict) else tool


def _check_input(asked: object) -> None:
    found = [asked]
    while found:
        match found.pop():
            case dict():
                raise _refused("an input that is no text")
            case list(inner):
                found += inner


def _choice(choice: Body) -> Body:
    if not isinstance(choice.get("type"), str) or choice["type"] not in _CHOICES:
        raise _refused(f"a `tool_choice` of type {str(choice.get('type'))[:60]!r}")
    return _only(choice, _CHOICE_KEYS)


def _check_references(found: list[object]) -> None:
    """A schema may point only into itself: some readers fetch what `$ref` names."""
    while found:
        match found.pop():
            case list(inner):
                found += inner
            case dict(inner):
                for name in _REFERENCES & inner.keys():
                    if isinstance(inner[name], str) and not inner[name].startswith("#"):
                        raise _refused(f"a schema with `{name}` to elsewhere")
                found += inner.values()


def _content(said: object) -> object:
    """A message's content, each part of which carries what it shows in itself."""
    match said:
        case list():
            return [_content(one) for one in said]
        case dict():
            return _part(said)
    return said


def _part(given: Body) -> Body:
    """The part with the keys that are known; InvalidInput when it would have to be fetched."""
    kind = str(given.get("type"))[:60]
    if kind not in PART_KEYS:
        raise _refused(f"a part of type {kind!r}")
    if _names_elsewhere(given):
        raise _refused(f"a part of type {kind!r} that names an address or a file")
    part = _only(given, PART_KEYS[kind] | {"type", "cache_control"})
    _flat(part, _PLAIN)
    if kind in {"image", "document"}:
        part["source"] = _source(part.get("source"), kind)
    elif kind in _MEDIA:
        part[kind] = _media(part.get(kind), kind)
    elif kind == "file":
        part["file"] = _file(part.get("file"))
    elif kind == "input_audio":
        part["input_audio"] = _sound(part.get("input_audio"))
    elif kind in {"tool_result", "content", "search_result", "compaction"} and "content" in part:
        part["content"] = _content(part["content"])
    return part


def _media(media: object, kind: str) -> object:
    given = media if isinstance(media, dict) else {"url": media}
    if not _is_data(given.get("url")) or _names_elsewhere(given, but="url"):
        raise _refused(f"`{kind}` that is no `data:` address")
    kept = _flat(given, _MEDIA_KEYS)
    return kept if isinstance(media, dict) else media


def _file(file: object) -> Body:
    if isinstance(file, dict) and _is_data(file.get("file_data")) and not _names_elsewhere(file):
        return _flat(file, _FILE_KEYS)
    raise _refused("a file that does not come with the question")


def _sound(sound: object) -> Body:
    match sound:
        case {"data": str(data)} if ":" not in data and isinstance(sound, dict):
            if not _names_elsewhere(sound):
                return _flat(sound, _SOUND_KEYS)
    raise _refused("a sound that does not come with the question")


def _source(source: object, kind: str) -> Body:
    given = source if isinstance(source, dict) else {"type": source}
    if given.get("type") in ("base64", "text") and not _names_elsewhere(given):
        return _flat(given, _SOURCE_KEYS)
    if given.get("type") == "content" and "content" in given:
        return {"type": "content", "content": _content(given["content"])}
    name = str(given.get("type"))[:60]
    raise _refused(f"a part of type {kind!r} with a source of type {name!r}")


def _names_elsewhere(part: Body, but: str = "") -> bool:
    """Whether an object names content by an id or an address. but: the one name that it may."""
    return any(map(part.get, _ELSEWHERE - {but}))


def _is_data(url: object) -> bool:
    return isinstance(url, str) and url.startswith("data:")


def _refused(what: str) -> InvalidInput:
    return InvalidInput(
        f"This agent has the network policy `none`, so no provider may fetch, search or run "
        f"anything for it: {what} is not passed on.",
        hint="Send the content itself, or open the network with `taos agent network`.",
    )
