"""What can be changed of an agent on its page: title, limits, running times, backups."""

from __future__ import annotations

from nicegui import ui
from pydantic import ValidationError

from tinyagentos import wire
from tinyagentos.model.agent import Agent, SnapshotSchedule
from tinyagentos.model.errors import InvalidInput
from tinyagentos.web import words
from tinyagentos.web.frame import Site, choices, show, tell, text_field
from tinyagentos.web.markup import el

SCHEDULES = {
    "off": ("Never", "Only when you ask for it."),
    "hourly": ("Every hour", "Each is kept for two days."),
    "daily": ("Every day", "Each is kept for two weeks."),
    "weekly": ("Every week", "Each is kept for eight weeks."),
}


def as_typed(agent: Agent, state_bytes: int | None) -> dict[str, str]:
    """The agent's settings as they stand in the fields, by label."""
    return {
        "Title": agent.title,
        "Memory": words.memory(agent.memory_bytes),
        "Processors": str(agent.cpus or ""),
        "Disk": words.memory(agent.disk_bytes),
        "State disk": words.memory(state_bytes),
        "Stop when idle": str(agent.idle_stop_minutes or ""),
    }


HINTS = {
    "Title": "What you call it.",
    "Memory": "The most it may take.",
    "Processors": "Empty: all.",
    "Disk": "How large its programs may grow.",
    "State disk": "How much it may keep.",
    "Stop when idle": "Minutes without a question; empty: never.",
}


class SettingsCard:
    """The card; only what was changed on it is asked for."""

    def __init__(
        self, site: Site, agent: Agent, schedule: SnapshotSchedule, state_bytes: int | None
    ) -> None:
        self._site = site
        self._name = agent.name
        self._state_bytes = state_bytes
        self._were = as_typed(agent, state_bytes)
        self._saved: dict[str, str] = {}
        self._schedule = self._chosen = schedule.value

    def build(self) -> None:
        """Build it here."""
        with ui.element("section").classes("card stack").props('aria-label="Settings"'):
            show(el("h2", "Settings"))
            with ui.element("div").classes("fields"):
                self._fields = {
                    label: text_field(label, value, HINTS[label], autocapitalize="none")
                    for label, value in self._were.items()
                }
            choices("Keep its state by itself", SCHEDULES, self._schedule, self._choose)
            with ui.element("div").classes("row"):
                self._site.button("Save", self._save, "primary")

    def renew(self, agent: Agent) -> None:
        """Show what the agent has now; what somebody is typing stays."""
        for label, value in as_typed(agent, self._state_bytes).items():
            field, was = self._fields[label], self._were[label]
            if value != was:
                self._were[label] = value
                if field.value.strip() in (was, self._saved.get(label, was)):
                    field.set(value)

    def _choose(self, schedule: str) -> None:
        self._chosen = schedule

    async def _save(self) -> None:
        given = {
            "title": self._changed("Title"),
            "memory": self._changed("Memory"),
            "cpu": self._number("Processors"),
            "disk": self._changed("Disk"),
            "state_disk": self._changed("State disk"),
            "idle_stop_minutes": self._number("Stop when idle"),
            "snapshots": self._chosen if self._chosen != self._schedule else None,
        }
        try:
            change = wire.AgentChange.model_validate(given).to_change()
        except ValidationError as error:
            first = error.errors()[0]
            said = first["msg"].removeprefix("Value error, ")
            raise InvalidInput(f"{first['loc'][0]}: {said}.", hint="Mend that field.") from error
        await self._site.services.agents.start_change(self._name, change)
        self._saved = {label: field.value.strip() for label, field in self._fields.items()}
        # What it is from now on is known when the job has ended; until then each one is a change.
        self._schedule = ""
        tell("It is being changed; the agent goes on running.")

    def _changed(self, label: str) -> str | None:
        value = self._fields[label].value.strip()
        return None if value == self._were[label] else value

    def _number(self, label: str) -> int | None:
        value = self._changed(label)
        if value and not value.isdecimal():
            raise InvalidInput(f"{label}: {value[:40]!r} is no whole number.", hint="Give one.")
        return None if value is None else int(value or "0")
