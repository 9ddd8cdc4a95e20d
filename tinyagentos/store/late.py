"""Values that the database did not take yet: shown as if it had, written as soon as it can be."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from typing import Generic, TypeVar

from tinyagentos.model.errors import TaosError

_log = logging.getLogger(__name__)
K = TypeVar("K")
V = TypeVar("V")


class Late(Generic[K, V]):
    """The newest value of each key that waits to be written.

    A reader asks here before it asks the database. What waits is lost when the process ends before
    the database answers again, so it must be true to begin again without it.
    """

    def __init__(self, write: Callable[[K, V], None]) -> None:
        """write: put one value into the database; it raises TaosError when that is not possible."""
        self._write = write
        self._values: dict[K, V] = {}
        self.failure: TaosError | None = None

    def put(self, key: K, value: V) -> None:
        """Write the value now or later; never an error."""
        self._values[key] = value
        try:
            self.flush()
        except TaosError as error:
            if self.failure is None:
                _log.warning("a record waits to be written: %s", error)
            self.failure = error

    def get(self, key: K) -> V | None:
        """The value that waits, if one does."""
        return self._values.get(key)

    def forget(self, key: K) -> None:
        """Drop what waits for the key: something newer was written."""
        self._values.pop(key, None)

    def clear(self) -> None:
        """Drop all that waits."""
        self._values.clear()

    def flush(self) -> None:
        """Write all that waits; raises the TaosError of the first value that cannot be."""
        for key, value in list(self._values.items()):
            try:
                self._write(key, value)
            except sqlite3.IntegrityError:
                _log.exception("a record breaks a rule of the database and is dropped")
            del self._values[key]
        if self.failure is not None:
            _log.info("the records that waited are written")
            self.failure = None
