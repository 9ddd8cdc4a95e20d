"""Providers, models and an agent to talk to, in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

from tinyagentos.model.errors import NotFound, Unavailable
from tinyagentos.model.provider import (
    AgentModels,
    ModelChoice,
    NewProvider,
    Provider,
    ProviderTest,
    Usage,
    checked,
)


class FakeModels:
    """All that has to do with models in one object."""

    def __init__(self) -> None:
        self.kept: dict[str, Provider] = {}
        self.keys: dict[str, str] = {}
        self.choice = ModelChoice()
        self.heard: list[tuple[str, str]] = []

    async def list_providers(self) -> tuple[Provider, ...]:
        return tuple(self.kept.values())

    async def add(self, new: NewProvider) -> Provider:
        new = checked(new)
        provider = Provider(new.name, new.kind, new.url, new.model, has_key=bool(new.key))
        self.kept[new.name], self.keys[new.name] = provider, new.key
        return provider

    def remove(self, name: str) -> None:
        if not self.kept.pop(name, None):
            raise NotFound("There is no such provider.", hint="List them.")

    async def test(self, name: str) -> ProviderTest:
        if name not in self.kept:
            raise NotFound("There is no such provider.", hint="List them.")
        if self.keys[name] == "wrong":
            raise Unavailable("It does not take the key (401).", hint="Enter it again.")
        self.kept[name] = replace(self.kept[name], model=self.kept[name].model or "one")
        return ProviderTest(("one", "two"), 0.1)

    async def get(self, name: str) -> AgentModels:
        if name != "hello":
            raise NotFound("There is no such agent.", hint="List them.")
        return AgentModels(self.choice, Usage(3, 1, 20, 10))

    async def choose(self, name: str, choice: ModelChoice) -> AgentModels:
        await self.get(name)
        self.choice = choice
        return await self.get(name)

    async def open(self, name: str, host_header: str) -> str:
        await self.get(name)
        return "http://localhost:1/#token=x"

    async def ask(self, name: str, message: str, conversation: str = "main") -> AsyncIterator[str]:
        await self.get(name)
        self.heard.append((message, conversation))

        async def answer() -> AsyncIterator[str]:
            yield "You said "
            yield message
            if message == "break":
                raise Unavailable("The agent broke off.", hint="Ask again.")

        return answer()
