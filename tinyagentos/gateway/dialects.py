"""What passes between an agent and a provider, in the words of each; tokens are counted on the way.

An Exchange is made for one request: it gives the body for the provider, and turns what comes back,
whole or event by event, into what the agent expects. Nothing waits for more than one event.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

from tinyagentos.gateway.events import anthropic_event, data_of, openai_event
from tinyagentos.gateway.translate import (
    Body,
    chat_answer,
    chat_usage,
    finish_reason,
    messages_answer,
    read_usage,
    stop_reason,
    to_chat,
    to_messages,
)


class Dialect(StrEnum):
    """What an agent speaks, by the call it makes."""

    chat = "chat/completions"
    messages = "messages"
    embeddings = "embeddings"


class Exchange:
    """A request that both sides word alike."""

    def __init__(self, asked: Body, model: str, dialect: Dialect) -> None:
        self.call = dialect.value
        self.body: Body = {**asked, "model": model}
        self.input_tokens = 0
        self.output_tokens = 0
        self.model = model
        streams = dialect is Dialect.chat and bool(asked.get("stream"))
        options = _stream_options(asked)
        self._wants_usage = not streams or bool(options.get("include_usage"))
        if streams:
            self.body["stream_options"] = {**options, "include_usage": True}

    def whole(self, said: bytes) -> bytes:
        """The provider's whole answer as the agent's."""
        self.count(json.loads(said))
        return said

    def event(self, event: bytes) -> Iterator[bytes]:
        """What the agent gets for one event of the provider."""
        if b'"usage"' in event and (said := data_of(event)):
            self.count(said.get("message") or said)
            # The event with the usage is one the agent did not ask for.
            if not self._wants_usage and said.get("usage") and said.get("choices") == []:
                return
        yield event + b"\n\n"

    def count(self, said: Body) -> None:
        """Keep the tokens that the body tells; later ones are totals too, never less."""
        given, made = read_usage(said)
        self.input_tokens = max(self.input_tokens, given)
        self.output_tokens = max(self.output_tokens, made)


class ChatByMessages(Exchange):
    """The agent speaks chat completions, the provider messages."""

    def __init__(self, asked: Body, model: str) -> None:
        super().__init__(asked, model, Dialect.messages)
        self.body = to_messages(self.body)
        self._tools: dict[int, int] = {}
        self._id = "chatcmpl"
        self._asked_usage = bool(_stream_options(asked).get("include_usage"))

    def whole(self, said: bytes) -> bytes:
        """The provider's whole answer as the agent's."""
        body = json.loads(said)
        self.count(body)
        return json.dumps(chat_answer(body, self.model)).encode()

    def event(self, event: bytes) -> Iterator[bytes]:
        """What the agent gets for one event of the provider."""
        said = data_of(event) or {}
        match said:
            case {"type": "message_start", "message": dict(message)}:
                self.count(message)
                self._id = str(message.get("id", self._id))
                yield self._chunk({"role": "assistant", "content": ""})
            case {"type": "content_block_start", "index": int(index), "content_block": dict(block)}:
                if block.get("type") == "tool_use":
                    number = self._tools.setdefault(index, len(self._tools))
                    function = {"name": block["name"], "arguments": ""}
                    call = {"index": number, "id": block["id"], "type": "function",
                            "function": function}  # fmt: skip
                    yield self._chunk({"tool_calls": [call]})
            case {"type": "content_block_delta", "delta": {"text": str(text)}}:
                yield self._chunk({"content": text})
            case {"type": "content_block_delta", "index": int(index),
                  "delta": {"partial_json": str(part)}}:  # fmt: skip
                call = {"index": self._tools.get(index, 0), "function": {"arguments": part}}
                yield self._chunk({"tool_calls": [call]})
            case {"type": "message_delta", "delta": dict(delta)}:
                self.count(said)
                yield self._chunk({}, finish_reason(delta.get("stop_reason")))
            case {"type": "message_stop"}:
                if self._asked_usage:
                    usage = chat_usage(self.input_tokens, self.output_tokens)
                    yield openai_event({**self._frame(), "choices": [], "usage": usage})
                yield b"data: [DONE]\n\n"
            case {"type": "error", "error": dict(error)}:
                yield openai_event({"error": error})

    def _frame(self) -> Body:
        return {"id": self._id, "object": "chat.completion.chunk", "created": 0,
                "model": self.model}  # fmt: skip

    def _chunk(self, delta: Body, finished: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finished}
        return openai_event({**self._frame(), "choices": [choice]})


class MessagesByChat(Exchange):
    """The agent speaks messages, the provider chat completions."""

    def __init__(self, asked: Body, model: str) -> None:
        super().__init__(to_chat(asked), model, Dialect.chat)
        self._block = -1
        self._open = ""
        self._began = False
        self._finish: str | None = None

    def whole(self, said: bytes) -> bytes:
        """The provider's whole answer as the agent's."""
        body = json.loads(said)
        self.count(body)
        return json.dumps(messages_answer(body, self.model)).encode()

    def event(self, event: bytes) -> Iterator[bytes]:
        """What the agent gets for one event of the provider."""
        said = data_of(event)
        if said is None:
            if b"[DONE]" in event:
                yield from self._end()
            return
        if "error" in said:
            yield anthropic_event({"type": "error", "error": said["error"]})
            return
        self.count(said)
        if not self._began:
            self._began = True
            yield anthropic_event({"type": "message_start", "message": {
                "id": str(said.get("id", "msg")), "type": "message", "role": "assistant",
                "model": self.model, "content": [], "stop_reason": None, "stop_sequence": None,
                "usage": {"input_tokens": self.input_tokens, "output_tokens": 0}}})  # fmt: skip
        for choice in said.get("choices") or ():
            yield from self._delta(choice.get("delta") or {})
            self._finish = choice.get("finish_reason") or self._finish

    def _delta(self, delta: Body) -> Iterator[bytes]:
        if text := delta.get("content"):
            yield from self._switch("text", {"type": "text", "text": ""})
            yield self._say({"type": "text_delta", "text": text})
        for call in delta.get("tool_calls") or ():
            function: dict[str, Any] = call.get("function") or {}
            block = {"type": "tool_use", "id": call.get("id"), "name": function.get("name"),
                     "input": {}}  # fmt: skip
            yield from self._switch(f"tool {call.get('index', 0)}", block)
            if part := function.get("arguments"):
                yield self._say({"type": "input_json_delta", "partial_json": part})

    def _switch(self, what: str, block: Body) -> Iterator[bytes]:
        if self._open == what:
            return
        yield from self._close()
        self._open = what
        self._block += 1
        yield anthropic_event(
            {"type": "content_block_start", "index": self._block, "content_block": block}
        )

    def _say(self, delta: Body) -> bytes:
        return anthropic_event(
            {"type": "content_block_delta", "index": self._block, "delta": delta}
        )

    def _close(self) -> Iterator[bytes]:
        if self._open:
            self._open = ""
            yield anthropic_event({"type": "content_block_stop", "index": self._block})

    def _end(self) -> Iterator[bytes]:
        yield from self._close()
        yield anthropic_event({"type": "message_delta",
            "delta": {"stop_reason": stop_reason(self._finish), "stop_sequence": None},
            "usage": {"input_tokens": self.input_tokens, "output_tokens": self.output_tokens},
        })  # fmt: skip
        yield anthropic_event({"type": "message_stop"})


def _stream_options(asked: Body) -> Body:
    given = asked.get("stream_options")
    return given if isinstance(given, dict) else {}


def make_exchange(asked: Body, model: str, dialect: Dialect, *, anthropic: bool) -> Exchange:
    """The exchange for a request in the dialect with a provider that speaks messages, or not.

    Raises InvalidInput for a request that cannot be read or that the provider has no words for.
    """
    if dialect is Dialect.chat and anthropic:
        return ChatByMessages(asked, model)
    if dialect is Dialect.messages and not anthropic:
        return MessagesByChat(asked, model)
    return Exchange(asked, model, dialect)


def stream_problem(dialect: Dialect, sentence: str) -> bytes:
    """The event that tells the agent that no more will come of its answer."""
    error: Body = {"type": "api_error", "message": sentence}
    if dialect is Dialect.messages:
        return anthropic_event({"type": "error", "error": error})
    return openai_event({"error": error})


def problem(dialect: Dialect, status: int, sentence: str, kind: str) -> bytes:
    """An error as the agent's dialect has it. kind: such as `insufficient_quota`."""
    error: Body = {"type": kind, "message": sentence}
    if dialect is Dialect.messages:
        return json.dumps({"type": "error", "error": error}).encode()
    return json.dumps({"error": {**error, "code": status}}).encode()
