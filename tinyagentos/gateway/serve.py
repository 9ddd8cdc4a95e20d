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
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import aiohttp
from aiohttp import web

from tinyagentos.gateway.dialects import (
    LETTERS_OF_A_TOKEN,
    Dialect,
    Exchange,
    error_of,
    make_exchange,
    problem,
    stream_problem,
)
from tinyagentos.gateway.doors import Doors
from tinyagentos.gateway.events import Events, is_comment
from tinyagentos.gateway.providers import Providers
from tinyagentos.gateway.tokens import owner_of
from tinyagentos.gateway.translate import USUAL_MOST_TOKENS, Body
from tinyagentos.gateway.upstream import Upstream
from tinyagentos.model.errors import InvalidInput, TaosError
from tinyagentos.model.provider import ModelChoice, ModelRef, Usage
from tinyagentos.store.providers import UsageTable

_log = logging.getLogger(__name__)

LARGEST_QUESTION = 16 * 1024 * 1024
# Of all agents together, while they are asked and answered.
MOST_HELD = 64 * 1024 * 1024
# A question of many small values takes fifty times its bytes in memory. The longest conversation of
# an agent has some ten thousand.
MOST_VALUES = 500_000
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
# What an answer is thought to take of a budget, until it is known.
USUAL_ANSWER = 1000
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
    """What becomes of one request. held: bytes of it; promised: tokens it may take, about."""

    exchanges: list[Exchange] = field(default_factory=list)
    failed: bool = False
    held: int = 0
    promised: int = 0


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
        self._promised: Counter[str] = Counter()
        self._held = 0
        self._last_used: dict[str, datetime] = {}

    def last_used(self, instance: str) -> datetime | None:
        """When a question of the agent was last answered, now while one is.

        None when this server has seen none.
        """
        return self._now() if self._asking[instance] else self._last_used.get(instance)

    @asynccontextmanager
    async def serving(self, socket: Path) -> AsyncIterator[None]:
        """Answer at the Unix socket, which only root can open, while it lasts."""
        self._usage.drop_before(_a_year_ago(self._now()))
        doors = Doors()
        app = web.Application(middlewares=[doors.asks])
        app.router.add_get("/v1/models", self._list_models)
        for path in PATHS:
            app.router.add_post(path, self._ask)
        runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=CLOSE_WITHIN
        )
        socket.unlink(missing_ok=True)
        server = await doors.open(runner, socket)
        try:
            socket.chmod(0o600)
            yield
        finally:
            server.close()
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
        with self._counted(agent) as counted:
            try:
                question = await self._read(request, dialect, agent, choice, counted)
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
        self,
        request: web.Request,
        dialect: Dialect,
        agent: str,
        choice: ModelChoice,
        counted: Counted,
    ) -> Question:
        """The question, if the agent may ask it."""
        if self._asking[agent] > MOST_AT_ONCE:
            raise Refusal(
                429, "rate_limit_error", f"An agent may ask {MOST_AT_ONCE} things at once."
            )
        self._check_budget(agent, choice)
        try:
            async with asyncio.timeout(READ_WITHIN):
                said = await self._read_body(request, counted)
        except TimeoutError as error:
            raise Refusal(408, "timeout_error", "The request took too long to come.") from error
        try:
            body = json.loads(said)
        except (ValueError, RecursionError) as error:
            raise Refusal(400, "invalid_request_error", "The request is no JSON.") from error
        if not isinstance(body, dict):
            raise Refusal(400, "invalid_request_error", "The request is no JSON object.")
        # Others may have been asked while this one was read.
        self._check_budget(agent, choice)
        counted.promised = len(said) // LETTERS_OF_A_TOKEN + _most_tokens(body)
        self._promised[agent] += counted.promised
        models = await self._models_of(choice)
        return Question(agent, dialect, body, _wanted(models, dialect, body.get("model")))

    async def _read_body(self, request: web.Request, counted: Counted) -> bytes:
        """The bytes of a question, if they and what they become in memory find room."""
        body = bytearray()
        async for chunk in request.content.iter_any():
            body += chunk
            counted.held += len(chunk)
            self._held += len(chunk)
            if len(body) > LARGEST_QUESTION:
                raise Refusal(413, "request_too_large", "The request is too large.", is_final=True)
            if self._held > MOST_HELD:
                raise Refusal(429, "rate_limit_error", "The host is answering too much at once.")
        if sum(map(body.count, (b",", b"{", b"["))) > MOST_VALUES:
            raise Refusal(413, "request_too_large", "The request has too many parts.")
        return bytes(body)

    def _check_budget(self, agent: str, choice: ModelChoice) -> None:
        """What is being answered counts too: many questions at once must not all just fit."""
        used = self._usage.get(agent, self._month()).tokens + self._promised[agent]
        if choice.monthly_tokens and used >= choice.monthly_tokens:
            raise Refusal(
                429, "insufficient_quota",
                f"This agent's budget of {choice.monthly_tokens} tokens for this month is used up.",
            )  # fmt: skip

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
        counted.exchanges.append(exchange)
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
                    return await _pass_whole(response, exchange, model, upstream)
                events = _events(response)
                first = await _first_event(events, model, upstream)
                return await self._pass_events(
                    question, exchange, upstream, first, events, request, counted
                )

    async def _pass_events(
        self,
        question: Question,
        exchange: Exchange,
        upstream: Upstream,
        first: bytes,
        events: AsyncIterator[bytes],
        request: web.Request,
        counted: Counted,
    ) -> web.StreamResponse:
        """The provider's events as they come; what breaks them off is an event too."""
        answer = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
        )
        await answer.prepare(request)
        event = first
        try:
            while event:
                if said := b"".join(exchange.event(event)):
                    await answer.write(upstream.clean(said))
                event = await anext(events, b"")
            if said := b"".join(exchange.end()):
                await answer.write(said)
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
        counted.failed = counted.failed or exchange.failed
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
            self._held -= counted.held
            self._promised[agent] -= counted.promised
            self._last_used[agent] = self._now()
            used = [exchange.used() for exchange in counted.exchanges]
            self._usage.add(
                agent,
                self._month(),
                Usage(
                    requests=1,
                    errors=int(counted.failed),
                    input_tokens=sum(given for given, _ in used),
                    output_tokens=sum(made for _, made in used),
                ),
            )

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
    said = upstream.without_key(_words_of(body))[:LONGEST_SENTENCE] or f"{model} answered {status}."
    # A model that is not there may be at the next provider; a bad question is bad everywhere.
    return Refusal(status, "invalid_request_error", said, is_final=status != 404)


def _words_of(body: bytes) -> str:
    """The sentence in an error of either dialect."""
    try:
        match json.loads(body):
            case {"error": {"message": str(said)}} | {"error": str(said)} | {"message": str(said)}:
                return said
    except (ValueError, RecursionError):
        pass
    return ""


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The events of a stream, also a last one that nothing ends."""
    events = Events()
    async for chunk in response.content.iter_any():
        for event in events.feed(chunk):
            yield event
    for event in events.rest():
        yield event


async def _first_event(events: AsyncIterator[bytes], model: ModelRef, upstream: Upstream) -> bytes:
    """The first event that says something; Refusal when that is that nothing will come.

    Until then the next model can take over.
    """
    try:
        async for event in events:
            if is_comment(event):
                continue
            if (said := error_of(event)) is not None:
                words = upstream.without_key(said)[:LONGEST_SENTENCE]
                raise Refusal(502, "provider_error", f"{model} says: {words}")
            return event
    except UNREADABLE as error:
        raise Refusal(502, "provider_error", f"The answer of {model} cannot be read.") from error
    raise Refusal(502, "provider_error", f"{model} ended without an answer.")


def _wanted(models: tuple[ModelRef, ...], dialect: Dialect, name: object) -> tuple[ModelRef, ...]:
    """The models to ask, in order.

    An agent may name one of its own; any other name means the first. But for embeddings, which
    chat models do not make: there that name is asked of its models' providers.
    """
    named = tuple(one for one in models if str(one) == name)
    if dialect is Dialect.embeddings and not named and isinstance(name, str) and name != "default":
        named = tuple(replace(one, model=name.removeprefix(f"{one.provider}/")) for one in models)
        return tuple(dict.fromkeys(named))
    return tuple(dict.fromkeys((*named, *models)))


def _most_tokens(body: Body) -> int:
    """How many tokens the answer may have, about."""
    asked = body.get("max_completion_tokens") or body.get("max_tokens")
    return min(asked, USUAL_MOST_TOKENS) if isinstance(asked, int) and asked > 0 else USUAL_ANSWER


def _a_year_ago(now: datetime) -> str:
    """The oldest month whose usage is still shown."""
    return f"{now.year - 1}-{now.month:02}"


async def _pass_whole(
    response: aiohttp.ClientResponse, exchange: Exchange, model: ModelRef, upstream: Upstream
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
    return web.Response(body=upstream.clean(said), content_type="application/json")


def _refused(dialect: Dialect, refusal: Refusal) -> web.Response:
    body = problem(dialect, refusal.status, refusal.sentence, refusal.kind)
    return web.Response(status=refusal.status, body=body, content_type="application/json")
