"""The gateway as an agent meets it: every dialect, every way a provider can fail."""

from __future__ import annotations

import asyncio
import contextlib
import json
import stat
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.fakes.provider import KEY, never
from tests.unit.gateway.conftest import AGENT, HOST_KEY, NOW, QUESTION, Asking, asking, under_way
from tinyagentos.gateway.limits import USUAL, Limits
from tinyagentos.gateway.serve import embedding_model
from tinyagentos.gateway.tokens import agent_token, model_token
from tinyagentos.gateway.upstream import Upstream
from tinyagentos.model.errors import HostNotReady
from tinyagentos.model.provider import ModelChoice, Provider, ProviderKind, Usage, parse_model

KINDS = list(ProviderKind)
MESSAGE: dict[str, Any] = QUESTION | {"max_tokens": 100}


def events(text: str) -> list[dict[str, Any]]:
    """The JSON in a stream of events."""
    lines = (line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data:"))
    return [json.loads(line) for line in lines if line != "[DONE]"]


async def stream(ask: Asking, call: str, **more: Any) -> str:
    """A streamed answer as text."""
    async with ask.agent.post(f"/v1/{call}", json=MESSAGE | {"stream": True} | more) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "text/event-stream"
        return await response.text()


@pytest.mark.parametrize("kind", KINDS)
async def test_chat_with_each_kind_of_provider(ask: Asking, kind: ProviderKind) -> None:
    fake = await ask.add("one", kind)
    ask.choose("one/large")

    status, said = await ask.chat()
    assert status == 200
    assert said["choices"][0]["message"]["content"] == "Hello"
    assert fake.calls[-1][1]["model"] == "large"

    text = await stream(ask, "chat/completions")
    pieces = [one["choices"][0]["delta"].get("content", "") for one in events(text)]
    assert "".join(pieces) == "Hello"
    assert text.rstrip().endswith("data: [DONE]")
    assert ask.used == Usage(2, 0, 14, 10)


@pytest.mark.parametrize("kind", KINDS)
async def test_messages_with_each_kind_of_provider(ask: Asking, kind: ProviderKind) -> None:
    await ask.add("one", kind)
    ask.choose("one/large")

    status, said = await ask.post("messages", MESSAGE)
    assert status == 200
    assert said["content"] == [{"type": "text", "text": "Hello"}]

    found = events(await stream(ask, "messages"))
    assert [found[0]["type"], found[-1]["type"]] == ["message_start", "message_stop"]
    deltas = [one["delta"]["text"] for one in found if one["type"] == "content_block_delta"]
    assert deltas == ["Hel", "lo"]
    assert ask.used == Usage(2, 0, 14, 10)


async def test_a_stream_has_its_usage_only_when_it_was_asked_for(ask: Asking) -> None:
    await ask.add("one")
    ask.choose("one/large")
    plain = events(await stream(ask, "chat/completions"))
    asked = events(await stream(ask, "chat/completions", stream_options={"include_usage": True}))
    assert not any("usage" in one for one in plain)
    assert asked[-1]["usage"]["total_tokens"] == 12


async def test_embeddings_pass_through(ask: Asking) -> None:
    await ask.add("one")
    await ask.add("other", ProviderKind.anthropic)
    ask.choose("one/large")
    status, said = await ask.post("embeddings", {"model": "default", "input": "x"})
    assert (status, said["data"]) == (200, [{"embedding": [0.5]}])
    assert ask.used == Usage(1, 0, 3, 0)
    ask.choose("other/large")
    status, said = await ask.post("embeddings", {"model": "default", "input": "x"})
    assert status == 400
    assert "embeddings" in said["error"]["message"]


@pytest.mark.parametrize(
    ("wanted", "asked"),
    [("text-embedding-3-small", "b/text-embedding-3-small"), ("default", "b/x"), (None, "b/x"),
     ("", "b/x"), ("b/embed", "b/embed"), ("c/embed/v2", "c/embed/v2"), ("c/", "b/c/"),
     ("nomic-ai/embed", "b/nomic-ai/embed"), ("d/embed", "b/d/embed"), ("a/embed", "b/a/embed")],
)  # fmt: skip
def test_which_model_embeddings_are_asked_of(wanted: object, asked: str) -> None:
    kinds = {"a": ProviderKind.anthropic, "b": ProviderKind.openai, "c": ProviderKind.ollama,
             "d": ProviderKind.openai}  # fmt: skip
    providers = [Provider(name, kind, "http://x/v1") for name, kind in kinds.items()]
    models = [parse_model(one) for one in ("a/x", "b/x", "c/x")]
    assert str(embedding_model(wanted, models, providers)) == asked


async def test_embeddings_are_never_of_another_model_than_was_asked_for(ask: Asking) -> None:
    first = await ask.add("first", status=404, sentence="no such model")
    second = await ask.add("second")
    ask.choose("first/x", "second/y")
    status, said = await ask.post("embeddings", {"model": "embed", "input": "x"})
    assert (status, said["error"]["message"]) == (404, "no such model")
    assert first.calls[-1][1]["model"] == "embed"
    assert not second.calls


async def test_an_agent_sees_what_its_own_providers_have_and_nobody_is_asked_for_it(
    ask: Asking,
) -> None:
    for name in ("one", "two", "three"):
        await ask.add(name)
    await ask.providers.test("one")
    await ask.providers.test("three")
    for fake in ask.fakes:
        fake.status = 500
    asked = [len(fake.calls) for fake in ask.fakes]
    ask.choose("two/x", "one/large")
    async with ask.agent.get("/v1/models") as response:
        listed = await response.json()
    assert [one["id"] for one in listed["data"]] == ["default", "two/x", "one/large", "one/small"]
    ask.choose()
    async with ask.agent.get("/v1/models") as response:
        listed = await response.json()
    assert [one["id"] for one in listed["data"]] == ["default", "one/small", "one/large"]
    assert [len(fake.calls) for fake in ask.fakes] == asked


async def test_every_piece_is_there_before_the_next_is_sent(ask: Asking) -> None:
    """No buffering: the provider sends a piece only when the agent has the one before."""
    arrived = [asyncio.Event() for _ in range(6)]

    async def after_the_last(number: int) -> None:
        if 0 < number < 3:
            await asyncio.wait_for(arrived[number - 1].wait(), 5)

    await ask.add("one", says=("a", "b", "c"), wait=after_the_last)
    ask.choose("one/large")
    seen = 0
    async with ask.agent.post("/v1/chat/completions", json=QUESTION | {"stream": True}) as response:
        async for line in response.content:
            if b'"content"' in line:
                arrived[seen].set()
                seen += 1
    assert seen == 3


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503, 302])
async def test_the_next_model_takes_over(ask: Asking, status: int) -> None:
    first = await ask.add("first", status=status, sentence="not today")
    second = await ask.add("second")
    ask.choose("first/a", "second/b")
    answered, said = await ask.chat()
    assert (answered, said["choices"][0]["message"]["content"]) == (200, "Hello")
    assert len(first.calls) == len(second.calls) == 1
    assert ask.used == Usage(1, 0, 7, 5)


async def test_a_provider_that_is_not_there_or_goes_away_is_passed_over(ask: Asking) -> None:
    gone = await ask.add("gone", breaks_after=0)
    broken = await ask.add("broken", raw=b"not json")
    await ask.add("fine")
    ask.choose("never-added/x", "gone/a", "broken/b", "fine/c")
    assert (await ask.chat())[0] == 200
    assert "Hel" in await stream(ask, "chat/completions")
    assert gone.calls
    assert broken.calls


async def test_a_bad_question_is_answered_in_the_providers_words_at_once(ask: Asking) -> None:
    await ask.add("first", status=400, sentence=f"too long, says {KEY}")
    second = await ask.add("second")
    ask.choose("first/a", "second/b")
    for call in ("chat/completions", "messages"):
        status, said = await ask.post(call, MESSAGE)
        assert (status, said["error"]["message"]) == (400, "too long, says …")
    assert not second.calls
    assert ask.used == Usage(2, 2, 0, 0)


@pytest.mark.parametrize(
    ("status", "answered"), [(401, 502), (403, 502), (429, 429), (500, 502), (302, 502)]
)
async def test_why_no_model_answered(ask: Asking, status: int, answered: int) -> None:
    await ask.add("only", status=status, sentence=f"bad key {KEY}")
    ask.choose("only/a")
    got, said = await ask.chat()
    assert got == answered
    assert "only" in said["error"]["message"]
    assert KEY not in json.dumps(said)


async def test_a_provider_that_hangs_is_given_up(tmp_path: Path) -> None:
    async with asking(tmp_path, Limits(silent_within=0.2)) as ask:
        await ask.add("slow", wait=never)
        await ask.add("fine")
        ask.choose("slow/a", "fine/b")
        assert "Hel" in await stream(ask, "chat/completions")
        ask.choose("slow/a")
        status, said = await ask.chat(stream=True)
        assert (status, said["error"]["type"]) == (504, "timeout_error")


@pytest.mark.parametrize("call", ["chat/completions", "messages"])
@pytest.mark.parametrize("kind", [ProviderKind.openai, ProviderKind.anthropic])
async def test_an_answer_that_breaks_off_says_so(
    ask: Asking, call: str, kind: ProviderKind
) -> None:
    await ask.add("one", kind, breaks_after=3, says=("a", "b", "c", "d"))
    other = await ask.add("other")
    ask.choose("one/x", "other/y")
    found = events(await stream(ask, call))
    assert "broke off" in found[-1]["error"]["message"]
    assert not other.calls  # what was said cannot be taken back
    assert ask.used.errors == 1


async def test_an_agent_that_leaves_ends_the_question(ask: Asking) -> None:
    left = asyncio.Event()

    async def until_left(number: int) -> None:
        if number:
            try:
                await asyncio.sleep(30)
            finally:
                left.set()

    await ask.add("one", wait=until_left)
    ask.choose("one/x")
    response = await ask.agent.post("/v1/chat/completions", json=QUESTION | {"stream": True})
    await response.content.readline()
    response.close()
    await asyncio.wait_for(left.wait(), 5)
    for _ in range(100):
        if ask.used.requests:
            break
        await asyncio.sleep(0.02)
    assert ask.used.requests == 1


@pytest.mark.parametrize(
    "token",
    ["", "nonsense", model_token(b"x" * 32, AGENT), agent_token(HOST_KEY, AGENT),
     model_token(HOST_KEY, "other-123456"), f"{AGENT}.", model_token(HOST_KEY, AGENT)[:-1]],
)  # fmt: skip
async def test_a_wrong_token_gets_nothing(ask: Asking, token: str) -> None:
    fake = await ask.add("one")
    for headers in (
        {"Authorization": f"Bearer {token}"},
        {"Authorization": "", "x-api-key": token},
    ):
        assert (await ask.post("chat/completions", QUESTION, headers))[0] == 401
        async with ask.agent.get("/v1/models", headers=headers) as response:
            assert response.status == 401
    assert not fake.calls
    assert ask.used == Usage()


async def test_the_token_may_come_as_anthropics_clients_send_it(ask: Asking) -> None:
    await ask.add("one", ProviderKind.anthropic)
    ask.choose("one/x")
    headers = {"Authorization": "", "x-api-key": model_token(HOST_KEY, AGENT)}
    assert (await ask.post("messages", MESSAGE, headers))[0] == 200


async def test_the_provider_hears_the_hosts_key_and_nothing_of_the_agents(ask: Asking) -> None:
    for name, kind in (("a", ProviderKind.openai), ("b", ProviderKind.anthropic)):
        fake = await ask.add(name, kind)
        ask.choose(f"{name}/x")
        headers = {"Cookie": "agent=1", "X-Secret": "agents", "User-Agent": "agents"}
        assert (await ask.post("chat/completions", QUESTION, headers))[0] == 200
        heard = json.dumps(fake.headers[-1])
        assert KEY in heard
        assert "agents" not in heard
        assert model_token(HOST_KEY, AGENT) not in heard


async def test_a_budget_ends_questions_until_the_next_month(ask: Asking) -> None:
    fake = await ask.add("one")
    ask.choose("one/x", budget=20)
    assert [(await ask.chat())[0] for _ in range(3)] == [200, 200, 429]
    assert len(fake.calls) == 2
    assert (await ask.chat())[1]["error"]["type"] == "insufficient_quota"
    ask.now = NOW.replace(month=6)
    assert (await ask.chat())[0] == 200


async def test_without_a_provider_the_sentence_says_what_to_do(
    ask: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing() -> None:
        return None

    monkeypatch.setattr(ask.providers, "_find_ollama", nothing)
    status, said = await ask.chat()
    assert status == 404
    assert "taos provider add" in said["error"]["message"]


async def test_an_agent_that_chose_nothing_uses_the_default(ask: Asking) -> None:
    fake = await ask.add("one")
    assert (await ask.chat())[0] == 200
    assert [call for call, _ in fake.calls] == ["models", "chat/completions"]
    assert fake.calls[-1][1]["model"] == "small"
    assert (await ask.providers.list_providers())[0].model == "small"


async def test_an_agent_may_name_one_of_its_models_and_no_other(ask: Asking) -> None:
    fake = await ask.add("one")
    ask.choose("one/a", "one/b")
    for wanted, used in (("one/b", "b"), ("one/a", "a"), ("gpt-4", "a"), (7, "a")):
        await ask.chat(model=wanted)
        assert fake.calls[-1][1]["model"] == used
    async with ask.agent.get("/v1/models") as response:
        listed = await response.json()
    assert [one["id"] for one in listed["data"]] == ["default", "one/a", "one/b"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"1", b'{"messages": 5}', b"[" * 100_000, b'{"messages": [{"role": 1}]}',
     b'{"messages": [], "stream_options": 5, "stream": true}', b"\xff\xfe"],
)  # fmt: skip
@pytest.mark.parametrize("kind", KINDS)
async def test_nonsense_is_refused_and_harms_nothing(
    ask: Asking, body: bytes, kind: ProviderKind
) -> None:
    await ask.add("one", kind)
    ask.choose("one/x")
    for call in ("chat/completions", "messages"):
        async with ask.agent.post(f"/v1/{call}", data=body) as response:
            assert response.status in (200, 400), await response.text()
    assert (await ask.chat())[0] == 200


@pytest.mark.parametrize("raw", [b"{}", b"[]", b'{"choices": []}', b'{"content": 5}', b"\xff"])
@pytest.mark.parametrize("kind", KINDS)
async def test_an_answer_that_cannot_be_read_is_the_providers_fault(
    ask: Asking, raw: bytes, kind: ProviderKind
) -> None:
    await ask.add("one", kind, raw=raw)
    ask.choose("one/x")
    for call in ("chat/completions", "messages"):
        status, said = await ask.post(call, MESSAGE)
        assert status == 502 or (status == 200 and json.dumps(said) == raw.decode())


async def test_how_much_an_agent_may_ask_at_once(tmp_path: Path) -> None:
    async with asking(tmp_path, Limits(at_once=2)) as ask:
        await ask.add("one", wait=never)
        ask.choose("one/x")
        async with under_way(ask, 2):
            status, said = await ask.chat()
            assert (status, said["error"]["type"]) == (429, "rate_limit_error")
            async with ask.agent.get("/v1/models") as response:
                assert response.status == 429


async def test_a_question_that_is_too_large(ask: Asking) -> None:
    await ask.add("one")
    ask.choose("one/x")
    body = b'{"messages": "' + b"x" * (USUAL.question_bytes + 10) + b'"}'
    # It may be cut off while it is still sending.
    with contextlib.suppress(aiohttp.ClientError):
        async with ask.agent.post("/v1/chat/completions", data=body) as response:
            assert response.status == 413
    assert not ask.fakes[0].calls


async def test_only_root_can_open_the_socket_and_it_goes_with_the_gateway(
    ask: Asking, tmp_path: Path
) -> None:
    socket = tmp_path / "gateway.sock"
    assert stat.S_IMODE(socket.stat().st_mode) == 0o600
    await ask.stack.aclose()
    assert not socket.exists()


async def test_while_nobody_knows_its_models_an_agent_is_told_to_wait(
    ask: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_: str) -> ModelChoice:
        raise HostNotReady("Incus does not answer.", hint="Wait.")

    monkeypatch.setattr(ask.gateway, "_access_of", away)
    status, said = await ask.chat()
    assert (status, said["error"]["message"]) == (503, "Incus does not answer.")


async def test_when_an_agent_last_asked(ask: Asking) -> None:
    await ask.add("one")
    assert ask.gateway.last_used(AGENT) is None
    await ask.chat()
    assert ask.gateway.last_used(AGENT) == NOW


async def test_what_one_provider_has_no_words_for_another_may_answer(ask: Asking) -> None:
    first = await ask.add("first", ProviderKind.anthropic)
    second = await ask.add("second")
    ask.choose("first/a", "second/b")
    assert (await ask.chat(n=2))[0] == 200
    assert second.calls[-1][1]["n"] == 2
    ask.choose("first/a")
    status, said = await ask.chat(n=2)
    assert (status, "`n`" in said["error"]["message"]) == (400, True)
    assert not first.calls


@pytest.mark.parametrize(
    ("url", "name"),
    [("https://api.openai.com/v1", "max_completion_tokens"), ("http://box:8080/v1", "max_tokens")],
)
def test_the_limit_of_an_answer_is_named_as_the_provider_knows_it(url: str, name: str) -> None:
    upstream = Upstream(Provider("one", ProviderKind.openai, url), "")
    assert upstream.fitted({"model": "m", "max_tokens": 5}) == {"model": "m", name: 5}
