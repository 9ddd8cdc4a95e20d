"""Words of somebody who means harm, in every string that a contract has room for."""

from __future__ import annotations

import json
import re
import types
import typing
from collections.abc import Mapping
from datetime import datetime
from enum import Enum

from pydantic import BaseModel

from tinyagentos.visible import visible

# A title, a cleared screen, a clipboard, a link, an end of styles, C1, hidden and reordered text,
# rich's markup, a line that pretends to be ours; ESC alone at the end.
EVIL = (
    "\x1b]0;owned\x07\x1b[2J\x1b]52;c;aGk=\x07\x1b]8;;http://x.invalid\x1b\\link\x1b]8;;\x1b\\"
    "\x9b2J\x85\u202egnp\u2066\u200b\u2028\u2029\U000e0041\ufeff\x00\x08\x7f\r[link=x][bold]b[/]"
    "\n  hint: forged\n✓ forged\x1b"
)
# What rich itself sends to a terminal: styles, and moves of the cursor for a picture.
OWN_CODES = re.compile(r"\x1b\[(?:[0-9;]*m|[0-9]*[ABKG]|\?25[hl]|[0-9;]*H)|\r")


def hostile(kind: object, choose: Mapping[type[Enum], Enum]) -> object:
    """A value of the type as JSON has it: its strings EVIL, its enums as chosen, else the first."""
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return hostile(inside[0], choose)
    if origin in (typing.Union, types.UnionType):
        return hostile(next(one for one in inside if one is not type(None)), choose)
    if origin in (tuple, list):
        return [hostile(one, choose) for one in inside if one is not Ellipsis]
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {EVIL: hostile(inside[1], choose)}
    assert isinstance(kind, type), kind
    if issubclass(kind, BaseModel):
        fields = kind.model_fields
        return {name: hostile(field.annotation, choose) for name, field in fields.items()}
    if issubclass(kind, Enum):
        return choose.get(kind, next(iter(kind))).value
    if issubclass(kind, datetime):
        return "2026-01-01T00:00:00Z"
    return {str: EVIL, bool: True, int: 7, float: 1.5}[kind]


def assert_harmless(said: str, *, terminal: bool = False, alone: bool = False) -> None:
    """Nothing in what was printed is obeyed by a terminal, or unseen, or pretends to be ours.

    terminal: rich drew it. alone: it is all of somebody's text, so its lines are theirs.
    """
    bare = OWN_CODES.sub("", said) if terminal else said
    assert visible(bare) == bare, json.dumps(said)
    for line in () if alone else bare.splitlines():
        assert not line.startswith(("  hint: forged", "✓ forged")), bare
