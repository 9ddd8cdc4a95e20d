"""Questions: OpenAI's chat completions and Anthropic's messages, each in the other's words.

Sources: the two vendors' API references (chat completions; messages, version 2023-06-01). What
changes the answer is carried or refused with InvalidInput; what is only a hint is left out, as
docs/models.md tells. Bodies are JSON objects of somebody else's making: malformed is InvalidInput.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

from tinyagentos.gateway.reading import USUAL_MOST_TOKENS, Body
from tinyagentos.model.errors import InvalidInput

MALFORMED = (KeyError, TypeError, AttributeError, ValueError, RecursionError)
# What the other side has no words for, and the values with which it asks for nothing.
_ONLY_IN_CHAT: Mapping[str, Sequence[object]] = {
    "n": (1,), "logprobs": (False,), "top_logprobs": (0,), "logit_bias": ({},),
    "frequency_penalty": (0,), "presence_penalty": (0,), "functions": ([],), "audio": (),
    "modalities": (["text"],), "web_search_options": (),
}  # fmt: skip
_ONLY_IN_CHAT_ANSWERS: Mapping[str, Sequence[object]] = {"audio": (), "function_call": ()}
_ONLY_IN_MESSAGES: Mapping[str, Sequence[object]] = {
    "top_k": (), "mcp_servers": ([],), "container": (), "context_management": ({},)
}  # fmt: skip


def to_messages(asked: Body) -> Body:
    """A request for chat completions as one for messages."""
    try:
        _refuse_unknown(asked, _ONLY_IN_CHAT)
        return _to_messages(asked)
    except MALFORMED as error:
        raise _malformed(error) from error


def to_chat(asked: Body) -> Body:
    """A request for messages as one for chat completions."""
    try:
        _refuse_unknown(asked, _ONLY_IN_MESSAGES)
        return _to_chat(asked)
    except MALFORMED as error:
        raise _malformed(error) from error


def _to_messages(asked: Body) -> Body:
    system: list[str] = []
    turns: list[Body] = []
    for message in asked["messages"]:
        match message["role"]:
            case "system" | "developer":
                system.append(_text_of(message["content"]))
            case "tool":
                content = message["content"]
                said = content if isinstance(content, str) else _blocks(content) or ""
                result = {"type": "tool_result", "tool_use_id": message["tool_call_id"],
                          "content": said}  # fmt: skip
                _say(turns, "user", [result])
            case "assistant":
                _refuse_unknown(message, _ONLY_IN_CHAT_ANSWERS)
                blocks = [*_blocks(message.get("content")), *_blocks(message.get("refusal"))]
                blocks += [_tool_use(call) for call in message.get("tool_calls") or ()]
                _say(turns, "assistant", blocks)
            case "user":
                named = f"{message['name']}:" if message.get("name") else ""
                _say(turns, "user", [*_blocks(named), *_blocks(message["content"])])
            case other:
                raise _unsayable(f"the role {other!r}")
    if asked.get("response_format") not in (None, {"type": "text"}):
        raise _unsayable("`response_format`")
    most = asked.get("max_completion_tokens") or asked.get("max_tokens") or USUAL_MOST_TOKENS
    out: Body = {"model": asked.get("model", ""), "messages": turns, "max_tokens": most}
    if system:
        out["system"] = "\n\n".join(system)
    if stop := asked.get("stop"):
        out["stop_sequences"] = [stop] if isinstance(stop, str) else stop
    if (heat := asked.get("temperature")) is not None:
        out["temperature"] = min(heat, 1)  # here 1 is the most, there it is 2
    _copy(asked, out, ("top_p", "stream"))
    if tools := asked.get("tools"):
        out["tools"] = [_tool_there(tool) for tool in tools]
        if choice := _choice_there(asked.get("tool_choice"), asked.get("parallel_tool_calls")):
            out["tool_choice"] = choice
    return out


def _to_chat(asked: Body) -> Body:
    turns: list[Body] = []
    if asked.get("system"):
        turns.append({"role": "system", "content": _text_of(asked["system"])})
    for message in asked["messages"]:
        content = message["content"]
        if isinstance(content, str):
            turns.append({"role": message["role"], "content": content})
        elif message["role"] == "assistant":
            turns.append(_assistant_turn(content))
        else:
            turns += _user_turns(content)
    out: Body = {"model": asked.get("model", ""), "messages": turns}
    if stop := asked.get("stop_sequences"):
        out["stop"] = stop
    _copy(asked, out, ("max_tokens", "temperature", "top_p", "stream"))
    if form := (asked.get("output_config") or {}).get("format") or asked.get("output_format"):
        out["response_format"] = _form_here(form)
    if tools := asked.get("tools"):
        out["tools"] = [_tool_here(tool) for tool in tools]
        choice = asked.get("tool_choice") or {}
        if wanted := _choice_here(choice):
            out["tool_choice"] = wanted
        if choice.get("disable_parallel_tool_use"):
            out["parallel_tool_calls"] = False
    return out


# --- what stands in chat completions, said in messages ---


def _say(turns: list[Body], role: str, blocks: list[Body]) -> None:
    """Add to the last turn if it is the same one's: results of tools belong together."""
    if not blocks:
        return
    if turns and turns[-1]["role"] == role:
        turns[-1]["content"] += blocks
    else:
        turns.append({"role": role, "content": blocks})


def _blocks(content: str | Sequence[Body] | None) -> list[Body]:
    """Parts of chat completions as blocks of messages, which refuse empty texts."""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or ()
    return [block for block in map(_block, parts) if block.get("text") != ""]


def _block(part: Body) -> Body:
    match part:
        case {"type": "text", "text": str(text)} | {"type": "refusal", "refusal": str(text)}:
            return {"type": "text", "text": text}
        case {"type": "image_url", "image_url": {"url": str(url)} | str(url)}:
            return {"type": "image", "source": _source(url)}
        case {"type": "file", "file": {"file_data": str(url)}} if url.startswith("data:"):
            return {"type": "document", "source": _source(url)}
    raise _unsayable(f"a part of type {part['type']!r}")


def _source(url: str) -> Body:
    if not url.startswith("data:"):
        return {"type": "url", "url": url}
    head, _, data = url.partition(",")
    kind, *more = head.removeprefix("data:").split(";")
    if more[-1:] != ["base64"]:
        raise _unsayable("a data URL that is not Base64")
    return {"type": "base64", "media_type": kind, "data": data}


def _tool_use(call: Body) -> Body:
    function = call["function"]
    return {"type": "tool_use", "id": call["id"], "name": function["name"],
            "input": _input(function.get("arguments") or "{}")}  # fmt: skip


def _input(arguments: str) -> Body:
    """The arguments of a call; those that a model got wrong are kept as they are, as one of them.

    The agent told the model so in the turn after it: without the call nobody would understand that.
    """
    try:
        read = json.loads(arguments)
    except (ValueError, RecursionError):
        read = None
    return read if isinstance(read, dict) else {"arguments": arguments}


def _tool_there(tool: Body) -> Body:
    if tool.get("type", "function") != "function":
        raise _unsayable(f"a tool of type {tool['type']!r}")
    function = tool["function"]
    return {"name": function["name"], "description": function.get("description", ""),
            "input_schema": function.get("parameters") or {"type": "object"}}  # fmt: skip


def _choice_there(wanted: object, parallel: object) -> Body | None:
    choice: Body | None
    match wanted:
        case None | "auto":
            choice = {"type": "auto"} if parallel is False else None
        case "none":
            return {"type": "none"}
        case "required":
            choice = {"type": "any"}
        case {"type": "function", "function": {"name": str(name)}}:
            choice = {"type": "tool", "name": name}
        case _:
            raise _unsayable("this `tool_choice`")
    return {**choice, "disable_parallel_tool_use": True} if choice and parallel is False else choice


# --- what stands in messages, said in chat completions ---


def _assistant_turn(blocks: Sequence[Body]) -> Body:
    texts, calls = [], []
    for block in blocks:
        match block["type"]:
            case "text":
                texts.append(block["text"])
            case "tool_use":
                function = {"name": block["name"], "arguments": json.dumps(block["input"])}
                calls.append({"id": block["id"], "type": "function", "function": function})
            case "thinking" | "redacted_thinking":
                continue  # signed for Anthropic's models; no other one is shown its old thoughts
            case other:
                raise _unsayable(f"a block of type {other!r}")
    turn: Body = {"role": "assistant", "content": "".join(texts) or (None if calls else "")}
    return turn | ({"tool_calls": calls} if calls else {})


def _user_turns(blocks: Sequence[Body]) -> Iterator[Body]:
    """Results of tools first, which have turns of their own and follow the call at once.

    Pictures in them go into the turn after: a tool's turn has only text.
    """
    parts: list[Body] = []
    for block in blocks:
        if block["type"] == "tool_result":
            text, pictures = _result(block)
            yield {"role": "tool", "tool_call_id": block["tool_use_id"], "content": text}
            parts += pictures
    parts += [part for block in blocks if block["type"] != "tool_result" for part in _part(block)]
    if parts:
        yield {"role": "user", "content": parts}


def _result(block: Body) -> tuple[str, list[Body]]:
    """The text of a tool's result, and its pictures."""
    content = block.get("content") or ""
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    text = _text_of([one for one in blocks if one["type"] == "text"])
    pictures = [part for one in blocks if one["type"] != "text" for part in _part(one)]
    if block.get("is_error"):
        text = f"Error: {text}" if text else "Error"
    return text or ("The result follows." if pictures else ""), pictures


def _part(block: Body) -> Iterator[Body]:
    match block:
        case {"type": "text", "text": str(text)}:
            if text:
                yield {"type": "text", "text": text}
        case {"type": "image", "source": dict(source)}:
            yield {"type": "image_url", "image_url": {"url": _url(source)}}
        case {"type": "document", "citations": {"enabled": True}}:
            raise _unsayable("a document with citations")
        case {"type": "document", "source": {"type": "text", "data": str(text)}}:
            head = (block.get("title"), block.get("context"), text)
            yield {"type": "text", "text": "\n".join(filter(None, head))}
        case {"type": "document", "source": {"type": "base64"} as source}:
            file = {"filename": block.get("title") or "document", "file_data": _url(source)}
            yield {"type": "file", "file": file}
        case _:
            raise _unsayable(f"a block of type {block['type']!r}, or where its content is,")


def _url(source: Body) -> str:
    match source:
        case {"type": "base64", "media_type": str(kind), "data": str(data)}:
            return f"data:{kind};base64,{data}"
        case {"type": "url", "url": str(url)}:
            return url
    raise _unsayable(f"a source of type {source['type']!r}")


def _tool_here(tool: Body) -> Body:
    if tool.get("type") not in {None, "custom"}:
        raise _unsayable(f"a tool of type {tool['type']!r}")
    return {"type": "function", "function": {
        "name": tool["name"], "description": tool.get("description", ""),
        "parameters": tool.get("input_schema", {"type": "object"})}}  # fmt: skip


def _choice_here(choice: Body) -> str | Body | None:
    match choice:
        case {"type": "none"}:
            return "none"
        case {"type": "any"}:
            return "required"
        case {"type": "tool", "name": name}:
            return {"type": "function", "function": {"name": name}}
    return None


def _form_here(form: Body) -> Body:
    if form["type"] != "json_schema":
        raise _unsayable(f"an output of type {form['type']!r}")
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": form["schema"]}}


# --- both ways ---


def _text_of(content: str | Sequence[Body]) -> str:
    if isinstance(content, str):
        return content
    if other := next((part for part in content if part["type"] != "text"), None):
        raise _unsayable(f"a part of type {other['type']!r} in this place")
    return "\n".join(part["text"] for part in content)


def _copy(asked: Body, out: Body, names: Iterable[str]) -> None:
    out.update({name: asked[name] for name in names if asked.get(name) is not None})


def _refuse_unknown(asked: Body, names: Mapping[str, Sequence[object]]) -> None:
    for name, nothing in names.items():
        if asked.get(name) is not None and asked[name] not in nothing:
            raise _unsayable(f"`{name}`")


def _unsayable(what: str) -> InvalidInput:
    return InvalidInput(
        f"The API of this model's provider has no words for {what[:200]}.",
        hint="Leave it out, or use a model of another provider.",
    )


def _malformed(error: Exception) -> InvalidInput:
    return InvalidInput(f"The request cannot be read ({type(error).__name__}: {error})."[:300])
