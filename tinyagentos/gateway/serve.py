"""The gateway: agents ask it at 127.0.0.1 inside their container, it asks the providers.

    whose token -> within its budget -> its models in order -> what came back, event by event

An agent's request reaches a provider with the host's key and the agent's words, nothing else of
either. Until the first byte of an answer another model can take over; after it nothing can.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import aiohttp
from aiohttp import web

from tinyagentos.gateway.dialects import Dialect, Exchange, make_exchange, problem, stream_problem
from tinyagentos.gateway.events import Events
from tinyagentos.gateway.providers import Providers
from tinyagentos.gateway.tokens import owner_of
from tinyagentos.gateway.translate import Body
from tinyagentos.gateway.upstream import Upstream
from tinyagentos.model.errors import InvalidInput, TaosError
from tinyagentos.model.provider import ModelChoice, ModelRef, Usage
from tinyagentos.store.providers import UsageTable

_log = logging.getLogger(__name__)

LARGEST_QUESTION = 32 * 1024 * 1024
LARGEST_ANSWER = 64 * 1024 * 1024
LARGEST_REFUSAL = 64 * 1024
LONGEST_SENTENCE = 2000
# What one agent may ask at the same time: each holds its question in memory.
MOST_AT_ONCE = 16
READ_WITHIN = 60.0
CONNECT_WITHIN = 10.0
# A model that thinks says nothing for minutes.
SILENT_WITHIN = 300.0
CLOSE_WITHIN = 2.0
PATHS = {
    "/v1/chat/completions": Dialect.chat,
    "/v1/messages": Dialect.messages,
    "/v1/embeddings": Dialect.embeddings,
}

# What reading somebody else's body can raise; an event without an end is a ValueError too.
UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, RecursionError)

ChoiceOf = Callable[[str], Awaitable[ModelChoice | None]]


class Refusal(Exception):
    """Why a question gets no answer; final: no other model would have one either."""

    def __init__(self, status: int, kind: str, sentence: str, *, is_final: bool = False) -> None:
        super().__init__(sentence)
        self.status = status
        self.kind = kind
        self.sentence = sentence
        self.is_final = is_final


@dataclass(frozen=True)
class Question:
    """What one agent asks in one request."""

    agent: str
    dialect: Dialect
    body: Body
    models: tuple[ModelRef, ...]


@dataclass
class Counted:
    """What becomes of one request."""

    exchange: Exchange | None = None
    failed: bool = False


class Gateway:
    """Answers the agents of this host."""

    def __init__(
        self,
        key: bytes,
        providers: Providers,
        choice_of: ChoiceOf,
        usage: UsageTable,
        http: Callable[[], aiohttp.ClientSession],
        now: Callable[[], datetime],
    ) -> None:
        """choice_of: the models of an instance, None when there is no such agent."""
        self._key = key
        self._providers = providers
        self._choice_of = choice_of
        self._usage = usage
        self._http = http
        self._now = now
        self._asking: Counter[str] = Counter()
        self._last_used: dict[str, datetime] = {}

    def last_used(self, instance: str) -> datetime | None:
        """When the agent last asked something, as far as this server has seen."""
        return self._last_used.get(instance)

    @asynccontextmanager
    async def serving(self, socket: Path) -> AsyncIterator[None]:
        """Answer at the Unix socket, which only root can open, while it lasts."""
        app = web.Application(client_max_size=LARGEST_QUESTION)
        app.router.add_get("/v1/models", self._list_models)
        for path in PATHS:
            app.router.add_post(path, self._ask)
        runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=CLOSE_WITHIN
        )
        await runner.setup()
        try:
            socket.unlink(missing_ok=True)
            await web.UnixSite(runner, str(socket)).start()
            socket.chmod(0o600)
            yield
        finally:
            await runner.cleanup()
            socket.unlink(missing_ok=True)

    async def _list_models(self, request: web.Request) -> web.Response:
        """`default` and the names of the agent's models, as both dialects list them."""
        try:
            _, choice = await self._known(request)
            names = ["default", *map(str, await self._models_of(choice))]
        except Refusal as refusal:
            return _refused(Dialect.chat, refusal)
        listed = [
            {"id": name, "object": "model", "type": "model", "display_name": name, "created": 0,
             "owned_by": "taos"}
            for name in names
        ]  # fmt: skip
        return web.json_response({"object": "list", "data": listed, "has_more": False})

    async def _ask(self, request: web.Request) -> web.StreamResponse:
        dialect = PATHS[request.path]
        try:
            agent, choice = await self._known(request)
        except Refusal as refusal:
            return _refused(dialect, refusal)
        self._last_used[agent] = self._now()
        with self._counted(agent) as counted:
            try:
                question = await self._read(request, dialect, agent, choice)
                return await self._answer(question, request, counted)
            except Refusal as refusal:
                counted.failed = True
                return _refused(dialect, refusal)

    async def _known(self, request: web.Request) -> tuple[str, ModelChoice]:
        """Whose request it is, and what models that agent has."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            token = request.headers.get("x-api-key", "")
        agent = owner_of(self._key, token.strip())
        try:
            choice = await self._choice_of(agent) if agent else None
        except TaosError as error:
            raise Refusal(503, "api_error", error.message) from error
        if agent is None or choice is None:
            raise Refusal(401, "authentication_error", "This is no token of an agent.")
        return agent, choice

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
        self, request: web.Request, dialect: Dialect, agent: str, choice: ModelChoice
    ) -> Question:
        """The question, if the agent may ask it."""
        used = self._usage.get(agent, self._month())
        if choice.monthly_tokens and used.tokens >= choice.monthly_tokens:
            raise Refusal(
                429, "insufficient_quota",
                f"This agent's budget of {choice.monthly_tokens} tokens for this month is used up.",
            )  # fmt: skip
        if self._asking[agent] > MOST_AT_ONCE:
            raise Refusal(
                429, "rate_limit_error", f"An agent may ask {MOST_AT_ONCE} things at once."
            )
        try:
            async with asyncio.timeout(READ_WITHIN):
                body = json.loads(await request.read())
        except (ValueError, RecursionError) as error:
            raise Refusal(400, "invalid_request_error", "The request is no JSON.") from error
        except TimeoutError as error:
            raise Refusal(408, "timeout_error", "The request took too long to come.") from error
        except web.HTTPRequestEntityTooLarge as error:
            raise Refusal(413, "request_too_large", "The request is too large.") from error
        if not isinstance(body, dict):
            raise Refusal(400, "invalid_request_error", "The request is no JSON object.")
        models = await self._models_of(choice)
        # An agent may name one of its models; any other name means the first.
        wanted = tuple(one for one in models if str(one) == body.get("model"))
        return Question(agent, dialect, body, tuple(dict.fromkeys((*wanted, *models))))

    async def _answer(
        self, question: Question, request: web.Request, counted: Counted
    ) -> web.StreamResponse:
        """What the first model says that can answer."""
        refusal = Refusal(404, "model_not_found", "No model was asked.")
        for model in question.models:
            try:
                return await self._ask_model(model, question, request, counted)
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
        self, model: ModelRef, question: Question, request: web.Request, counted: Counted
    ) -> web.StreamResponse:
        """What the model answers, passed on as it comes; Refusal before any of it was."""
        try:
            upstream = await self._providers.open(model.provider)
        except TaosError as error:
            raise Refusal(502, "provider_error", error.message) from error
        exchange = _exchange(question, model, upstream)
        counted.exchange = exchange
        with _reached(model):
            async with self._http().post(
                upstream.address(exchange.call),
                json=exchange.body,
                headers=upstream.headers(),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=CONNECT_WITHIN, sock_read=SILENT_WITHIN
                ),
            ) as response:
                if response.status != 200:
                    raise await _read_refusal(response, model, upstream)
                if response.content_type != "text/event-stream":
                    return await _pass_whole(response, exchange, model)
                chunks = response.content.iter_any()
                first = await anext(chunks, b"")
                if not first:
                    raise Refusal(502, "provider_error", f"{model} ended without an answer.")
                return await self._pass_events(question, exchange, first, chunks, request, counted)

    async def _pass_events(
        self,
        question: Question,
        exchange: Exchange,
        first: bytes,
        chunks: AsyncIterator[bytes],
        request: web.Request,
        counted: Counted,
    ) -> web.StreamResponse:
        """The provider's events as they come; what breaks them off is an event too."""
        answer = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
        )
        await answer.prepare(request)
        events, chunk = Events(), first
        try:
            while chunk:
                said = b"".join(
                    one for event in events.feed(chunk) for one in exchange.event(event)
                )
                if said:
                    await answer.write(said)
                chunk = await anext(chunks, b"")
        except (aiohttp.ClientError, OSError, *UNREADABLE) as error:
            counted.failed = True
            _log.warning(
                "an answer broke off",
                extra={"agent": question.agent, "why": f"{type(error).__name__}: {error}"},
            )
            with suppress(OSError):
                await answer.write(
                    stream_problem(question.dialect, "The model's answer broke off.")
                )
        return answer

    @contextmanager
    def _counted(self, agent: str) -> Iterator[Counted]:
        """Count a request, however it ends, and that it is under way."""
        counted = Counted()
        self._asking[agent] += 1
        try:
            yield counted
        finally:
            self._asking[agent] -= 1
            used = Usage(
                requests=1,
                errors=int(counted.failed),
                input_tokens=counted.exchange.input_tokens if counted.exchange else 0,
                output_tokens=counted.exchange.output_tokens if counted.exchange else 0,
            )
            self._usage.add(agent, self._month(), used)

    def _month(self) -> str:
        return f"{self._now():%Y-%m}"


def _exchange(question: Question, model: ModelRef, upstream: Upstream) -> Exchange:
    anthropic = upstream.speaks_anthropic
    if question.dialect is Dialect.embeddings and anthropic:
        raise Refusal(400, "invalid_request_error", f"{model.provider} has no embeddings.")
    try:
        return make_exchange(question.body, model.model, question.dialect, anthropic=anthropic)
    except InvalidInput as error:
        raise Refusal(400, "invalid_request_error", error.message, is_final=True) from error


@contextmanager
def _reached(model: ModelRef) -> Iterator[None]:
    """A provider that cannot be reached, or goes away before it said anything, as a Refusal."""
    try:
        yield
    except TimeoutError as error:
        raise Refusal(504, "timeout_error", f"{model} gave no answer in time.") from error
    except (aiohttp.ClientError, OSError) as error:
        raise Refusal(
            502, "provider_error", f"{model} cannot be reached ({type(error).__name__})."
        ) from error


async def _read_refusal(
    response: aiohttp.ClientResponse, model: ModelRef, upstream: Upstream
) -> Refusal:
    """Why the provider gives no answer, in its own words where those are about the question."""
    status = response.status
    if status in (401, 403):
        # Such an answer may quote the key.
        said = f"{model.provider} does not take this host's key ({status})."
        return Refusal(502, "provider_error", said)
    if status == 429:
        return Refusal(429, "rate_limit_error", f"{model.provider} has had too many requests.")
    if not 400 <= status < 500:
        return Refusal(502, "provider_error", f"{model} answered {status}.")
    body = await response.content.read(LARGEST_REFUSAL)
    said = upstream.without_key(_words_of(body)) or f"{model} answered {status}."
    # A model that is not there may be at the next provider; a bad question is bad everywhere.
    return Refusal(status, "invalid_request_error", said, is_final=status != 404)


def _words_of(body: bytes) -> str:
    """The sentence in an error of either dialect."""
    try:
        match json.loads(body):
            case {"error": {"message": str(said)}} | {"error": str(said)} | {"message": str(said)}:
                return said[:LONGEST_SENTENCE]
    except (ValueError, RecursionError):
        pass
    return ""


async def _pass_whole(
    response: aiohttp.ClientResponse, exchange: Exchange, model: ModelRef
) -> web.Response:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > LARGEST_ANSWER:
            raise Refusal(502, "provider_error", f"The answer of {model} has no end.")
    try:
        said = exchange.whole(bytes(body))
    except UNREADABLE as error:
        raise Refusal(502, "provider_error", f"The answer of {model} cannot be read.") from error
    return web.Response(body=said, content_type="application/json")


def _refused(dialect: Dialect, refusal: Refusal) -> web.Response:
    body = problem(dialect, refusal.status, refusal.sentence, refusal.kind)
    return web.Response(status=refusal.status, body=body, content_type="application/json")
