"""A gateway on a socket of its own, with providers on the loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.fakes.provider import KEY, FakeProvider, fake_provider
from tinyagentos.gateway.limits import USUAL, Limits
from tinyagentos.gateway.providers import Providers
from tinyagentos.gateway.serve import Gateway
from tinyagentos.gateway.session import LazySession
from tinyagentos.gateway.tokens import model_token
from tinyagentos.gateway.vault import Vault
from tinyagentos.model.provider import (
    ModelAccess,
    ModelChoice,
    NewProvider,
    ProviderKind,
    Usage,
    parse_model,
)
from tinyagentos.store.database import Database
from tinyagentos.store.providers import ProviderTable, UsageTable

AGENT = "hello-abcdef"
HOST_KEY = b"h" * 32
NOW = datetime(2026, 5, 17, tzinfo=UTC)


@dataclass
class Asking:
    """The gateway as an agent sees it, and what is behind it."""

    agent: aiohttp.ClientSession
    gateway: Gateway
    providers: Providers
    usage: UsageTable
    choices: dict[str, ModelChoice | None]
    stack: AsyncExitStack
    socket: Path
    now: datetime = NOW
    may_fetch: bool = True
    fakes: list[FakeProvider] = field(default_factory=list)

    async def add(
        self, name: str, kind: ProviderKind = ProviderKind.openai, **behaviour: Any
    ) -> FakeProvider:
        """A provider that serves, and is known by that name."""
        fake = await self.stack.enter_async_context(fake_provider(**behaviour))
        url = fake.url if kind is ProviderKind.openai else fake.root
        await self.providers.add(NewProvider(name, kind, url, key=KEY))
        self.fakes.append(fake)
        return fake

    def choose(self, *models: str, budget: int = 0) -> None:
        """The agent's models."""
        self.choices[AGENT] = ModelChoice(tuple(map(parse_model, models)), budget)

    @property
    def used(self) -> Usage:
        """What was counted."""
        return self.usage.get(AGENT, f"{self.now:%Y-%m}")

    async def post(
        self, call: str, body: Any, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Status and body of an answer: JSON, or the text of a stream."""
        async with self.agent.post(f"/v1/{call}", json=body, headers=headers) as response:
            is_json = response.content_type == "application/json"
            return response.status, await (response.json() if is_json else response.text())

    async def chat(self, **more: Any) -> tuple[int, Any]:
        """One question in chat completions."""
        return await self.post("chat/completions", QUESTION | more)


QUESTION: dict[str, Any] = {
    "model": "default", "messages": [{"role": "user", "content": "Hi"}]
}  # fmt: skip


@asynccontextmanager
async def asking(folder: Path, limits: Limits = USUAL) -> AsyncIterator[Asking]:
    """A gateway that serves while it lasts."""
    made: list[Asking] = []
    database = Database(folder / "taos.db")
    http = LazySession()
    usage = UsageTable(database)
    providers = Providers(ProviderTable(database), Vault(b"v" * 32), http)
    choices: dict[str, ModelChoice | None] = {AGENT: ModelChoice()}

    async def access_of(instance: str) -> ModelAccess | None:
        choice = choices.get(instance)
        return choice and ModelAccess(choice, made[0].may_fetch)

    gateway = Gateway(
        HOST_KEY, providers, access_of, usage, http, lambda: made[0].now if made else NOW, limits
    )
    socket = folder / "gateway.sock"
    async with AsyncExitStack() as stack:
        stack.push_async_callback(http.close)
        await stack.enter_async_context(gateway.serving(socket))
        agent = await stack.enter_async_context(
            aiohttp.ClientSession(
                "http://gateway",
                connector=aiohttp.UnixConnector(str(socket)),
                headers={"Authorization": f"Bearer {model_token(HOST_KEY, AGENT)}"},
            )
        )
        made.append(Asking(agent, gateway, providers, usage, choices, stack, socket))
        yield made[0]
    database.close()


@asynccontextmanager
async def under_way(ask: Asking, number: int, **more: Any) -> AsyncIterator[None]:
    """So many questions that the first provider does not answer, while it lasts."""
    asked = len(ask.fakes[0].calls)
    held = [asyncio.create_task(ask.chat(stream=True, **more)) for _ in range(number)]
    try:
        async with asyncio.timeout(5):
            while len(ask.fakes[0].calls) < asked + number:
                await asyncio.sleep(0.01)
        yield
    finally:
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)


@pytest.fixture
async def ask(tmp_path: Path) -> AsyncIterator[Asking]:
    """A gateway without any provider."""
    async with asking(tmp_path) as found:
        yield found
