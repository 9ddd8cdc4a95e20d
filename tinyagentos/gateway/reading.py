"""JSON of a stranger's making: weighed, and read within bounds.

Python needs up to 200 bytes for an object of three (`{},`), and holds its lock until all are read:
a thread would not keep the loop free (measured). So values are counted before.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

Body = dict[str, Any]
# Ten times what an agent with a long conversation and many tools has; 20 MB, read in 30 ms.
MOST_VALUES = 100_000
VALUE_BYTES = 200
COPIES = 3
# What a provider that tells nothing is thought to count: for text, for a picture, and for an answer
# that nobody limited.
BYTES_A_TOKEN = 4
TOKENS_A_PICTURE = 1600
USUAL_MOST_TOKENS = 8192
_ATTACHED = {"image", "image_url", "document", "file", "input_audio"}


class TooMany(ValueError):
    """JSON of too many values to be read."""


def count_values(text: bytes | bytearray) -> int:
    """The values in a JSON text, or more: before each but the first stands one of `{`, `[`, `,`."""
    roughly = _count(text)
    if roughly <= MOST_VALUES:
        return roughly
    # A long text has as many commas: what stands between quotes does not count.
    bare = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    if bare.count(b'"') > 4 * MOST_VALUES:
        return roughly
    return _count(b"".join(bare.split(b'"')[::2]))


def _count(text: bytes | bytearray) -> int:
    return text.count(b"{") + text.count(b"[") + text.count(b",")


def weigh(text: bytes | bytearray) -> int:
    """The bytes that a JSON text needs in memory; TooMany when it has too many values.

    It is there as it came, read, and as it is sent on; read, a text that has one emoji has four
    bytes for each of its characters.
    """
    values = count_values(text)
    if values > MOST_VALUES:
        raise TooMany("too many values")
    return len(text) * (COPIES if text.isascii() else COPIES + 3) + values * VALUE_BYTES


def parse_json(text: bytes | bytearray) -> object:
    """What a JSON text says that was weighed; ValueError when it is none."""
    try:
        # As UTF-8, which is what was counted in; json would take others for it, too.
        read: object = json.loads(text.decode(), parse_float=_finite, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("too deep") from error
    return read


def _finite(number: str) -> float:
    """The number; ValueError for one that is too large (1e999), which would become Infinity."""
    read = float(number)
    if not math.isfinite(read):
        raise ValueError("a number without end")
    return read


def _no_constant(name: str) -> float:
    # Python reads and writes NaN and Infinity; to everybody else what has them is no JSON.
    raise ValueError(f"{name} is no JSON")


def read_json(text: bytes | bytearray) -> object:
    """What a JSON text says; ValueError when it is none or too much."""
    weigh(text)
    return parse_json(text)


def question_tokens(size_bytes: int, body: Body) -> int:
    """An estimate of the tokens of a question that came in so many bytes."""
    attached = list(_attached(body))
    text = max(0, size_bytes - sum(attached))
    return -(-text // BYTES_A_TOKEN) + len(attached) * TOKENS_A_PICTURE


def answer_tokens(body: Body) -> int:
    """The most tokens that an answer to the question should have."""
    wanted = (body.get(name) for name in ("max_completion_tokens", "max_tokens"))
    most = next((one for one in wanted if isinstance(one, int) and one > 0), USUAL_MOST_TOKENS)
    answers = body.get("n")
    return most * (answers if isinstance(answers, int) and answers > 0 else 1)


def _attached(body: Body) -> Iterator[int]:
    """The bytes of each picture and file in messages, their parts, and results of tools."""
    found = _objects(body.get("messages"))
    while found:
        part = found.pop()
        if part.get("type") in _ATTACHED:
            values = [part, *_objects(list(part.values()))]
            yield sum(len(one) for each in values for one in each.values() if isinstance(one, str))
        else:
            found += _objects(part.get("content"))


def _objects(value: object) -> list[Body]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
