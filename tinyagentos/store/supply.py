"""The tables of the image supply: the policy that was chosen, what is known of each image."""

from __future__ import annotations

from pydantic import TypeAdapter

from tinyagentos.model.image import ImagePolicy, SupplyRecord
from tinyagentos.store.database import Database

_RECORD = TypeAdapter(SupplyRecord)
POLICY = "policy"


class SupplyTable:
    """What getting images remembers over restarts."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._late = database.late(self._put)

    def policy(self) -> ImagePolicy | None:
        """The policy somebody chose; None when nobody did."""
        rows = self._database.execute("SELECT body FROM supply WHERE name = ?", POLICY)
        return ImagePolicy(rows[0]["body"]) if rows else None

    def choose_policy(self, policy: ImagePolicy) -> None:
        """Keep the policy; NoSpace or StoreFailed."""
        self._put(POLICY, policy.value)

    def get(self, alias: str) -> SupplyRecord:
        """What is known of the image with the alias; an empty record when nothing is."""
        if late := self._late.get(alias):
            return _RECORD.validate_json(late)
        rows = self._database.execute("SELECT body FROM supply WHERE name = ?", alias)
        return _RECORD.validate_json(rows[0]["body"]) if rows else SupplyRecord()

    def list_all(self) -> tuple[SupplyRecord, ...]:
        """What is known of every image."""
        rows = self._database.execute("SELECT name, body FROM supply WHERE name != ?", POLICY)
        return tuple(
            _RECORD.validate_json(self._late.get(row["name"]) or row["body"]) for row in rows
        )

    def put(self, alias: str, record: SupplyRecord) -> None:
        """Keep what is known of the image with the alias; written as soon as that is possible."""
        self._late.put(alias, _RECORD.dump_json(record).decode())

    def _put(self, name: str, body: str) -> None:
        self._database.execute(
            "INSERT INTO supply (name, body) VALUES (?, ?)"
            " ON CONFLICT (name) DO UPDATE SET body = excluded.body",
            name,
            body,
        )
