"""An agent's log on a page: it grows, can be searched, and goes on when the agent starts again."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

from nicegui import background_tasks, ui

from tinyagentos.incus import IncusError
from tinyagentos.model.errors import Conflict, TaosError
from tinyagentos.visible import visible_line
from tinyagentos.web.feed import Change
from tinyagentos.web.frame import Site, put, show, text_field, trouble

LOG_LINES = 400
KEPT_LINES = 20 * LOG_LINES
LOG_PAUSE = 0.25
# A log that ends at once whenever it is opened is not opened more often than that.
AGAIN_AFTER = 2.0
STARTED_AGAIN = "--- the agent was started again ---"


class LogView:
    """The log of one agent, for as long as its task runs."""

    def __init__(self, site: Site, name: str) -> None:
        self._site = site
        self._name = name
        self._id = f"log-{id(self)}"
        self._lines: list[str] = []
        self._follow = True

    def build(self) -> asyncio.Task[None]:
        """Build it here; the task reads the log until it is cancelled."""
        with ui.element("div").classes("row"):
            self._search = text_field(
                "Find in the log", "", "", lambda _: self._redraw(), type="search"
            )
            with ui.element("label").classes("row small"):
                tick = ui.element("input").props("type=checkbox checked")
                tick.on(
                    "change", lambda event: self._stay(follow=bool(event.args)),
                    js_handler="(e) => emit(e.target.checked)",
                )  # fmt: skip
                show("Stay at the end", tag="span")
        self._box = (
            show(tag="pre")
            .classes("log")
            .props(f'id={self._id} tabindex=0 role=log aria-label="Log of {self._name}"')
        )
        return background_tasks.create(self._read(), name=f"log of {self._name}")

    def _stay(self, *, follow: bool) -> None:
        self._follow = follow
        self._redraw()

    def _redraw(self) -> None:
        """Show what is wanted of all lines."""
        self._run("taosText", "".join(f"{one}\n" for one in self._wanted(self._lines)))

    def _grow(self, lines: list[str]) -> None:
        """Show what is wanted of more lines."""
        lines = list(map(visible_line, lines))
        self._lines.extend(lines)
        del self._lines[:-KEPT_LINES]
        if text := "".join(f"{one}\n" for one in self._wanted(lines)):
            self._run("taosGrow", text)

    def _wanted(self, lines: list[str]) -> list[str]:
        wanted = self._search.value.lower()
        return [one for one in lines if wanted in one.lower()]

    def _run(self, name: str, text: str) -> None:
        given = ", ".join(map(json.dumps, (self._id, text, self._follow)))
        self._box.client.run_javascript(f"{name}({given})")

    async def _read(self) -> None:
        await self._box.client.connected()
        since = ""
        while True:
            try:
                source = await self._site.services.agents.open_log(
                    self._name, follow=True, lines=LOG_LINES, since=since
                )
            except Conflict:
                # It does not run: it is being started again, or this tab goes.
                await self._change()
            except (TaosError, IncusError) as error:
                if not self._box.is_deleted:
                    put(self._box, trouble(self._site, error))
                return
            else:
                if since:
                    self._grow([STARTED_AGAIN])
                with contextlib.suppress(TaosError, IncusError):  # its instance stops: it has ended
                    async for batch in batched(source):
                        self._grow(batch)
                since = self._site.services.host.now().isoformat()
            await asyncio.sleep(AGAIN_AFTER)

    async def _change(self) -> None:
        """Return when something happened to an agent."""
        changed = asyncio.Event()

        def note(change: Change) -> None:
            if change.agents:
                changed.set()

        end = self._site.feed.listen(note)
        try:
            await changed.wait()
        finally:
            end()


async def batched(lines: AsyncIterator[str]) -> AsyncIterator[list[str]]:
    """The lines as they come, those of a quarter of a second together."""
    queue: asyncio.Queue[str | None] = asyncio.Queue(maxsize=10_000)

    async def fill() -> None:
        try:
            async for line in lines:
                await queue.put(line)
        finally:
            await queue.put(None)

    filling = asyncio.create_task(fill())
    try:
        while (line := await queue.get()) is not None:
            await asyncio.sleep(LOG_PAUSE)
            batch = [line]
            while not queue.empty() and (more := queue.get_nowait()) is not None:
                batch.append(more)
            yield batch
        await filling
    finally:
        filling.cancel()
