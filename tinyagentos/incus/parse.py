"""Reading Incus's JSON without trusting it: every reader returns a value of its type."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType

Object = Mapping[str, object]
EMPTY: Object = MappingProxyType({})


def decode(raw: bytes) -> Object:
    """The JSON object in raw, or an empty one."""
    try:
        return as_object(json.loads(raw))
    except ValueError:
        return EMPTY


def as_object(value: object) -> Object:
    """The value if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else EMPTY


def as_objects(value: object) -> tuple[Object, ...]:
    """The objects of a JSON list; null is an empty list."""
    return tuple(as_object(item) for item in value) if isinstance(value, list) else ()


def child(of: Object, key: str) -> Object:
    """The object under the key."""
    return as_object(of.get(key))


def children(of: Object, key: str) -> Mapping[str, Object]:
    """The objects by name under the key."""
    return {name: as_object(value) for name, value in child(of, key).items()}


def text(of: Object, key: str) -> str:
    """The string under the key, or an empty one."""
    value = of.get(key)
    return value if isinstance(value, str) else ""


def texts(of: Object, key: str) -> tuple[str, ...]:
    """The strings of the list under the key."""
    value = of.get(key)
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def integer(of: Object, key: str) -> int:
    """The number under the key, or 0."""
    value = of.get(key)
    return int(value) if isinstance(value, int | float) else 0


def size(of: Object, key: str) -> int:
    """The number under the key that Incus may write as a string, or 0."""
    try:
        return int(str(of.get(key, 0)))
    except ValueError:
        return 0


def flag(of: Object, key: str) -> bool:
    """Whether the key is true."""
    return of.get(key) is True


def strings(of: Object, key: str) -> Mapping[str, str]:
    """The string map under the key, such as a config."""
    return {name: value for name, value in child(of, key).items() if isinstance(value, str)}


def devices(of: Object, key: str) -> Mapping[str, Mapping[str, str]]:
    """The devices by name under the key."""
    held = child(of, key)
    return {name: strings(held, name) for name in held}


def moment(of: Object, key: str) -> datetime | None:
    """The time under the key; None for Incus's "never" (the year 1) and for what is no time."""
    try:
        found = datetime.fromisoformat(text(of, key))
    except ValueError:
        return None
    found = found if found.tzinfo else found.replace(tzinfo=UTC)
    return found if found.year > 1 else None
