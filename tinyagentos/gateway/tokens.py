"""Secrets of one instance, made from the host's key: nothing to store, nothing to lose."""

from __future__ import annotations

import hashlib
import hmac


def agent_token(key: bytes, instance: str) -> str:
    """What the host shows to the agent."""
    return _made(key, "agent", instance)


def model_token(key: bytes, instance: str) -> str:
    """What the agent shows to the gateway: it says whose it is, and proves it."""
    return f"{instance}.{_made(key, 'model', instance)}"


def owner_of(key: bytes, token: str) -> str | None:
    """The instance that the gateway's token belongs to; None for any other text."""
    instance, dot, _ = token.rpartition(".")
    # Bytes of a head that are no UTF-8 come as surrogates, which nothing encodes.
    if not dot or not token.isascii():
        return None
    right = model_token(key, instance)
    return instance if hmac.compare_digest(token, right) else None


def _made(key: bytes, purpose: str, instance: str) -> str:
    return hmac.new(key, f"{purpose}:{instance}".encode(), hashlib.sha256).hexdigest()
