"""How each kind of provider is asked: addresses and headers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import urlsplit

from tinyagentos.gateway.reading import Body
from tinyagentos.model.provider import Provider, ProviderKind

# The version of the messages API that the translation is written for.
ANTHROPIC_VERSION = "2023-06-01"
# Local servers are given keys such as `ollama` or `none`.
LEAST_SECRET = 16
OPENAI = "api.openai.com"


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

    def fitted(self, asked: Body) -> Body:
        """The request as this provider takes it."""
        # OpenAI's own newer models refuse the older name, which others alone know.
        if "max_tokens" in asked and urlsplit(self.provider.url).hostname == OPENAI:
            asked = {"max_completion_tokens": asked["max_tokens"], **asked}
            del asked["max_tokens"]
        return asked

    def clean(self, answer: bytes) -> bytes:
        """An answer with the key taken out; one that is a mere word may stand in any text."""
        return self.without_key(answer) if len(self._key) >= LEAST_SECRET else answer

    def without_key(self, said: bytes) -> bytes:
        """What the provider said with the key taken out, should it have quoted it."""
        for spelling in self._spellings:
            if spelling in said:
                said = said.replace(spelling, "…".encode())
        return said

    @cached_property
    def _spellings(self) -> frozenset[bytes]:
        """The key as it is, and as JSON may have it."""
        quoted = json.dumps(self._key)[1:-1]
        written = {self._key, quoted, quoted.replace("/", "\\/")}
        return frozenset(one.encode() for one in written if one)
