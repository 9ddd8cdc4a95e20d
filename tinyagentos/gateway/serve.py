"""The gateway: agents ask it at 127.0.0.1 inside their container, it asks the providers.

    whose token -> within its limits -> its models in order -> what came back, event by event

An agent's request reaches a provider with the host's key and the agent's words, nothing else of
either. Until the answer itself begins another model can take over; after that nothing can.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import aiohttp
from aiohttp import web

from tinyagentos.gateway.accounts import Accounts, Tally
from tinyagentos.gateway.dialects import Dialect, Exchange, make_exchange
from tinyagentos.gateway.limits import USUAL, Limits
from tinyagentos.gateway.listen import connections_of, listening
from tinyagentos.gateway.offline import searches, without_fetching
from tinyagentos.gateway.providers import Providers
from tinyagentos.gateway.reading import (
    Body,
    TooMany,
    answer_tokens,
    parse_json,
    question_tokens,
    weigh,
)
from tinyagentos.gateway.refusal import Refusal, read_refusal
from tinyagentos.gateway.relay import Relay
from tinyagentos.gateway.session import closed_address
from tinyagentos.gateway.tokens import owner_of
from tinyagentos.gateway.upstream import Upstream
from tinyagentos.model.errors import InvalidInput, TaosError
from tinyagentos.model.provider import ModelAccess, ModelChoice, ModelRef, Provider, ProviderKind
from tinyagentos.net.web import note_requests, protocols
from tinyagentos.store.providers import UsageTable

_log = logging.getLogger(__name__)

LARGE = 256 * 1024
PATHS = {
    "/v1/chat/completions": Dialect.chat,
    "/v1/messages": Dialect.messages,
    "/v1/embeddings": Dialect.embeddings,
}

AccessOf = Callable[[str], Awaitable[ModelAccess | None]]


@dataclass(frozen=True)
class Question:
    """What one agent asks in one request. tokens: an estimate of what it is long."""

    agent: str
    dialect: Dialect
    body: Body
    tokens: int
    models: tuple[ModelRef, ...]
    may_fetch: bool = True

    @property
    def most_tokens(self) -> int:
        """What it may use with its answer, which has none when it asks for embeddings."""
        is_answered = self.dialect is not Dialect.embeddings
        return self.tokens + (answer_tokens(self.body) if is_answered else 0)


class Gateway:
    """Answers the agents of this host."""

    def __init__(
        self,
        key: bytes,
        providers: Providers,
        access_of: AccessOf,
        usage: UsageTable,
        http: Callable[[], aiohttp.ClientSession],
        now: Callable[[], datetime],
        limits: Limits = USUAL,
    ) -> None:
        """access_of: what an instance may ask, None when there is no such agent."""
        self._key = key
        self._providers = providers
        self._access_of = access_of
        self._accounts = Accounts(usage, now, limits)
        self._http = http
        self._limits = limits
        # One after the other, and between large ones everybody else has a turn.
        self._reading = asyncio.Lock()

    def last_used(self, instance: str) -> datetime | None:
        """When the agent last asked something, as far as this server saw: now, while it does."""
        return self._accounts.last_used(instance)

    def tidy(self, instances: Collection[str]) -> None:
        """Forget what agents used that are gone, and what is over a year old."""
        self._accounts.tidy(instances)

    @asynccontextmanager
    async def serving(self, socket: Path) -> AsyncIterator[None]:
        """Answer at the Unix socket, which only root can open, while it lasts."""
        app = web.Application(middlewares=[note_requests])
        app.router.add_get("/v1/models", self._list_models)
        for path in PATHS:
            app.router.add_post(path, self._ask)
        runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None,
            shutdown_timeout=self._limits.close_within,
        )  # fmt: skip
        await runner.setup()
        connections = connections_of(self._limits)
        try:
            with listening(socket, protocols(runner), connections):
                yield
        finally:
            await runner.cleanup()
            connections.close()

    async def _list_models(self, request: web.Request) -> web.Response:
        """`default`, the agent's models and what else their providers have, for both dialects.

        The others are for embeddings, and as they were told of last: nobody is asked for them now.
        """
        try:
            agent, access = await self._known(request)
            with self._accounts.request(agent):
                default = self._providers.known_default()
                models = access.choice.models or ((default,) if default else ())
        except Refusal as refusal:
            return refusal.worded(Dialect.chat)
        its = {one.provider for one in models}
        others = (one for one in self._providers.known_models() if one.provider in its)
        names = dict.fromkeys(("default", *map(str, (*models, *others))))
        listed = [
            {"id": name, "object": "model", "type": "model", "display_name": name, "created": 0,
             "owned_by": "taos"}
            for name in names
        ]  # fmt: skip
        return web.json_response({"object": "list", "data": listed, "has_more": False})

    async def _ask(self, request: web.Request) -> web.StreamResponse:
        dialect = PATHS[request.path]
        try:
            agent, access = await self._known(request)
            with self._accounts.question(agent) as tally:
                question = await self._read(request, dialect, access, tally)
                budget = access.choice.monthly_tokens
                self._accounts.reserve(tally, question.most_tokens, budget)
                return await self._answer(question, request, tally)
        except Refusal as refusal:
            return refusal.worded(dialect)

    async def _known(self, request: web.Request) -> tuple[str, ModelAccess]:
        """Whose request it is, and what that agent may ask of models."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            token = request.headers.get("x-api-key", "")
        agent = owner_of(self._key, token.strip())
        try:
            access = await self._access_of(agent) if agent else None
        except TaosError as error:
            raise Refusal(503, "api_error", error.message) from error
        if agent is None or access is None:
            raise Refusal(401, "authentication_error", "This is no token of an agent.")
        return agent, access

    async def _models_of(self, choice: ModelChoice) -> tuple[ModelRef, ...]:
        if choice.models:
            return choice.models
        default = await self._providers.default_model()
        if default is None:
            # 404 and not 503: an agent that tries again soon would wait in vain.
            raise Refusal(
                404, "model_not_found", "No model is set up: run `taos provider add` on the host."
            )
        return (default,)

    async def _read(
        self, request: web.Request, dialect: Dialect, access: ModelAccess, tally: Tally
    ) -> Question:
        """The question, if it can be read."""
        text = await self._receive(request, tally)
        async with self._reading:
            try:
                self._accounts.hold(tally, weigh(text) - len(text))
                body = parse_json(text)
            except TooMany as error:
                sentence = "The request has too many parts."
                raise Refusal(413, "request_too_large", sentence) from error
            except ValueError as error:
                sentence = "The request is no JSON, or is too deep."
                raise Refusal(400, "invalid_request_error", sentence) from error
            if len(text) > LARGE:
                await asyncio.sleep(0)
        if not isinstance(body, dict):
            raise Refusal(400, "invalid_request_error", "The request is no JSON object.")
        if not access.may_fetch:
            body = _kept_in(body, dialect)
        models = await self._models_of(access.choice)
        if dialect is Dialect.embeddings:
            models = (embedding_model(body.get("model"), models, self._providers.list_known()),)
        # An agent may name one of its models; any other name means the first.
        wanted = tuple(one for one in models if str(one) == body.get("model"))
        return Question(
            tally.agent, dialect, body, question_tokens(len(text), body),
            tuple(dict.fromkeys((*wanted, *models))), access.may_fetch,
        )  # fmt: skip

    async def _receive(self, request: web.Request, tally: Tally) -> bytearray:
        """The body of the request; Refusal when it is too large, too slow or broken off."""
        text = bytearray()
        try:
            async with asyncio.timeout(self._limits.read_within):
                async for chunk in request.content.iter_any():
                    self._accounts.hold(tally, len(chunk))
                    text += chunk
                    if len(text) > self._limits.question_bytes:
                        raise Refusal(413, "request_too_large", "The request is too large.")
        except TimeoutError as error:
            raise Refusal(408, "timeout_error", "The request took too long to come.") from error
        except web.RequestPayloadError as error:
            raise Refusal(400, "invalid_request_error", "The request broke off.") from error
        return text

    async def _answer(
        self, question: Question, request: web.Request, tally: Tally
    ) -> web.StreamResponse:
        """What the first model says that can answer."""
        refusal = Refusal(404, "model_not_found", "No model was asked.")
        for model in question.models:
            try:
                return await self._ask_model(model, question, request, tally)
            except Refusal as why:
                refusal = why
                _log.warning(
                    "a model did not answer",
                    extra={"agent": question.agent, "model": str(model), "why": why.sentence},
                )
                if why.is_final:
                    break
        raise refusal

    async def _ask_model(
        self, model: ModelRef, question: Question, request: web.Request, tally: Tally
    ) -> web.StreamResponse:
        """What the model answers, passed on as it comes; Refusal before any of it was."""
        if not question.may_fetch and searches(model.model):
            raise _searching(model)
        try:
            upstream = await self._providers.open(model.provider)
        except TaosError as error:
            raise Refusal(502, "provider_error", error.message) from error
        exchange, body = _worded(question, model, upstream)
        tally.exchanges.append(exchange)
        relay = Relay(
            request, question.dialect, model, exchange, upstream, self._limits,
            lambda size_bytes: self._accounts.hold(tally, size_bytes),
        )  # fmt: skip
        try:
            with _reached(model):
                async with self._http().post(
                    upstream.address(exchange.call),
                    data=body,
                    headers={**upstream.headers(), "Content-Type": "application/json"},
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(
                        total=None,
                        sock_connect=self._limits.connect_within,
                        sock_read=self._limits.silent_within,
                    ),
                ) as response:
                    if response.status != 200:
                        raise await read_refusal(response, model, upstream)
                    answer = await relay.run(response)
        except Refusal:
            exchange.is_refused = True
            raise
        if exchange.failure:
            tally.failed = True
            _log.warning(
                "an answer broke off", extra={"agent": question.agent, "why": exchange.failure}
            )
        return answer


def embedding_model(
    wanted: object, models: Sequence[ModelRef], providers: Iterable[Provider]
) -> ModelRef:
    """The one model to ask for embeddings: vectors of two models cannot be compared.

    Models of chat have none, so any name is asked of the first of the agent's providers that may
    have it, or of the one it names (PROVIDER/MODEL); no name means the agent's model there.
    """
    have_none = {one.name for one in providers if one.kind is ProviderKind.anthropic}
    able = [one for one in models if one.provider not in have_none]
    if not able:
        sentence = f"{models[0].provider} has no embeddings, nor has another of this agent's."
        raise Refusal(400, "invalid_request_error", sentence)
    if not isinstance(wanted, str) or wanted in {"", "default"}:
        return able[0]
    provider, _, name = wanted.partition("/")
    if name and provider in {one.provider for one in able}:
        return ModelRef(provider, name)
    return ModelRef(able[0].provider, wanted)


def _kept_in(body: Body, dialect: Dialect) -> Body:
    """The question of an agent without a network; Refusal when a provider would fetch for it."""
    try:
        return without_fetching(body, dialect.value)
    except InvalidInput as error:
        sentence = f"{error.message} {error.hint}"
        raise Refusal(400, "invalid_request_error", sentence, is_final=True) from error
    except RecursionError as error:
        raise Refusal(400, "invalid_request_error", "The request is too deep.") from error


def _searching(model: ModelRef) -> Refusal:
    sentence = (
        f"{model} searches the web by itself, which this agent's network policy `none` excludes."
    )
    return Refusal(400, "invalid_request_error", sentence)


def _worded(question: Question, model: ModelRef, upstream: Upstream) -> tuple[Exchange, bytes]:
    """The question in the provider's words, with what its answer is read with."""
    try:
        exchange = make_exchange(
            question.body, model.model, question.dialect,
            anthropic=upstream.speaks_anthropic, question_tokens=question.tokens,
        )  # fmt: skip
        return exchange, json.dumps(upstream.fitted(exchange.body)).encode()
    except InvalidInput as error:
        # Another model's provider may have words for it.
        raise Refusal(400, "invalid_request_error", error.message) from error
    except RecursionError as error:
        raise Refusal(400, "invalid_request_error", "The request is too deep.") from error


@contextmanager
def _reached(model: ModelRef) -> Iterator[None]:
    """A provider that cannot be reached, or goes away before it said anything, as a Refusal."""
    try:
        yield
    except TimeoutError as error:
        raise Refusal(504, "timeout_error", f"{model} gave no answer in time.") from error
    except (aiohttp.ClientError, OSError) as error:
        if address := closed_address(error):
            sentence = f"{model.provider} leads to {address}, which is no address of a provider."
            raise Refusal(502, "provider_error", sentence) from error
        raise Refusal(
            502, "provider_error", f"{model} cannot be reached ({type(error).__name__})."
        ) from error
