"""What passes between an agent and a provider, in the words of each; tokens are counted on the way.

An Exchange is made for one request: it gives the body for the provider, and turns what comes back,
whole or event by event, into what the agent expects. Nothing waits for more than one event.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from enum import StrEnum

from tinyagentos.gateway.answers import (
    chat_answer,
    chat_usage,
    error_of,
    finish_reason,
    is_content,
    is_last,
    messages_answer,
    read_usage,
    stop_reason,
    text_bytes,
    texts_of,
)
from tinyagentos.gateway.events import anthropic_event, data_of, openai_event
from tinyagentos.gateway.reading import BYTES_A_TOKEN, MOST_VALUES, Body, count_values, read_json
from tinyagentos.gateway.translate import to_chat, to_messages

_JSON = re.compile(rb"^data: *\{", re.MULTILINE)


class Dialect(StrEnum):
    """What an agent speaks, by the call it makes."""

    chat = "chat/completions"
    messages = "messages"
    embeddings = "embeddings"


class Exchange:
    """A request that both sides word alike.

    has_begun: whether something of the answer itself came. failure: what went wrong after the
    provider took the question. is_refused: whether the agent got nothing from it.
    """

    def __init__(self, asked: Body, model: str, dialect: Dialect, question_tokens: int = 0) -> None:
        """question_tokens: an estimate, for a provider that does not tell."""
        self.call = dialect.value
        self.body: Body = {**asked, "model": model}
        self.model = model
        self.has_begun = False
        self.failure = ""
        self.is_refused = False
        self._question_tokens = question_tokens
        self._told = 0, 0
        self._said_bytes = 0
        self._pieces = 0
        self._has_ended = False
        streams = dialect is Dialect.chat and bool(asked.get("stream"))
        options = _stream_options(asked)
        self._wants_usage = not streams or bool(options.get("include_usage"))
        if streams:
            self.body["stream_options"] = {**options, "include_usage": True}

    @property
    def tokens(self) -> tuple[int, int]:
        """Tokens in and out: what the provider told; an estimate of what it did not tell (yet)."""
        given, made = self._told
        if self.is_refused and not self.has_begun:
            return given, made
        # Most providers send a piece for each token.
        estimate = max(self._pieces, -(-self._said_bytes // BYTES_A_TOKEN))
        is_told = self._has_ended and made
        return given or self._question_tokens, made if is_told else max(made, estimate)

    def whole(self, said: bytes) -> bytes:
        """The provider's whole answer as the agent's."""
        # Vectors, which nobody here has to read; their tokens are estimated.
        if count_values(said) <= MOST_VALUES:
            self._note_whole(said)
        return said

    def event(self, event: bytes) -> Iterator[bytes]:
        """What the agent gets for one event of the provider."""
        said = data_of(event)
        if said is not None:
            self._note(said)
            # The event with the usage is one the agent did not ask for.
            if not self._wants_usage and said.get("usage") and said.get("choices") == []:
                return
        yield event + b"\n\n"

    def end(self) -> Iterator[bytes]:
        """What the agent gets when the provider's stream is over."""
        yield from ()

    def _note_whole(self, said: bytes) -> Body:
        body = read_json(said)
        if not isinstance(body, dict):
            raise ValueError("an answer that is no object")
        self._note(body)
        self._has_ended = True
        return body

    def _note(self, said: Body) -> None:
        """Keep what the body tells: of tokens, which are totals, and of how far the answer is."""
        message = said.get("message")
        given, made = read_usage(message if isinstance(message, dict) else said)
        self._told = max(self._told[0], given), max(self._told[1], made)
        if size_bytes := text_bytes(said):
            self._said_bytes += size_bytes
            self._pieces += 1
        self.failure = self.failure or error_of(said)
        self.has_begun = self.has_begun or (not self.failure and is_content(said))
        self._has_ended = self._has_ended or is_last(said)

    def _read(self, event: bytes) -> Body:
        """What an event that is to be translated says; ValueError for one that cannot be read."""
        said = data_of(event)
        if said is None and _JSON.search(event):
            raise ValueError("an event that cannot be read")
        self._note(said or {})
        return said or {}


class ChatByMessages(Exchange):
    """The agent speaks chat completions, the provider messages."""

    def __init__(self, asked: Body, model: str, question_tokens: int = 0) -> None:
        super().__init__(asked, model, Dialect.messages, question_tokens)
        self.body = to_messages(self.body)
        self._tools: dict[int, int] = {}
        self._unsaid: set[int] = set()
        self._id = "chatcmpl"
        self._asked_usage = bool(_stream_options(asked).get("include_usage"))
        self._is_over = False

    def whole(self, said: bytes) -> bytes:
        """The provider's whole answer as the agent's."""
        body = self._note_whole(said)
        return b"" if self.failure else json.dumps(chat_answer(body, self.model)).encode()

    def event(self, event: bytes) -> Iterator[bytes]:
        """What the agent gets for one event of the provider."""
        match self._read(event):
            case {"type": "message_start", "message": dict(message)}:
                self._id = str(message.get("id", self._id))
                yield self._chunk({"role": "assistant", "content": ""})
            case {"type": "content_block_start", "index": int(index),
                  "content_block": {"type": "tool_use", "id": called, "name": name}}:  # fmt: skip
                number = self._tools.setdefault(index, len(self._tools))
                self._unsaid.add(index)
                function = {"name": name, "arguments": ""}
                call = {"index": number, "id": called, "type": "function", "function": function}
                yield self._chunk({"tool_calls": [call]})
            case {"type": "content_block_delta", "delta": {"text": str(text)}}:
                yield self._chunk({"content": text})
            case {"type": "content_block_delta", "delta": {"thinking": str(text)}}:
                yield self._chunk({"reasoning_content": text})
            case {"type": "content_block_delta", "index": int(index),
                  "delta": {"partial_json": str(part)}} if part:  # fmt: skip
                self._unsaid.discard(index)
                yield self._arguments(index, part)
            case {"type": "content_block_stop", "index": int(index)} if index in self._unsaid:
                # A tool without arguments: nothing is no JSON to who reads the call.
                yield self._arguments(index, "{}")
            case {"type": "message_delta", "delta": dict(delta)}:
                yield self._chunk({}, finish_reason(delta.get("stop_reason")))
            case {"type": "message_stop"}:
                yield from self.end()
            case {"type": "error"}:
                yield stream_problem(Dialect.chat, self.failure)

    def end(self) -> Iterator[bytes]:
        """What the agent gets when the provider's stream is over."""
        if self._is_over or self.failure:
            return
        self._is_over = True
        if self._asked_usage:
            yield openai_event({**self._frame(), "choices": [], "usage": chat_usage(*self.tokens)})
        yield b"data: [DONE]\n\n"

    def _arguments(self, index: int, part: str) -> bytes:
        call = {"index": self._tools.get(index, 0), "function": {"arguments": part}}
        return self._chunk({"tool_calls": [call]})

    def _frame(self) -> Body:
        return {"id": self._id, "object": "chat.completion.chunk", "created": 0,
                "model": self.model}  # fmt: skip

    def _chunk(self, delta: Body, finished: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finished}
        return openai_event({**self._frame(), "choices": [choice]})


class MessagesByChat(Exchange):
    """The agent speaks messages, the provider chat completions."""

    def __init__(self, asked: Body, model: str, question_tokens: int = 0) -> None:
        super().__init__(to_chat(asked), model, Dialect.chat, question_tokens)
        self._id = ""
        self._block = -1
        self._open = ""
        self._called = ""
        self._has_calls = False
        self._was_refused = False
        self._is_over = False
        self._finish: str | None = None

    def whole(self, said: bytes) -> bytes:
        """The provider's whole answer as the agent's."""
        body = self._note_whole(said)
        return b"" if self.failure else json.dumps(messages_answer(body, self.model)).encode()

    def event(self, event: bytes) -> Iterator[bytes]:
        """What the agent gets for one event of the provider."""
        said = self._read(event)
        if error_of(said):
            yield stream_problem(Dialect.messages, self.failure)
        elif said:
            yield from self._begin(said)
            for choice in said.get("choices") or ():
                yield from self._delta(choice.get("delta") or {})
                self._finish = choice.get("finish_reason") or self._finish
        elif b"[DONE]" in event:
            yield from self.end()

    def end(self) -> Iterator[bytes]:
        """What the agent gets when the provider's stream is over, with `[DONE]` or without."""
        if not self._id or self._is_over or self.failure:
            return
        self._is_over = True
        yield from self._close()
        reason = "refusal" if self._was_refused else stop_reason(self._finish, self._has_calls)
        given, made = self.tokens
        yield anthropic_event({"type": "message_delta",
            "delta": {"stop_reason": reason, "stop_sequence": None},
            "usage": {"input_tokens": given, "output_tokens": made}})  # fmt: skip
        yield anthropic_event({"type": "message_stop"})

    def _begin(self, said: Body) -> Iterator[bytes]:
        if self._id:
            return
        self._id = str(said.get("id") or "msg")
        yield anthropic_event({"type": "message_start", "message": {
            "id": self._id, "type": "message", "role": "assistant", "model": self.model,
            "content": [], "stop_reason": None, "stop_sequence": None,
            "usage": {"input_tokens": self.tokens[0], "output_tokens": 0}}})  # fmt: skip

    def _delta(self, delta: Body) -> Iterator[bytes]:
        self._was_refused = self._was_refused or bool(delta.get("refusal"))
        for text in texts_of(delta):
            if self._open != "text":
                yield from self._switch("text", {"type": "text", "text": ""})
            yield self._say({"type": "text_delta", "text": text})
        for call in delta.get("tool_calls") or ():
            yield from self._call(call, call.get("function") or {})
        if delta.get("reasoning_content") or delta.get("reasoning"):
            # A thought that no key of Anthropic's signed would be refused when it comes back.
            yield anthropic_event({"type": "ping"})

    def _call(self, call: Body, function: Body) -> Iterator[bytes]:
        # Some providers give all calls one number, but each has an id of its own.
        what, called = f"tool {call.get('index', 0)}", call.get("id") or ""
        if self._open != what or called not in {"", self._called}:
            self._has_calls = True
            self._called = called or f"call_{self._id}_{self._block + 1}"
            yield from self._switch(what, {
                "type": "tool_use", "id": self._called, "name": function.get("name"), "input": {},
            })  # fmt: skip
        if part := function.get("arguments"):
            yield self._say({"type": "input_json_delta", "partial_json": part})

    def _switch(self, what: str, block: Body) -> Iterator[bytes]:
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


def _stream_options(asked: Body) -> Body:
    given = asked.get("stream_options")
    return given if isinstance(given, dict) else {}


def make_exchange(
    asked: Body, model: str, dialect: Dialect, *, anthropic: bool, question_tokens: int = 0
) -> Exchange:
    """The exchange for a request in the dialect with a provider that speaks messages, or not.

    Raises InvalidInput for a request that cannot be read or that the provider has no words for.
    question_tokens: what is counted as asked when the provider does not tell.
    """
    if dialect is Dialect.chat and anthropic:
        return ChatByMessages(asked, model, question_tokens)
    if dialect is Dialect.messages and not anthropic:
        return MessagesByChat(asked, model, question_tokens)
    return Exchange(asked, model, dialect, question_tokens)


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
