"""Models and chat of an agent on the fake Incus: what is kept where, and what is said when."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web

from tests.deploy.world import Taos, with_image
from tests.fakes.fake_incus import FakeIncus
from tests.fakes.provider import FakeProvider, fake_provider
from tinyagentos.agents.chat import Chat
from tinyagentos.agents.model_keys import read_choice, write_choice
from tinyagentos.agents.models import Choices, Models
from tinyagentos.gateway.events import openai_event
from tinyagentos.gateway.providers import Providers
from tinyagentos.gateway.session import LazySession
from tinyagentos.gateway.tokens import agent_token
from tinyagentos.gateway.vault import Vault
from tinyagentos.model.errors import Conflict, HostNotReady, InvalidInput, NotFound, Unavailable
from tinyagentos.model.provider import (
    ModelAccess,
    ModelChoice,
    NewProvider,
    ProviderKind,
    Usage,
    parse_model,
)
from tinyagentos.store.providers import ProviderTable, UsageTable


@dataclass
class World:
    """A deployed agent `one`, a provider `stub`, and what works with them."""

    taos: Taos
    instance: str
    providers: Providers
    usage: UsageTable
    choices: Choices
    models: Models
    chat: Chat
    stub: FakeProvider
    now: float = 0.0

    async def say(self, message: str, conversation: str = "main") -> str:
        """The whole answer."""
        answer = await self.chat.ask("one", message, conversation)
        return "".join([piece async for piece in answer])


@pytest.fixture
async def world(fake: FakeIncus, tmp_path: Path) -> AsyncIterator[World]:
    with_image(fake)
    taos = Taos(tmp_path, fake).start()
    job = await taos.deploy("one", source="image")
    assert job.state == "succeeded", job.error
    http = LazySession()
    async with fake_provider(key="") as stub:
        providers = Providers(ProviderTable(taos.database), Vault(b"v" * 32), http)
        usage = UsageTable(taos.database)
        made: list[World] = []
        choices = Choices(taos.incus, clock=lambda: made[0].now)
        models = Models(taos.host, providers, usage, choices)
        chat = Chat(taos.host, providers)
        instance = (await taos.agents.get_agent("one")).instance
        made.append(World(taos, instance, providers, usage, choices, models, chat, stub, 1000.0))
        yield made[0]
    await http.close()
    await taos.close()


CHOICE = ModelChoice((parse_model("stub/large"), parse_model("stub/small")), 500)


async def add_stub(world: World) -> None:
    await world.providers.add(NewProvider("stub", ProviderKind.openai, world.stub.url))


@pytest.mark.parametrize(
    "choice", [ModelChoice(), CHOICE, ModelChoice((parse_model("a/b/c"),)), ModelChoice((), 7)]
)
def test_a_choice_is_read_as_it_was_written(choice: ModelChoice) -> None:
    assert read_choice(write_choice(choice)) == choice


def test_a_choice_that_somebody_broke_counts_as_none() -> None:
    broken = {"user.taos.model": "nonsense", "user.taos.fallback": ",,x/", "user.taos.budget": "-1"}
    assert read_choice(broken) == ModelChoice()


async def test_a_choice_is_kept_with_the_instance_and_seen_at_once(world: World) -> None:
    await add_stub(world)
    assert await world.choices(world.instance) == ModelAccess()
    shown = await world.models.choose("one", CHOICE)
    assert shown.models == ("stub/large", "stub/small")
    assert await world.choices(world.instance) == ModelAccess(CHOICE)
    config = world.taos.fake.project().instances[world.instance].json["config"]
    assert config["user.taos.model"] == "stub/large"
    await world.models.choose("one", ModelChoice())
    assert await world.choices(world.instance) == ModelAccess()


async def test_no_choice_is_lost_with_the_root_that_an_upgrade_replaces(world: World) -> None:
    await add_stub(world)
    fake, taos = world.taos.fake, world.taos
    config = fake.project().instances[world.instance].json["config"]
    config["user.taos.version"] = "0"
    # The upgrade begins while Incus takes its time to write the choice.
    fake.stall_next(f"PATCH /1.0/instances/{world.instance}", 0.3)
    go = fake.hold_next("POST /1.0/instances")
    choosing = asyncio.create_task(world.models.choose("one", CHOICE))
    await asyncio.sleep(0.1)
    job = await taos.agents.start_upgrade("one")
    await taos.until(job.id, "create new root")
    with pytest.raises(Conflict, match="upgrade job"):
        await choosing
    with pytest.raises(Conflict, match="upgrade job"):
        await world.models.choose("one", CHOICE)
    go.set()
    assert (await taos.runner.wait_job(job.id)).state == "succeeded"
    await world.models.choose("one", CHOICE)
    world.now += 60
    assert await world.choices(world.instance) == ModelAccess(CHOICE)


async def test_a_choice_changed_in_incus_is_seen_soon_and_kept_while_incus_is_away(
    world: World,
) -> None:
    assert await world.choices(world.instance) == ModelAccess()
    config = world.taos.fake.project().instances[world.instance].json["config"]
    config["user.taos.model"] = "stub/x"
    assert await world.choices(world.instance) == ModelAccess()
    world.now += 6
    assert await world.choices(world.instance) == ModelAccess(ModelChoice((parse_model("stub/x"),)))
    world.now += 6
    await world.taos.fake.stop()
    with pytest.raises(HostNotReady):
        await world.choices("unknown-123456")
    assert await world.choices(world.instance) == ModelAccess(ModelChoice((parse_model("stub/x"),)))
    await world.taos.fake.start()


async def test_an_agent_without_a_network_may_have_nothing_fetched(world: World) -> None:
    config = world.taos.fake.project().instances[world.instance].json["config"]
    for policy, may_fetch in (("none", False), ("lan:192.168.1.0/24", True), ("internet", True)):
        config["user.taos.network"] = policy
        world.now += 6
        assert await world.choices(world.instance) == ModelAccess(may_fetch=may_fetch)


async def test_nobodys_instance_has_no_models(world: World) -> None:
    assert await world.choices("other-123456") is None


async def test_what_cannot_be_chosen(world: World) -> None:
    await add_stub(world)
    stub = parse_model("stub/x")
    for wrong in (
        ModelChoice((parse_model("nobody/x"),)),
        ModelChoice((stub, stub)),
        ModelChoice(tuple(parse_model(f"stub/{n}") for n in range(7))),
        ModelChoice((), -1),
    ):
        with pytest.raises(InvalidInput):
            await world.models.choose("one", wrong)
    with pytest.raises(NotFound):
        await world.models.choose("nobody", ModelChoice())
    with pytest.raises(NotFound):
        await world.models.get("nobody")


async def test_what_an_agent_used_is_shown_and_survives_the_server(world: World) -> None:
    month = f"{world.taos.host.now():%Y-%m}"
    world.usage.add(world.instance, month, Usage(1, 0, 10, 5))
    world.usage.add(world.instance, month, Usage(1, 1, 1, 1))
    world.usage.add(world.instance, "2020-01", Usage(5, 0, 1, 1))
    seen = await world.models.get("one")
    assert seen.usage == Usage(2, 1, 11, 6)
    assert [at for at, _ in seen.months] == ["2020-01", month]


@pytest.fixture
async def agent(world: World) -> AsyncIterator[list[dict[str, object]]]:
    """Behind the agent's door: something that answers as OpenClaw does."""
    asked: list[dict[str, object]] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        shown = request.headers["Authorization"]
        asked.append(body | {"token": shown.removeprefix("Bearer ")})
        said = str(body["messages"][-1]["content"])
        if said == "refuse":
            return web.Response(status=500, text="out of order")
        if said == "lead elsewhere":
            return web.Response(status=307, headers={"Location": "http://a%3Ab@x/"})
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        for piece in ("I ", "hear ", said):
            await stream.write(openai_event({"choices": [{"delta": {"content": piece}}]}))
        if said == "endless":
            with contextlib.suppress(ConnectionError):
                while True:
                    await stream.write(
                        openai_event({"choices": [{"delta": {"content": "x" * 9999}}]})
                    )
        if said == "work for ever":
            with contextlib.suppress(ConnectionError):
                while True:
                    await stream.write(b": still at work" + b"." * 99_999 + b"\n\n")
        if said == "one word for ever":
            with contextlib.suppress(ConnectionError):
                while True:
                    await stream.write(
                        b'data: {"choices": [{"delta": {"content": "x' + b"x" * 99999
                    )
        if said == "go deep":
            await stream.write(b"data: " + b"[" * 300_000 + b"\n\n")
        if said == "half a letter":
            piece = b'data: {"choices": [{"delta": {"content": "\\ud83d!"}}]}\n\n'
            await stream.write(piece)
        if said == "hold":
            await asyncio.sleep(60)
        if said == "break":
            await stream.write(b'data: {"error": {"message": "no more"}}\n\n')
        if said == "die":
            assert request.transport
            request.transport.abort()
        await stream.write(b"data: [DONE]\n\n")
        return stream

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    socket = world.taos.host.socket(world.instance)
    socket.unlink(missing_ok=True)
    await web.UnixSite(runner, str(socket)).start()
    yield asked
    await runner.cleanup()


async def test_an_answer_comes_in_pieces_with_the_agents_own_token(
    world: World, agent: list[dict[str, object]]
) -> None:
    await add_stub(world)
    answer = await world.chat.ask("one", "you")
    assert [piece async for piece in answer] == ["I ", "hear ", "you"]
    assert agent[0]["token"] == agent_token(world.taos.host.key, world.instance)
    await world.say("x", "other")
    assert [one["user"] for one in agent] == ["taos:main", "taos:other"]


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ("refuse", "500: out of order"),
        ("lead elsewhere", "answered 307"),
        ("break", "broke off: no more"),
        ("die", "gave no answer"),
        ("endless", "no end"),
        ("work for ever", "no end"),
        ("one word for ever", "gave no answer"),
    ],
)
async def test_an_agent_that_fails_is_told_so(
    world: World, agent: list[dict[str, object]], message: str, why: str
) -> None:
    await add_stub(world)
    with pytest.raises(Unavailable, match=why):
        await world.say(message)
    assert len(agent) == 1


async def test_what_an_agent_says_can_be_sent_on(
    world: World, agent: list[dict[str, object]]
) -> None:
    await add_stub(world)
    assert (await world.say("half a letter")).encode() == b"I hear half a letter?!"
    # Too deep to be read: either nothing, or what is said of an answer that cannot be read.
    with contextlib.suppress(Unavailable):
        assert await world.say("go deep") == "I hear go deep"


async def test_an_agent_that_is_deleted_while_it_answers_ends_its_answer_with_a_sentence(
    world: World,
) -> None:
    await add_stub(world)
    begun = asyncio.Event()

    async def answer(request: web.Request, _: str) -> web.StreamResponse:
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        await stream.write(openai_event({"choices": [{"delta": {"content": "I "}}]}))
        begun.set()
        await asyncio.sleep(60)
        return stream

    world.taos.fake.answer = answer
    [instance] = world.taos.fake.project().instances.values()
    await world.taos.fake.set_running(world.taos.fake.project(), instance, True)
    asking = asyncio.create_task(world.say("hold"))
    await asyncio.wait_for(begun.wait(), 5)
    job = await world.taos.agents.start_delete("one")
    assert (await world.taos.runner.wait_job(job.id)).state == "succeeded"
    with pytest.raises(Unavailable, match="gave no answer") as said:
        await asyncio.wait_for(asking, 5)
    assert said.value.hint


async def test_an_agent_that_answers_is_in_use(
    world: World, agent: list[dict[str, object]]
) -> None:
    await add_stub(world)
    uses = world.taos.host.uses
    assert uses.last(world.instance) is None
    answer = await world.chat.ask("one", "hold")
    assert await anext(answer) == "I "
    world.taos.later = timedelta(hours=1)
    in_use = uses.last(world.instance)
    assert in_use
    assert in_use > datetime.now(UTC) + timedelta(minutes=59)
    await answer.aclose()  # type: ignore[attr-defined]
    ended = uses.last(world.instance)
    world.taos.later = timedelta(hours=2)
    assert uses.last(world.instance) == ended


async def test_who_cannot_be_asked(world: World) -> None:
    with pytest.raises(Conflict, match="No model"):
        await world.say("hi")
    await add_stub(world)
    for message, conversation in (("", "main"), (" \n", "main"), ("x" * 40_000, "m"), ("x", "a/b")):
        with pytest.raises(InvalidInput):
            await world.say(message, conversation)
    with pytest.raises(NotFound):
        await world.chat.ask("nobody", "hi")
    job = await world.taos.agents.start_power("one", "stop")
    await world.taos.runner.wait_job(job.id)
    with pytest.raises(Conflict, match="not running"):
        await world.say("hi")
