"""Answers in either dialect: what is in them, and each said in the other's words.

Sources: the two vendors' API references (chat completions; messages, version 2023-06-01). What is
malformed raises one of relay.UNREADABLE.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tinyagentos.gateway.reading import Body
from tinyagentos.model.provider import MOST_TOKENS

_TO_FINISH = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length",
              "tool_use": "tool_calls", "refusal": "content_filter",
              "model_context_window_exceeded": "length"}  # fmt: skip
_TO_STOP = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use",
            "function_call": "tool_use", "content_filter": "refusal"}  # fmt: skip
# What stands in an answer and is no text of the model's.
_NO_TEXT = {"role", "type", "id", "index", "signature", "data", "url", "stop_reason",
            "stop_sequence"}  # fmt: skip


def finish_reason(stop_reason: str | None) -> str:
    """Why an answer ended, as chat completions say it."""
    return _TO_FINISH.get(stop_reason or "", "stop")


def stop_reason(finish: str | None, has_calls: bool) -> str:
    """Why an answer ended, as messages say it; that it has calls counts if nothing else is said."""
    if has_calls and finish in {None, "stop"}:
        return "tool_use"
    return _TO_STOP.get(finish or "", "end_turn")


def is_content(said: Body) -> bool:
    """Whether it is of the answer itself, and not who speaks or a sign of life."""
    match said:
        case {"type": "content_block_delta" | "message_delta" | "message_stop"}:
            return True
        case {"type": "content_block_start", "content_block": {"type": str(kind)}}:
            return kind not in {"text", "thinking"}
        case {"choices": list(choices)}:
            return any(
                bool(choice.get("finish_reason"))
                or any(value for name, value in _delta(choice).items() if name != "role")
                for choice in choices if isinstance(choice, dict)
            )  # fmt: skip
    return False


def is_last(said: Body) -> bool:
    """Whether the model says nothing after it."""
    match said:
        case {"type": "message_delta" | "message_stop"}:
            return True
        case {"choices": list(choices)}:
            return any(isinstance(one, dict) and one.get("finish_reason") for one in choices)
    return False


def error_of(said: Body) -> str:
    """What the provider says went wrong; empty when nothing did."""
    match said:
        case {"error": {"message": str(words)}} | {"error": str(words)} if words:
            return words
        case {"object": "error", "message": str(words)}:
            return words or "an error"
        case {"error": dict(error)} if error:
            return str(error.get("type") or error.get("code") or "an error")
        case {"type": "error"}:
            return "an error"
    return ""


def text_bytes(said: Body) -> int:
    """The bytes of text that the model made in it."""
    found: list[Any] = [said.get(name) for name in ("delta", "content_block", "content")]
    for choice in said.get("choices") or ():
        found += [choice.get("delta"), choice.get("message")]
    total = 0
    while found:
        match found.pop():
            case str(text):
                total += len(text) if text.isascii() else len(text.encode(errors="replace"))
            case list(inner):
                found += inner
            case dict(inner):
                found += [one for name, one in inner.items() if name not in _NO_TEXT]
    return total


def chat_answer(said: Body, model: str) -> Body:
    """A whole answer to messages as one to chat completions."""
    blocks = said["content"]
    calls = [
        {"id": block["id"], "type": "function",
         "function": {"name": block["name"], "arguments": json.dumps(block["input"])}}
        for block in blocks if block["type"] == "tool_use"
    ]  # fmt: skip
    text = "".join(block["text"] for block in blocks if block["type"] == "text")
    thought = "".join(block["thinking"] for block in blocks if block["type"] == "thinking")
    message: Body = {"role": "assistant", "content": text or None}
    if thought:
        message["reasoning_content"] = thought
    if calls:
        message["tool_calls"] = calls
    choice = {"index": 0, "message": message, "finish_reason": finish_reason(said["stop_reason"])}
    return {"id": said["id"], "object": "chat.completion", "created": 0, "model": model,
            "choices": [choice], "usage": chat_usage(*read_usage(said))}  # fmt: skip


def messages_answer(said: Body, model: str) -> Body:
    """A whole answer to chat completions as one to messages."""
    choice = said["choices"][0]
    message = choice["message"]
    content: list[Body] = [{"type": "text", "text": text} for text in texts_of(message)]
    calls = message.get("tool_calls") or ()
    content += map(_tool_use, calls)
    reason = stop_reason(choice.get("finish_reason"), bool(calls))
    given, made = read_usage(said)
    return {"id": said.get("id", "msg"), "type": "message", "role": "assistant", "model": model,
            "content": content, "stop_reason": "refusal" if message.get("refusal") else reason,
            "stop_sequence": None,
            "usage": {"input_tokens": given, "output_tokens": made}}  # fmt: skip


def texts_of(message: Body) -> Iterator[str]:
    """What a message or a piece of one says: a text, or parts of which some are; or why not."""
    said = message.get("content") or ()
    parts = [said] if isinstance(said, str) else [part.get("text") for part in said]
    yield from (text for text in (*parts, message.get("refusal")) if text)


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
    return min(value, MOST_TOKENS) if isinstance(value, int) and value > 0 else 0


def _delta(choice: Body) -> Body:
    delta = choice.get("delta")
    return delta if isinstance(delta, dict) else {}


def _tool_use(call: Body) -> Body:
    function = call["function"]
    return {"type": "tool_use", "id": call["id"], "name": function["name"],
            "input": json.loads(function.get("arguments") or "{}")}  # fmt: skip
