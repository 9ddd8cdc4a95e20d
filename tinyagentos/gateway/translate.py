"""OpenAI's chat completions and Anthropic's messages, each said in the other's words.

Sources: the two vendors' API references (chat completions; messages, version 2023-06-01). Bodies
are JSON objects of somebody else's making: what has no counterpart is left out, what is malformed
raises InvalidInput.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from tinyagentos.model.errors import InvalidInput

Body = dict[str, Any]
USUAL_MOST_TOKENS = 8192
_TO_FINISH = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length",
              "tool_use": "tool_calls", "refusal": "content_filter"}  # fmt: skip
_TO_STOP = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use",
            "function_call": "tool_use", "content_filter": "refusal"}  # fmt: skip


def finish_reason(stop_reason: str | None) -> str:
    """Why an answer ended, as chat completions say it."""
    return _TO_FINISH.get(stop_reason or "", "stop")


def stop_reason(finish: str | None) -> str:
    """Why an answer ended, as messages say it."""
    return _TO_STOP.get(finish or "", "end_turn")


def to_messages(asked: Body) -> Body:
    """A request for chat completions as one for messages."""
    try:
        return _to_messages(asked)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _malformed(error) from error


def to_chat(asked: Body) -> Body:
    """A request for messages as one for chat completions."""
    try:
        return _to_chat(asked)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _malformed(error) from error


def chat_answer(said: Body, model: str) -> Body:
    """A whole answer to messages as one to chat completions."""
    text = "".join(block.get("text", "") for block in said["content"] if block["type"] == "text")
    calls = [
        {"id": block["id"], "type": "function",
         "function": {"name": block["name"], "arguments": json.dumps(block["input"])}}
        for block in said["content"] if block["type"] == "tool_use"
    ]  # fmt: skip
    message: Body = {"role": "assistant", "content": text or None}
    if calls:
        message["tool_calls"] = calls
    choice = {"index": 0, "message": message, "finish_reason": finish_reason(said["stop_reason"])}
    return {"id": said["id"], "object": "chat.completion", "created": 0, "model": model,
            "choices": [choice], "usage": chat_usage(*read_usage(said))}  # fmt: skip


def messages_answer(said: Body, model: str) -> Body:
    """A whole answer to chat completions as one to messages."""
    choice = said["choices"][0]
    message = choice["message"]
    content: list[Body] = []
    if message.get("content"):
        content.append({"type": "text", "text": message["content"]})
    content += [_tool_use(call) for call in message.get("tool_calls") or ()]
    used = read_usage(said)
    return {"id": said.get("id", "msg"), "type": "message", "role": "assistant", "model": model,
            "content": content, "stop_reason": stop_reason(choice.get("finish_reason")),
            "stop_sequence": None,
            "usage": {"input_tokens": used[0], "output_tokens": used[1]}}  # fmt: skip


def read_usage(said: Body) -> tuple[int, int]:
    """The tokens in and out that a body of either kind tells; zeros when it tells none."""
    used = said.get("usage")
    if not isinstance(used, dict):
        return 0, 0
    names_in = ("prompt_tokens", "input_tokens", "cache_read_input_tokens",
                "cache_creation_input_tokens")  # fmt: skip
    return (
        sum(_number(used.get(name)) for name in names_in),
        sum(_number(used.get(name)) for name in ("completion_tokens", "output_tokens")),
    )


def chat_usage(given: int, made: int) -> Body:
    """Usage as chat completions tell it."""
    return {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}


def _number(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _to_messages(asked: Body) -> Body:
    system: list[str] = []
    turns: list[Body] = []
    for message in asked["messages"]:
        match message["role"]:
            case "system" | "developer":
                system.append(_text_of(message["content"]))
            case "tool":
                result = {"type": "tool_result", "tool_use_id": message["tool_call_id"],
                          "content": _text_of(message["content"])}  # fmt: skip
                _say(turns, "user", [result])
            case "assistant":
                blocks = _blocks(message.get("content"))
                blocks += [_tool_use(call) for call in message.get("tool_calls") or ()]
                _say(turns, "assistant", blocks)
            case _:
                _say(turns, "user", _blocks(message["content"]))
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
        out["tools"] = [_tool_there(tool["function"]) for tool in tools]
        match asked.get("tool_choice"):
            case "none":
                out["tool_choice"] = {"type": "none"}
            case "required":
                out["tool_choice"] = {"type": "any"}
            case {"function": {"name": name}}:
                out["tool_choice"] = {"type": "tool", "name": name}
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
    if tools := asked.get("tools"):
        out["tools"] = [
            {"type": "function", "function": {
                "name": tool["name"], "description": tool.get("description", ""),
                "parameters": tool.get("input_schema", {"type": "object"})}}
            for tool in tools
        ]  # fmt: skip
        match asked.get("tool_choice"):
            case {"type": "none"}:
                out["tool_choice"] = "none"
            case {"type": "any"}:
                out["tool_choice"] = "required"
            case {"type": "tool", "name": name}:
                out["tool_choice"] = {"type": "function", "function": {"name": name}}
    return out


def _assistant_turn(blocks: Sequence[Body]) -> Body:
    calls = [
        {"id": block["id"], "type": "function",
         "function": {"name": block["name"], "arguments": json.dumps(block["input"])}}
        for block in blocks if block["type"] == "tool_use"
    ]  # fmt: skip
    turn: Body = {"role": "assistant", "content": _text_of(blocks) or None}
    return turn | ({"tool_calls": calls} if calls else {})


def _user_turns(blocks: Sequence[Body]) -> Iterable[Body]:
    """Results of tools first, which have turns of their own and follow the call at once."""
    for block in blocks:
        if block["type"] == "tool_result":
            yield {"role": "tool", "tool_call_id": block["tool_use_id"],
                   "content": _text_of(block.get("content") or "")}  # fmt: skip
    parts: list[Body] = []
    for block in blocks:
        if block["type"] == "text":
            parts.append({"type": "text", "text": block["text"]})
        elif block["type"] == "image":
            source = block["source"]
            url = source.get("url") or f"data:{source['media_type']};base64,{source['data']}"
            parts.append({"type": "image_url", "image_url": {"url": url}})
    if parts:
        yield {"role": "user", "content": parts}


def _say(turns: list[Body], role: str, blocks: list[Body]) -> None:
    """Add to the last turn if it is the same one's: results of tools belong together."""
    if not blocks:
        return
    if turns and turns[-1]["role"] == role:
        turns[-1]["content"] += blocks
    else:
        turns.append({"role": role, "content": blocks})


def _blocks(content: str | Sequence[Body] | None) -> list[Body]:
    if not content:
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [_block(part) for part in content]


def _block(part: Body) -> Body:
    if part["type"] == "image_url":
        return {"type": "image", "source": _image_source(part["image_url"]["url"])}
    return {"type": "text", "text": part.get("text") or part.get("refusal") or ""}


def _image_source(url: str) -> Body:
    head, comma, data = url.partition(",")
    if head.startswith("data:") and comma:
        kind = head.removeprefix("data:").removesuffix(";base64")
        return {"type": "base64", "media_type": kind, "data": data}
    return {"type": "url", "url": url}


def _text_of(content: str | Sequence[Body]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part.get("type") == "text")


def _tool_use(call: Body) -> Body:
    function = call["function"]
    return {"type": "tool_use", "id": call["id"], "name": function["name"],
            "input": json.loads(function.get("arguments") or "{}")}  # fmt: skip


def _tool_there(function: Body) -> Body:
    return {"name": function["name"], "description": function.get("description", ""),
            "input_schema": function.get("parameters") or {"type": "object"}}  # fmt: skip


def _copy(asked: Body, out: Body, names: Iterable[str]) -> None:
    out.update({name: asked[name] for name in names if asked.get(name) is not None})


def _malformed(error: Exception) -> InvalidInput:
    return InvalidInput(f"The request cannot be read ({type(error).__name__}: {error}).")
