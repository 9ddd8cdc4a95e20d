"""What commands print: lines, tables and JSON. A job as it goes is in progress.py."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence

from pydantic import BaseModel
from rich.table import Table
from rich.text import Text

from tinyagentos.cli import screen
from tinyagentos.cli.errors import as_typed
from tinyagentos.visible import visible_line, visible_pieces, visible_quote

PIPE_WIDTH = 10_000


def print_json(value: BaseModel | Sequence[BaseModel] | dict[str, object]) -> None:
    """The value as JSON on standard output."""
    if isinstance(value, BaseModel):
        plain: object = value.model_dump(mode="json")
    elif isinstance(value, dict):
        plain = value
    else:
        plain = [one.model_dump(mode="json") for one in value]
    screen.write(json.dumps(plain, indent=2) + "\n")


def print_line(line: str) -> None:
    """One line of our own on standard output; commands in it as the person typed ours.

    A newline in it came with a value from elsewhere and is shown as an escape.
    """
    screen.write(visible_line(as_typed(line)) + "\n")


def print_quote(text: str) -> None:
    """A message that may go on with the words of others in more lines."""
    screen.write(visible_quote(as_typed(text)) + "\n")


def print_text(text: str) -> None:
    """Text as it is, whoever wrote it, in all its lines."""
    screen.write(text + "\n")


def print_pieces(pieces: Iterable[str]) -> None:
    """Text as it comes; a new line at its end."""
    for piece in visible_pieces(pieces):
        screen.write(piece)
    print_line("")


def is_attended() -> bool:
    """Whether a person reads what we print and can answer."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def ask_line(prompt: str) -> str:
    """A line from the person at the terminal; empty when there are no more."""
    while True:
        try:
            if line := screen.ask(prompt).strip():
                return line
        except EOFError:
            print_line("")
            return ""


def ask_once(prompt: str) -> str:
    """What the person types at that, if anything."""
    try:
        return screen.ask(prompt).strip()
    except EOFError:
        print_line("")
        return ""


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]], nothing: str) -> None:
    """A table, or the sentence when there are no rows."""
    rows = list(rows)
    if not rows:
        print_line(nothing)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text(visible_line(cell)) for cell in row))
    # In a pipe a row is a line, however long.
    screen.Screen(width=None if sys.stdout.isatty() else PIPE_WIDTH).print(table)
