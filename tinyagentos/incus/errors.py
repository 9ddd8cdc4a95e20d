"""What can go wrong when talking to Incus.

IncusError                  Incus's own sentence, with its HTTP status or error code
├── IncusUnreachable        no daemon there, or it does not answer; nothing is known to be done
├── IncusTimeout            the daemon answers, but the work was not over by the deadline
├── NotFound                404
├── AlreadyExists           409, or an operation that failed because the name is taken
├── Forbidden               401 or 403: this client may not do that
├── PreconditionFailed      412: the object changed since its ETag was read
├── Busy                    another operation holds the object; the same call may work later
├── NoSpace                 a disk, pool or quota is full
├── OperationFailed         Incus began the work and it failed
│   └── FingerprintMismatch the bytes sent are not the image that was announced
├── OperationCancelled      somebody cancelled the work in Incus
└── OperationLost           Incus forgot the operation (it ended, or the daemon restarted):
                            look at the object itself
"""

from __future__ import annotations


class IncusError(Exception):
    """A call to Incus that did not succeed; `code` is the HTTP status or error code, else 0."""

    def __init__(self, sentence: str, code: int = 0) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.code = code


class IncusUnreachable(IncusError):
    """Incus could not be reached, or stopped answering."""


class IncusTimeout(IncusError):
    """Incus is there, but the work was not over by the deadline."""


class NotFound(IncusError):
    """There is no such object in this project."""


class AlreadyExists(IncusError):
    """The name is taken."""


class Forbidden(IncusError):
    """This client is not allowed to do that."""


class PreconditionFailed(IncusError):
    """The object changed since its ETag was read."""


class Busy(IncusError):
    """Another operation holds the object now."""


class NoSpace(IncusError):
    """A disk, a storage pool or a quota is full."""


class OperationFailed(IncusError):
    """Incus began the work and it failed."""


class FingerprintMismatch(OperationFailed):
    """The bytes that Incus received are not the image that was announced."""


class OperationCancelled(IncusError):
    """The work was cancelled in Incus."""


class OperationLost(IncusError):
    """Incus no longer knows the operation; whether it succeeded shows in the object itself."""


_BY_STATUS: dict[int, type[IncusError]] = {
    401: Forbidden,
    403: Forbidden,
    404: NotFound,
    409: AlreadyExists,
    412: PreconditionFailed,
    503: IncusUnreachable,
}

# Incus gives some failures only a sentence: these are the words its sentences are known by.
_BY_WORDS: tuple[tuple[str, type[IncusError]], ...] = (
    ("no space left", NoSpace),
    ("disk quota", NoSpace),
    ("busy running", Busy),
    ("already exists", AlreadyExists),
    ("unique constraint failed", AlreadyExists),
    ("image not provided for instance creation", NotFound),
    ("fingerprints don't match", FingerprintMismatch),
    # A daemon that is being stopped: its database goes before its API does.
    ("database is closed", IncusUnreachable),
    ("no available dqlite leader", IncusUnreachable),
    ("shutting down", IncusUnreachable),
)


def error_of(sentence: str, code: int, *, fallback: type[IncusError] = IncusError) -> IncusError:
    """The error for what Incus said: first by its words, then by its code, else the fallback."""
    lowered = sentence.lower()
    for words, kind in _BY_WORDS:
        if words in lowered:
            return kind(sentence, code)
    return _BY_STATUS.get(code, fallback)(sentence, code)
