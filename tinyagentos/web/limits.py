"""What a person typed as an agent's limits and model: read, or refused with a sentence."""

from __future__ import annotations

from collections.abc import Collection

from tinyagentos import wire
from tinyagentos.agents.requests import LEAST_MEMORY_MB, MOST_CPUS, MOST_MEMORY_MB
from tinyagentos.model.agent import MIB
from tinyagentos.model.errors import InvalidInput
from tinyagentos.model.provider import parse_model
from tinyagentos.web import words


def read_memory(text: str) -> int | None:
    """The limit of memory in bytes; None when it was left open."""
    return _read_size(text, LEAST_MEMORY_MB * MIB, MOST_MEMORY_MB * MIB)


def read_disk(text: str, least: int) -> int | None:
    """The limit of the root's disk in bytes; None when it was left open."""
    return _read_size(text, least, wire.MOST)


def read_cpus(text: str) -> int | None:
    """The number of processors; None when it was left open."""
    given = text.strip()
    if not given:
        return None
    # isdigit() alone is also true for ², which int() does not take.
    is_number = given.isascii() and given.isdigit() and len(given) <= len(str(MOST_CPUS))
    if not is_number or not 1 <= int(given) <= MOST_CPUS:
        raise InvalidInput(
            f"{given[:40]!r} is no number of processors.",
            hint=f"Give a whole number from 1 to {MOST_CPUS}.",
        )
    return int(given)


def read_model(text: str, providers: Collection[str]) -> str:
    """The model as it is written; empty when it was left open. providers: by name, those here."""
    given = text.strip()
    if not given:
        return ""
    try:
        named = parse_model(given)
    except InvalidInput as error:
        hint = "Write PROVIDER/MODEL, without blanks and commas."
        raise InvalidInput(error.message, hint=hint) from error
    if named.provider not in providers:
        there_are = f"There are: {', '.join(providers)}." if providers else ""
        raise InvalidInput(
            f"There is no provider {named.provider!r}.",
            hint=there_are or "Add one on the page Models.",
        )
    return given


def _read_size(text: str, least: int, most: int) -> int | None:
    given = text.strip()
    if not given:
        return None
    try:
        size = int(str(wire.parse_size(given)))
    except ValueError as error:
        raise InvalidInput(
            f"{given[:40]!r} is no size.", hint="Give one such as 512MiB or 2GiB."
        ) from error
    if size < least:
        raise InvalidInput(
            f"{given[:40]} is too little.", hint=f"The least is {words.memory(least)}."
        )
    if size > most:
        raise InvalidInput(f"{given[:40]} is too much.", hint=f"The most is {words.memory(most)}.")
    return size
