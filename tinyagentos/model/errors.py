"""Expected failures: a code, a sentence and a hint.

TaosError
├── InvalidInput        the request cannot be carried out as written
├── NotFound            no such agent, image, job, framework, ...
├── Conflict            the name is taken, or another job holds the subject
├── NoSpace             not enough disk or memory, with numbers
├── Unauthorized        the caller did not show who it is
├── TooManyTries        somebody guesses; wait
├── HostNotReady        Incus, pool, network or project is missing or broken
│   └── StoreFailed     taOS cannot read or write its own records
├── IncusFailed         Incus could not do what it was asked for
├── Unavailable         cannot get it: another source may have it
├── Untrusted           cannot trust it: it is never used
├── BuildFailed         a recipe could not be carried out
├── SmokeFailed         an image does not do what it has to
├── NotReady            an agent did not answer in time
├── CommandFailed       a process of the host ended with an error
└── Cancelled           somebody asked to stop

`api/errors.py` maps the code to an HTTP status, `cli/errors.py` to an exit status.
"""

from __future__ import annotations


class TaosError(Exception):
    """An expected failure, worded for the person who has to fix it."""

    code = "internal"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InvalidInput(TaosError):
    """The request cannot be carried out as written."""

    code = "invalid_input"


class NotFound(TaosError):
    """There is no such thing."""

    code = "not_found"


class Conflict(TaosError):
    """The name is taken, or another job is at work on the same subject."""

    code = "conflict"


class NoSpace(TaosError):
    """Disk or memory would not suffice; the message has the numbers."""

    code = "no_space"


class Unauthorized(TaosError):
    """The caller did not show that it may do this."""

    code = "unauthorized"


class TooManyTries(TaosError):
    """Too many wrong passwords or codes came from there; more are looked at later."""

    code = "too_many_tries"


class HostNotReady(TaosError):
    """The host lacks something taOS needs: Incus, a pool, a network, a project."""

    code = "host_not_ready"


class StoreFailed(HostNotReady):
    """taOS cannot read or write its own records; a full disk is NoSpace instead."""

    code = "store_failed"


class IncusFailed(TaosError):
    """Incus could not do what it was asked for; the message has Incus's own words."""

    code = "incus_failed"


class Unavailable(TaosError):
    """It cannot be got from this source; another may have it."""

    code = "unavailable"


class Untrusted(TaosError):
    """It came, but cannot be trusted; it is never used."""

    code = "untrusted"


class BuildFailed(TaosError):
    """A recipe could not be carried out."""

    code = "build_failed"


class SmokeFailed(TaosError):
    """An image does not do what it has to, or has inside what it must not."""

    code = "smoke_failed"


class NotReady(TaosError):
    """The agent did not answer in time."""

    code = "not_ready"


class CommandFailed(TaosError):
    """A process of the host ended with an error or took too long."""

    code = "command_failed"


class Cancelled(TaosError):
    """Somebody asked to stop."""

    code = "cancelled"


ALL_ERRORS: tuple[type[TaosError], ...] = (
    TaosError,
    InvalidInput,
    NotFound,
    Conflict,
    NoSpace,
    Unauthorized,
    TooManyTries,
    HostNotReady,
    StoreFailed,
    IncusFailed,
    Unavailable,
    Untrusted,
    BuildFailed,
    SmokeFailed,
    NotReady,
    CommandFailed,
    Cancelled,
)
