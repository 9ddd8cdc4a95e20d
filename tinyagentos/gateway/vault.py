"""Providers' keys at rest: AES-256-GCM, bound to what they are for (NIST SP 800-38D)."""

from __future__ import annotations

import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tinyagentos.model.errors import HostNotReady

NONCE = 12


class Vault:
    """Seals and opens with the host's key file; key: 32 bytes."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, bound_to: str, text: str) -> bytes:
        """The text as it may be kept; empty stays empty."""
        if not text:
            return b""
        nonce = secrets.token_bytes(NONCE)
        return nonce + self._cipher.encrypt(nonce, text.encode(), bound_to.encode())

    def open(self, bound_to: str, sealed: bytes) -> str:
        """What was sealed for it; HostNotReady when the key file or the row is another one."""
        if not sealed:
            return ""
        try:
            opened = self._cipher.decrypt(sealed[:NONCE], sealed[NONCE:], bound_to.encode())
        except InvalidTag as error:
            raise HostNotReady(
                f"The key of {bound_to!r} cannot be read with this host's key file.",
                hint="Enter it again with `taos provider add`.",
            ) from error
        return opened.decode()
