"""A shell in the agent's instance, as the agent's own user, in the page."""

from __future__ import annotations

import asyncio
import codecs
import json
from itertools import count

from nicegui import background_tasks, ui
from nicegui.events import XtermDataEventArguments, XtermResizeEventArguments

from tinyagentos.incus import IncusError, Terminal
from tinyagentos.model.errors import TaosError
from tinyagentos.web.frame import Site, show
from tinyagentos.web.hints import for_web
from tinyagentos.web.markup import plain

FONT = '"DejaVu Sans Mono", Menlo, Consolas, monospace'
MOST_TYPED = 64 * 1024
COLOURS = {"background": "#11161c", "foreground": "#e7ebf0", "cursor": "#5fd0c3"}
# What keyboards of phones lack: what is shown, what is read out, and the key's name for taos.js.
KEYS = (
    ("Esc", "Escape", "Escape"),
    ("Tab", "Tab", "Tab"),
    ("←", "Left", "ArrowLeft"),
    ("↑", "Up", "ArrowUp"),
    ("↓", "Down", "ArrowDown"),
    ("→", "Right", "ArrowRight"),
)
CTRL_PLACE = 2
_numbers = count()


def with_control(typed: str) -> str:
    """What a keyboard sends for the key when Ctrl is held down: a Ctrl-C for `c`."""
    is_one = len(typed) == 1 and "@" <= typed.upper() <= "_"
    return chr(ord(typed.upper()) & 0x1F) if is_one else typed


class TerminalView:
    """A terminal that lives as long as what was built around it."""

    def __init__(self, site: Site, name: str) -> None:
        self._site = site
        self._name = name
        self._terminal: Terminal | None = None
        self._size = (80, 24)
        self._holds_ctrl = False

    def build(self) -> asyncio.Task[None]:
        """Build it here; the task ends with the shell, and cancelling it ends the shell."""
        options = {
            "fontSize": 13, "cursorBlink": True, "scrollback": 5000, "theme": COLOURS,
            "screenReaderMode": True, "fontFamily": FONT,
        }  # fmt: skip
        box = f"terminal-{next(_numbers)}"
        # Above the terminal: below it they would be under the phone's keyboard.
        keys = ui.element("div").classes("keys").props('role=toolbar aria-label="Keys"')
        with ui.element("div").classes("terminal-box").props(f"id={box}"):
            self._view = (
                ui.xterm(options, on_data=self._typed, on_resize=self._resized)
                .style("height:100%")
                .props('aria-label="Terminal" role=group')
            )
        with keys:
            self._build_keys()
        return background_tasks.create(self._run(box), name=f"terminal of {self._name}")

    def _build_keys(self) -> None:
        """The row of keys that touch screens show."""
        for place, (label, name, key) in enumerate(KEYS):
            if place == CTRL_PLACE:
                self._ctrl = _key("Ctrl", "Control")
                self._ctrl.on("click", lambda: self._hold_ctrl(hold=not self._holds_ctrl), [])
                self._hold_ctrl(hold=False)
            press = f"() => taosKey({self._view.id}, {json.dumps(key)})"
            _key(label, name).on("click", js_handler=press)

    def _hold_ctrl(self, *, hold: bool) -> None:
        self._holds_ctrl = hold
        self._ctrl.props(f"aria-pressed={'true' if hold else 'false'}")

    async def _run(self, box: str) -> None:
        try:
            await self._view.client.connected()
            self._view.client.run_javascript(f"taosFit({json.dumps(box)}, {self._view.id})")
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
            self._view.writeln(f"\r\n[{message} {plain(for_web(hint))}]")
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
        typed = str(event.data)
        if self._holds_ctrl:
            typed = with_control(typed)
            self._hold_ctrl(hold=False)
        if self._terminal and len(typed) <= MOST_TYPED:
            await self._terminal.send(typed.encode(errors="replace"))

    async def _resized(self, event: XtermResizeEventArguments) -> None:
        self._size = (event.cols, event.rows)
        if self._terminal:
            await self._terminal.resize(*self._size)


def _key(label: str, name: str) -> ui.html:
    """A key that leaves the focus, and with it the phone's keyboard, where it is."""
    made = show(label, tag="button").classes("key").props(f'type=button aria-label="{name}"')
    made.on("mousedown", js_handler="(e) => e.preventDefault()")
    return made
