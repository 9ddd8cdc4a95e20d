"""Server-sent events as they come in pieces (the HTML standard, section 9.2)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from tinyagentos.gateway.reading import read_json

LARGEST_EVENT = 16 * 1024 * 1024
_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")


class TooLarge(ValueError):
    """An event that has no end."""


class Events:
    """Cuts a stream into events; each is given as soon as its last byte is there."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The events that the chunk completes, without what ends them."""
        # An end can lie across two chunks; nothing before that has to be searched again.
        searched = max(0, len(self._rest) - 3)
        self._rest += chunk
        begun, ends = 0, []
        for found in _END.finditer(self._rest, searched):
            ends.append((begun, found.start()))
            begun = found.end()
        events = [bytes(self._rest[start:stop]) for start, stop in ends]
        # Once for all of them: a chunk may hold thousands.
        del self._rest[:begun]
        yield from (event for event in events if event.strip())
        if len(self._rest) > LARGEST_EVENT:
            raise TooLarge("an event without an end")

    def rest(self) -> Iterator[bytes]:
        """The last event of a stream that ended without the blank line after it."""
        event = bytes(self._rest)
        self._rest.clear()
        if event.strip():
            yield event


def data_of(event: bytes) -> dict[str, Any] | None:
    """The JSON object of an event; None when it has none that can be read (`[DONE]`, a comment)."""
    lines = re.split(rb"\r\n|\n|\r", event)
    said = b"\n".join(line[5:].strip() for line in lines if line.startswith(b"data:"))
    try:
        value = read_json(said)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def openai_event(body: dict[str, Any]) -> bytes:
    """An event as chat completions stream it."""
    return b"data: " + _json(body) + b"\n\n"


def anthropic_event(body: dict[str, Any]) -> bytes:
    """An event as messages stream it: its type is its name too."""
    return b"event: " + str(body["type"]).encode() + b"\ndata: " + _json(body) + b"\n\n"


def _json(body: dict[str, Any]) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()
