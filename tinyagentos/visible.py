"""Text from elsewhere as it may be shown: on a terminal, on a page, in a log.

A terminal obeys control characters: they set its title, write to the clipboard, hide links. Others
are not seen, or change the order in which the rest is read. Each becomes an escape such as `\\x1b`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

# What Unicode 17 calls control, format, line and paragraph separator, surrogate or ignorable by
# default, without newline and tab. U+FE00 to U+FE0F stay: they choose how the one before is drawn.
_UNSEEN = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2"
    "\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164"
    "\ud800-\udfff\ufeff\uffa0\ufff0-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
# Zero-width joiners are spelling in emoji and in scripts from Arabic to Khmer, nowhere else.
_JOINERS = "\u200c\u200d"
_JOINED = "\u0620-\u074a\u0750-\u077f\u08a0-\u08c9\u0900-\u17b3\u1820-\u18aa\u2190-\u2bff\ufe0f"
_JOINED += "\U0001f000-\U0001faff"
_MARKED = re.compile(f"(?<=[{_JOINED}])[{_JOINERS}](?=[{_JOINED}])|([{_UNSEEN}])")
_MARKED_IN_LINE = re.compile(f"{_MARKED.pattern[:-2]}\n])")


def visible(text: str) -> str:
    """The text, with what a terminal would obey or nobody would see as escapes; it keeps its
    newlines and tabs."""
    return _MARKED.sub(_escape, text)


def visible_line(text: str) -> str:
    """The same in one line: newlines are escapes, too."""
    return _MARKED_IN_LINE.sub(_escape, text)


def visible_quote(text: str) -> str:
    """The same, every line but the first set off as a quotation: none is taken for one of ours."""
    return visible(text.rstrip("\n")).replace("\n", "\n  | ")


def visible_pieces(pieces: Iterable[str]) -> Iterator[str]:
    """visible() of a text that comes in pieces, which may be cut anywhere."""
    before = waiting = ""
    for piece in pieces:
        text = waiting + piece
        # Whether a joiner belongs is told by the next character.
        waiting = text[-1:] if text.endswith(tuple(_JOINERS)) else ""
        text = text[: len(text) - len(waiting)]
        shown = visible(before + text)[len(before) :]
        if text:
            before = text[-1] if visible(text[-1]) == text[-1] else ""
        if shown:
            yield shown
    if waiting:
        yield visible(waiting)


def _escape(found: re.Match[str]) -> str:
    marked = found[1]
    return found[0] if marked is None else marked.encode("unicode_escape").decode()
