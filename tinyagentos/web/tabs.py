"""Tabs by name; a panel is built when it is looked at."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from nicegui import background_tasks, ui
from nicegui.element import Element

from tinyagentos.incus import IncusError
from tinyagentos.model.errors import TaosError
from tinyagentos.web.frame import Site, show, trouble

Build = Callable[[], Awaitable[None] | None]


@dataclass(frozen=True)
class Tab:
    """What a tab shows. about: what it is of; a panel of something else is another one."""

    build: Build
    about: str


class Tabs:
    """The tabs in one browser. leave is called before what was shown goes."""

    def __init__(self, site: Site, leave: Callable[[], None]) -> None:
        self._site = site
        self._leave = leave
        self._tabs: dict[str, Tab] = {}
        self._buttons: dict[str, Element] = {}
        self._building: asyncio.Task[None] | None = None
        self._is_picked = False
        self.chosen = ""
        self._row = ui.element("div").classes("tabs").props("role=tablist")
        self._panel = ui.element("div").classes("panel").props("role=tabpanel")

    def offer(self, tabs: Mapping[str, Tab]) -> None:
        """Have these tabs. What is looked at stays untouched for as long as there is such a tab."""
        before, self._tabs = self._tabs, dict(tabs)
        if tuple(before) != tuple(tabs):
            self._draw_row()
        if not tabs:
            if self.chosen:
                self._close()
            return
        told = {name: tab.about for name, tab in before.items()}
        telling = {name: tab.about for name, tab in tabs.items()}
        if wanted := next_tab(self.chosen, told, telling, is_picked=self._is_picked):
            self._is_picked = self._is_picked and wanted == self.chosen
            self.choose(wanted)

    def choose(self, name: str) -> None:
        """Show the panel of that name, built again."""
        self._close()
        self.chosen = name
        self._mark()
        self._panel.props(f'aria-label="{name}"')
        self._building = background_tasks.create(self._build(name), name=f"tab {name}")

    def _pick(self, name: str) -> None:
        self._is_picked = True
        self.choose(name)

    def _close(self) -> None:
        """Have nothing shown."""
        if self._building:
            self._building.cancel()
        self._leave()
        self._panel.clear()
        self.chosen = ""

    async def _build(self, name: str) -> None:
        with self._panel:
            try:
                waiting = self._tabs[name].build()
                if inspect.isawaitable(waiting):
                    await waiting
            except (TaosError, IncusError) as error:
                show(trouble(self._site, error))

    def _draw_row(self) -> None:
        self._row.clear()
        self._buttons.clear()
        with self._row:
            for name in self._tabs:
                button = show(name, tag="button").props("role=tab type=button")
                button.on("click", lambda _, name=name: self._pick(name), [])
                self._buttons[name] = button
        self._mark()

    def _mark(self) -> None:
        for one, button in self._buttons.items():
            button.props(f"aria-selected={'true' if one == self.chosen else 'false'}")


def next_tab(
    chosen: str, before: Mapping[str, str], now: Mapping[str, str], *, is_picked: bool
) -> str:
    """The tab to build; empty when what is shown stays. Tabs as name -> what they are of.

    The chosen one if somebody picked it, else the first one: that is what the page opens with.
    """
    if chosen in now and before.get(chosen) == now[chosen]:
        return ""
    return chosen if is_picked and chosen in now else next(iter(now))
