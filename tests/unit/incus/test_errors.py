"""Incus's sentences and codes become the error that callers decide by."""

from __future__ import annotations

import pytest

from tinyagentos.incus import (
    AlreadyExists,
    Busy,
    FingerprintMismatch,
    Forbidden,
    IncusError,
    IncusUnreachable,
    NoSpace,
    NotFound,
    OperationFailed,
    PreconditionFailed,
)
from tinyagentos.incus.errors import error_of


@pytest.mark.parametrize(
    ("sentence", "code", "kind"),
    [
        pytest.param("Image alias not found", 404, NotFound, id="a 404 is not found"),
        pytest.param('Alias "a" already exists', 409, AlreadyExists, id="a 409 already exists"),
        pytest.param(
            "Image with same fingerprint already exists", 500, AlreadyExists, id="so by its words"
        ),
        pytest.param(
            "UNIQUE constraint failed: instances.name", 500, AlreadyExists, id="so by its database"
        ),
        pytest.param("User does not have permission", 403, Forbidden, id="a 403 is forbidden"),
        pytest.param("ETag doesn't match", 412, PreconditionFailed, id="a 412 is an old version"),
        pytest.param("write /x: No space left on device", 500, NoSpace, id="a full disk"),
        pytest.param("Disk quota exceeded", 404, NoSpace, id="words come before the code"),
        pytest.param("Instance is busy running a stop operation", 400, Busy, id="busy"),
        pytest.param("Daemon is starting up", 503, IncusUnreachable, id="a 503 is unreachable"),
        pytest.param(
            "Failed to begin transaction: sql: database is closed",
            500,
            IncusUnreachable,
            id="a daemon that is being stopped",
        ),
        pytest.param(
            "fingerprints don't match, got a expected b", 500, FingerprintMismatch, id="mismatch"
        ),
        pytest.param("Unknown configuration key", 500, IncusError, id="anything else"),
    ],
)
def test_the_kind_of_an_error(sentence: str, code: int, kind: type[IncusError]) -> None:
    error = error_of(sentence, code)
    assert type(error) is kind
    assert (error.sentence, error.code, str(error)) == (sentence, code, sentence)


def test_the_fallback_is_for_what_is_not_known() -> None:
    assert type(error_of("Some failure", 0, fallback=OperationFailed)) is OperationFailed
    assert type(error_of("Not there", 404, fallback=OperationFailed)) is NotFound
