"""The one exit to the terminal: no other module here writes to it, but `taos agent shell`.

What an agent, a provider, Incus or a package manager said passes visible() here, so none of them
steers the terminal. A test finds writes that go past it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from io import TextIOWrapper

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from tinyagentos.log import LineFormatter
from tinyagentos.visible import visible, visible_line


def prepare() -> None:
    """Have the streams take any character, and what is logged in this process be visible."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # our marks, on a terminal that has no Unicode
    if logging.lastResort:
        logging.lastResort.setFormatter(LineFormatter("%(message)s"))


def write(text: str) -> None:
    """Have the text on standard output."""
    sys.stdout.write(visible(text))
    sys.stdout.flush()


def write_error(text: str) -> None:
    """Have the text on standard error."""
    sys.stderr.write(visible(text))
    sys.stderr.flush()


def ask(prompt: str) -> str:
    """A line from the person; EOFError when there are no more."""
    return input(visible_line(prompt))


def ask_secret(prompt: str, *, twice: bool = False, may_be_empty: bool = False) -> str:
    """What the person types unseen."""
    default = "" if may_be_empty else None
    return str(
        typer.prompt(
            visible_line(prompt), default=default, hide_input=True, show_default=False,
            confirmation_prompt=twice,
        )
    )  # fmt: skip


class Screen(Console):
    """A rich console on standard output. Styles and links are ours alone."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """The parts of a picture, their text made visible."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else visible(text), style, control)
