"""The tables of model providers and of what agents used."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass

from tinyagentos.model.provider import Provider, ProviderKind, Usage
from tinyagentos.store.database import Database


@dataclass(frozen=True)
class ProviderRow:
    """A provider with its key as it is kept: encrypted, or empty."""

    provider: Provider
    sealed_key: bytes


class ProviderTable:
    """The providers somebody added, oldest first."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list(self) -> tuple[ProviderRow, ...]:
        """Every provider."""
        rows = self._database.execute("SELECT * FROM providers ORDER BY rowid")
        return tuple(
            ProviderRow(
                Provider(
                    row["name"], ProviderKind(row["kind"]), row["url"], row["model"],
                    has_key=bool(row["sealed_key"]), models=tuple(json.loads(row["models"])),
                ),
                row["sealed_key"],
            )
            for row in rows
        )  # fmt: skip

    def put(self, row: ProviderRow) -> None:
        """Keep the provider; one of the same name is changed."""
        self._database.execute(
            "INSERT INTO providers (name, kind, url, model, sealed_key, models)"
            " VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (name) DO UPDATE SET kind = excluded.kind, url = excluded.url,"
            " model = excluded.model, sealed_key = excluded.sealed_key, models = excluded.models",
            row.provider.name, row.provider.kind.value, row.provider.url, row.provider.model,
            row.sealed_key, json.dumps(row.provider.models),
        )  # fmt: skip

    def remove(self, name: str) -> bool:
        """Forget the provider and its key; whether there was one."""
        return bool(
            self._database.execute("DELETE FROM providers WHERE name = ? RETURNING name", name)
        )


class UsageTable:
    """What each agent asked of models, by month (`2026-01`)."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._late = database.late(self._add)

    def add(self, instance: str, month: str, used: Usage) -> None:
        """Add to what the agent used in the month; it is written as soon as that is possible."""
        waits = self._late.get((instance, month)) or Usage()
        self._late.put((instance, month), waits + used)

    def _add(self, of: tuple[str, str], used: Usage) -> None:
        instance, month = of
        self._database.execute(
            "INSERT INTO model_usage VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (instance, month) DO UPDATE SET"
            " requests = requests + excluded.requests, errors = errors + excluded.errors,"
            " input_tokens = input_tokens + excluded.input_tokens,"
            " output_tokens = output_tokens + excluded.output_tokens",
            instance, month, used.requests, used.errors, used.input_tokens, used.output_tokens,
        )  # fmt: skip

    def list_months(self, instance: str) -> tuple[tuple[str, Usage], ...]:
        """What the agent used in the last twelve months that it used anything, oldest first."""
        rows = self._database.execute(
            "SELECT month, requests, errors, input_tokens, output_tokens FROM model_usage"
            " WHERE instance = ? ORDER BY month DESC LIMIT 12",
            instance,
        )
        return tuple((row[0], Usage(*row[1:])) for row in reversed(rows))

    def drop_before(self, month: str) -> None:
        """Forget what was used before the month, also by agents that are gone."""
        self._database.execute("DELETE FROM model_usage WHERE month < ?", month)

    def drop_gone(self, instances: Collection[str], month: str) -> None:
        """Forget what agents used before the month that are not among the instances."""
        self._database.execute(
            "DELETE FROM model_usage WHERE month < ?"
            " AND instance NOT IN (SELECT value FROM json_each(?))",
            month, json.dumps(sorted(instances)),
        )  # fmt: skip

    def get(self, instance: str, month: str) -> Usage:
        """What the agent used in the month."""
        rows = self._database.execute(
            "SELECT requests, errors, input_tokens, output_tokens FROM model_usage"
            " WHERE instance = ? AND month = ?",
            instance, month,
        )  # fmt: skip
        written = Usage(*rows[0]) if rows else Usage()
        return written + (self._late.get((instance, month)) or Usage())
