"""What can be changed of an agent on its page: title, limits, running times, backups."""

from __future__ import annotations

from nicegui import ui
from pydantic import ValidationError

from tinyagentos import wire
from tinyagentos.model.agent import Agent, SnapshotSchedule
from tinyagentos.model.errors import InvalidInput
from tinyagentos.web import words
from tinyagentos.web.frame import Field, Site, choices, show, tell, text_field
from tinyagentos.web.markup import el

SCHEDULES = {
    "off": ("Never", "Only when you ask for it."),
    "hourly": ("Every hour", "Each is kept for two days."),
    "daily": ("Every day", "Each is kept for two weeks."),
    "weekly": ("Every week", "Each is kept for eight weeks."),
}


class SettingsCard:
    """The card; only what was changed on it is asked for."""

    def __init__(
        self, site: Site, agent: Agent, schedule: SnapshotSchedule, state_bytes: int | None
    ) -> None:
        self._site = site
        self._agent = agent
        self._state_bytes = state_bytes
        self._schedule = self._chosen = schedule.value

    def build(self) -> None:
        """Build it here."""
        agent = self._agent
        self._were: dict[str, str] = {}
        with ui.element("section").classes("card stack").props('aria-label="Settings"'):
            show(el("h2", "Settings"))
            with ui.element("div").classes("fields"):
                self._title = self._field("Title", agent.title, "What you call it.")
                self._memory = self._field(
                    "Memory", words.memory(agent.memory_bytes), "The most it may take."
                )
                self._cpu = self._field("Processors", str(agent.cpus or ""), "Empty: all.")
                self._disk = self._field(
                    "Disk", words.memory(agent.disk_bytes), "How large its programs may grow."
                )
                self._state = self._field(
                    "State disk", words.memory(self._state_bytes), "How much it may keep."
                )
                self._idle = self._field(
                    "Stop when idle", str(agent.idle_stop_minutes or ""),
                    "Minutes without a question; empty: never.",
                )  # fmt: skip
            choices("Keep its state by itself", SCHEDULES, self._schedule, self._choose)
            with ui.element("div").classes("row"):
                self._site.button("Save", self._save, "primary")

    def _field(self, label: str, value: str, hint: str) -> Field:
        self._were[label] = value
        return text_field(label, value, hint, autocapitalize="none")

    def _choose(self, schedule: str) -> None:
        self._chosen = schedule

    async def _save(self) -> None:
        given = {
            "title": self._changed(self._title, "Title"),
            "memory": self._changed(self._memory, "Memory"),
            "cpu": self._number(self._cpu, "Processors"),
            "disk": self._changed(self._disk, "Disk"),
            "state_disk": self._changed(self._state, "State disk"),
            "idle_stop_minutes": self._number(self._idle, "Stop when idle"),
            "snapshots": self._chosen if self._chosen != self._schedule else None,
        }
        try:
            change = wire.AgentChange.model_validate(given).to_change()
        except ValidationError as error:
            first = error.errors()[0]
            said = first["msg"].removeprefix("Value error, ")
            raise InvalidInput(f"{first['loc'][0]}: {said}.", hint="Mend that field.") from error
        await self._site.services.agents.start_change(self._agent.name, change)
        tell("It is being changed; the agent goes on running.")

    def _changed(self, field: Field, label: str) -> str | None:
        value = field.value.strip()
        return None if value == self._were[label] else value

    def _number(self, field: Field, label: str) -> int | None:
        value = self._changed(field, label)
        if value and not value.isdecimal():
            raise InvalidInput(f"{label}: {value[:40]!r} is no whole number.", hint="Give one.")
        return None if value is None else int(value or "0")
