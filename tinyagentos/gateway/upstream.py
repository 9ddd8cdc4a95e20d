"""How each kind of provider is asked: addresses and headers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tinyagentos.model.provider import Provider, ProviderKind

# The version of the messages API that the translation is written for.
ANTHROPIC_VERSION = "2023-06-01"


@dataclass(frozen=True)
class Upstream:
    """A provider with its key opened; repr leaves the key out."""

    provider: Provider
    _key: str

    def __repr__(self) -> str:
        return f"Upstream({self.provider.name})"

    @property
    def speaks_anthropic(self) -> bool:
        """Whether it takes the messages API; the others take chat completions."""
        return self.provider.kind is ProviderKind.anthropic

    def address(self, call: str) -> str:
        """Where a call (`chat/completions`, `messages`, `models`, `embeddings`) is answered."""
        url = self.provider.url
        if self.provider.kind is not ProviderKind.openai and not url.endswith("/v1"):
            url += "/v1"
        return f"{url}/{call}"

    def headers(self) -> Mapping[str, str]:
        """What shows the provider who asks."""
        if self.speaks_anthropic:
            return {"anthropic-version": ANTHROPIC_VERSION, "x-api-key": self._key}
        return {"Authorization": f"Bearer {self._key}"} if self._key else {}

    def without_key(self, text: str) -> str:
        """The text with the key taken out, should the provider have quoted it."""
        return text.replace(self._key, "…") if self._key else text
