"""Secrets of the server as files that only their owner can read, made on first use."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path


def ensure_token(path: Path) -> str:
    """The API's bearer token; made, mode 0600, when it is not there."""
    return ensure_secret(path, lambda: secrets.token_urlsafe(32).encode()).decode().strip()


def ensure_key(path: Path) -> bytes:
    """The host's own key, from which agents' tokens are made; mode 0600."""
    return ensure_secret(path, lambda: secrets.token_bytes(32))


def ensure_secret(path: Path, make: Callable[[], bytes]) -> bytes:
    """The content of the file; made whole or not at all, and the same for all who start at once."""
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(make())
        file.flush()
        os.fsync(file.fileno())
    # link() and not rename(): of two that start at once, both go on with the first one's secret.
    with contextlib.suppress(FileExistsError):
        path.hardlink_to(part)
    part.unlink()
    return path.read_bytes()
