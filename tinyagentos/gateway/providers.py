"""The providers of this host: added ones, and an Ollama that runs here."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace

import aiohttp

from tinyagentos.gateway.reading import read_json
from tinyagentos.gateway.session import closed_address
from tinyagentos.gateway.upstream import Upstream
from tinyagentos.gateway.vault import Vault
from tinyagentos.model.errors import InvalidInput, NotFound, Unavailable
from tinyagentos.model.provider import (
    USUAL_URL,
    ModelRef,
    NewProvider,
    Provider,
    ProviderKind,
    ProviderTest,
    checked,
    parse_model,
)
from tinyagentos.store.providers import ProviderRow, ProviderTable

TEST_WITHIN = 20.0
FIND_WITHIN = 1.0
FIND_EVERY = 60.0
LARGEST_LIST = 4 * 1024 * 1024
# Of a provider's models so many are remembered; the longest lists known have some hundred.
MOST_KEPT = 1000


class Providers:
    """Who has models. Keys go in, and come out only to ask the provider itself."""

    def __init__(
        self, table: ProviderTable, vault: Vault, http: Callable[[], aiohttp.ClientSession]
    ) -> None:
        """http: gives the session that asks; made when it is first needed."""
        self._table = table
        self._vault = vault
        self._http = http
        self._looked_at = -FIND_EVERY
        self._found: Provider | None = None

    async def list_providers(self) -> tuple[Provider, ...]:
        """Those that were added, oldest first, then a local Ollama nobody added."""
        if not any(row.provider.kind is ProviderKind.ollama for row in self._table.list()):
            await self._find_ollama()
        return self.list_known()

    def list_known(self) -> tuple[Provider, ...]:
        """The same without asking anybody: what was found on this host is as it was seen last."""
        added, found = tuple(row.provider for row in self._table.list()), self._found
        if found is None:
            return added
        is_hidden = any(one.kind is found.kind or one.name == found.name for one in added)
        return added if is_hidden else (*added, found)

    def known_default(self) -> ModelRef | None:
        """The model for agents that chose none, as far as it is known without asking anybody."""
        return next(filter(None, map(ModelRef.default_of, self.list_known())), None)

    def known_models(self) -> tuple[ModelRef, ...]:
        """The models that providers told of when they were tested last, their defaults first."""
        found: dict[ModelRef, None] = {}
        for provider in self.list_known():
            for model in filter(None, (provider.default, *provider.models)):
                with contextlib.suppress(InvalidInput):  # what a provider calls so cannot be chosen
                    found[parse_model(f"{provider.name}/{model}")] = None
        return tuple(found)

    async def add(self, new: NewProvider) -> Provider:
        """Keep the provider, or change the one of that name; without a key the old one's stays.

        Nothing is asked of it: whether it answers is what test() tells.
        """
        new = checked(new)
        old = next((row for row in self._table.list() if row.provider.name == new.name), None)
        # A key is for the place it was given for: it never goes to another address.
        keeps = old is not None and (old.provider.kind, old.provider.url) == (new.kind, new.url)
        sealed = old.sealed_key if old and keeps and not new.key else b""
        sealed = self._vault.seal(_bound(new.name, new.url), new.key) or sealed
        provider = Provider(
            new.name, new.kind, new.url, new.model, has_key=bool(sealed),
            models=old.provider.models if old and keeps else (),
        )  # fmt: skip
        self._table.put(ProviderRow(provider, sealed))
        return provider

    def remove(self, name: str) -> None:
        """Forget the provider and its key; NotFound when it was not added."""
        if not self._table.remove(name):
            raise _no_provider(name)

    async def test(self, name: str) -> ProviderTest:
        """Ask the provider for its models.

        Raises NotFound, or Unavailable with what is wrong with address or key. The first model is
        the default of a provider that has none.
        """
        upstream = await self.open(name)
        begun = time.monotonic()
        models = await self._ask_models(upstream, TEST_WITHIN)
        row = next((one for one in self._table.list() if one.provider.name == name), None)
        if row and models:
            known = replace(
                row.provider, model=row.provider.model or models[0], models=models[:MOST_KEPT]
            )
            if known != row.provider:
                self._table.put(replace(row, provider=known))
        return ProviderTest(models, time.monotonic() - begun)

    async def open(self, name: str) -> Upstream:
        """The provider with its key, to ask it; NotFound when there is none."""
        for row in self._table.list():
            if row.provider.name == name:
                bound = _bound(name, row.provider.url)
                return Upstream(row.provider, self._vault.open(bound, row.sealed_key))
        for found in await self.list_providers():
            if found.name == name:
                return Upstream(found, "")
        raise _no_provider(name)

    async def default_model(self) -> ModelRef | None:
        """The model for agents that chose none: the first provider's that can name one."""
        for provider in await self.list_providers():
            if provider.model:
                return ModelRef(provider.name, provider.model)
            try:
                if models := (await self.test(provider.name)).models:
                    return ModelRef(provider.name, models[0])
            except Unavailable:
                continue
        return None

    async def _find_ollama(self) -> Provider | None:
        if time.monotonic() - self._looked_at < FIND_EVERY:
            return self._found
        self._looked_at = time.monotonic()
        candidate = Provider(
            "ollama", ProviderKind.ollama, USUAL_URL[ProviderKind.ollama], found=True
        )
        try:
            models = await self._ask_models(Upstream(candidate, ""), FIND_WITHIN)
        except Unavailable:
            self._found = None
        else:
            first = models[0] if models else ""
            self._found = replace(candidate, model=first, models=models[:MOST_KEPT])
        return self._found

    async def _ask_models(self, upstream: Upstream, within: float) -> tuple[str, ...]:
        name = upstream.provider.name
        try:
            async with self._http().get(
                upstream.address("models"),
                headers=upstream.headers(),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=within),
            ) as response:
                body = await _read_at_most(response, LARGEST_LIST)
                status = response.status
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            if address := closed_address(error):
                raise Unavailable(
                    f"Provider {name!r} leads to {address}, which is no address of a provider.",
                    hint="It is link-local, reserved or a cloud's metadata service; check the "
                    f"name in {upstream.provider.url}.",
                ) from error
            said = f"no answer within {within:.0f} s" if isinstance(error, TimeoutError) else error
            raise Unavailable(
                f"Provider {name!r} does not answer: {said}.",
                hint=f"Is {upstream.provider.url} right, and can this host reach it?",
            ) from error
        if status in (401, 403):
            raise Unavailable(
                f"Provider {name!r} does not take the key ({status}).",
                hint=f"Enter it again: `taos provider add {name} …`.",
            )
        if status != 200:
            raise Unavailable(
                f"Provider {name!r} answered {status} when asked for its models.",
                hint="Check the address; for an OpenAI-like one it usually ends in /v1.",
            )
        return _model_names(body, name)


def _model_names(body: bytes, provider: str) -> tuple[str, ...]:
    try:
        match read_json(body):
            case {"data": list(listed)}:
                return tuple(str(one["id"]) for one in listed)
        raise ValueError("no list of models")
    except (ValueError, KeyError, TypeError) as error:
        raise Unavailable(
            f"Provider {provider!r} did not answer with a list of models.",
            hint="Check its kind and address.",
        ) from error


async def _read_at_most(response: aiohttp.ClientResponse, most: int) -> bytes:
    body = b""
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > most:
            raise Unavailable("The list of models has no end.", hint="Check the address.")
    return body


def _bound(name: str, url: str) -> str:
    """What a sealed key belongs to: in a row with another name or address it does not open."""
    return f"{name} {url}"


def _no_provider(name: str) -> NotFound:
    return NotFound(
        f"There is no provider {name[:60]!r}.", hint="`taos provider list` shows the providers."
    )
