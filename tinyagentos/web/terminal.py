"""A shell in the agent's instance, as the agent's own user, in the page."""

from __future__ import annotations

import asyncio
import codecs

from nicegui import background_tasks, ui
from nicegui.events import XtermDataEventArguments, XtermResizeEventArguments

from tinyagentos.incus import IncusError, Terminal
from tinyagentos.model.errors import TaosError
from tinyagentos.web.frame import Site

FONT = '"DejaVu Sans Mono", Menlo, Consolas, monospace'
MOST_TYPED = 64 * 1024
COLOURS = {"background": "#11161c", "foreground": "#e7ebf0", "cursor": "#5fd0c3"}


class TerminalView:
    """A terminal that lives as long as what was built around it."""

    def __init__(self, site: Site, name: str) -> None:
        self._site = site
        self._name = name
        self._terminal: Terminal | None = None
        self._size = (80, 24)

    def build(self) -> asyncio.Task[None]:
        """Build it here; the task ends with the shell, and cancelling it ends the shell."""
        options = {
            "fontSize": 13, "cursorBlink": True, "scrollback": 5000, "theme": COLOURS,
            "screenReaderMode": True, "fontFamily": FONT,
        }  # fmt: skip
        with ui.element("div").classes("terminal-box"):
            self._view = (
                ui.xterm(options, on_data=self._typed, on_resize=self._resized)
                .style("height:100%")
                .props('aria-label="Terminal" role=group')
            )
        return background_tasks.create(self._run(), name=f"terminal of {self._name}")

    async def _run(self) -> None:
        try:
            await self._view.client.connected()
            await asyncio.sleep(0.2)  # until the browser has laid the terminal out
            self._view.fit()
            await asyncio.sleep(0.2)  # its size comes as an event
            width, height = self._size
            shells = self._site.services.shells
            async with shells.open(self._name, width=width, height=height) as self._terminal:
                await self._show(self._terminal)
            self._view.writeln("\r\n[The shell has ended. Choose the tab again for another.]")
        except (TaosError, IncusError) as error:
            message, hint = self._site.explain(error)
            self._view.writeln(f"\r\n[{message} {hint}]")
        finally:
            self._terminal = None

    async def _show(self, terminal: Terminal) -> None:
        """Show what the shell writes, until it ends."""
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        while data := await terminal.recv():
            if self._view.is_deleted:
                return
            self._view.write(decode(data))

    async def _typed(self, event: XtermDataEventArguments) -> None:
        if self._terminal and len(event.data) <= MOST_TYPED:
            await self._terminal.send(event.data.encode())

    async def _resized(self, event: XtermResizeEventArguments) -> None:
        self._size = (event.cols, event.rows)
        if self._terminal:
            await self._terminal.resize(*self._size)
