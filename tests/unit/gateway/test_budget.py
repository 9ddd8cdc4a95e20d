"""What is counted of an agent's questions, and what its budget lets pass."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.provider import never
from tests.unit.gateway.conftest import AGENT, QUESTION, Asking, asking, under_way
from tinyagentos.gateway.accounts import months_before
from tinyagentos.gateway.limits import Limits
from tinyagentos.gateway.reading import USUAL_MOST_TOKENS
from tinyagentos.model.provider import ProviderKind, Usage

KINDS = [ProviderKind.openai, ProviderKind.anthropic]
CALLS = ["chat/completions", "messages"]
LONG = QUESTION | {"messages": [{"role": "user", "content": "w" * 4000}], "max_tokens": 100}
# 4000 bytes and what is around them; 8 bytes of the answer.
ASKED, ANSWERED = range(1000, 1050), 2


async def counted(ask: Asking, requests: int = 1) -> Usage:
    """What was used, once so many requests have ended."""
    async with asyncio.timeout(5):
        while ask.used.requests < requests:
            await asyncio.sleep(0.01)
    return ask.used


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_provider_that_does_not_tell_is_estimated(
    ask: Asking, kind: ProviderKind, call: str, streams: bool
) -> None:
    await ask.add("one", kind, tells=False, says=("Hell", "oooo"))
    ask.choose("one/x")
    async with ask.agent.post(f"/v1/{call}", json=LONG | {"stream": streams}) as response:
        assert response.status == 200
        await response.read()
    used = await counted(ask)
    assert used.input_tokens in ASKED
    assert (used.output_tokens, used.errors) == (ANSWERED, 0)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", KINDS)
async def test_an_agent_that_hangs_up_before_the_usage_comes_has_used_it_all_the_same(
    ask: Asking, kind: ProviderKind, call: str
) -> None:
    """It has the whole answer then: the reason why it ended is the last before the usage."""
    says = ("1234",) * 50
    last = len(says) + (3 if kind is ProviderKind.anthropic else 1)

    async def no_usage(number: int) -> None:
        if number == last:
            await never(number)

    await ask.add("one", kind, says=says, wait=no_usage)
    ask.choose("one/x")
    async with ask.agent.post(f"/v1/{call}", json=LONG | {"stream": True}) as response:
        text = ""
        while text.count("1234") < len(says):
            text += (await response.content.readline()).decode()
    used = await counted(ask)
    told = {ProviderKind.anthropic: range(7, 8), ProviderKind.openai: ASKED}[kind]
    assert used.input_tokens in told
    assert used.output_tokens == 50
    assert used.errors == 0


async def test_an_agent_that_hangs_up_before_an_answer_has_asked(ask: Asking) -> None:
    fake = await ask.add("one", wait=never)
    ask.choose("one/x")
    task = asyncio.create_task(ask.post("chat/completions", LONG | {"stream": True}))
    while not fake.calls:
        await asyncio.sleep(0.01)
    task.cancel()
    used = await counted(ask)
    assert used.input_tokens in ASKED
    assert used.output_tokens == 0


@pytest.mark.parametrize("status", [401, 429, 500, 400])
async def test_what_a_provider_refused_is_not_counted(ask: Asking, status: int) -> None:
    await ask.add("one", status=status)
    ask.choose("one/x", "never-added/y")
    await ask.post("chat/completions", LONG)
    assert ask.used == Usage(1, 1, 0, 0)


@pytest.mark.parametrize("call", CALLS)
async def test_an_answer_that_the_agent_does_not_get_is_counted(tmp_path: Path, call: str) -> None:
    """Or an agent could have models work for nothing: it makes its answers too large, or broken."""
    used = {"prompt_tokens": 9, "completion_tokens": 3}
    broken = {"id": "t", "function": {"name": "w", "arguments": "{"}}
    choices = [{"message": {"tool_calls": [broken]}, "finish_reason": "tool_calls"}]
    for whole in ({"choices": choices}, {"choices": choices, "usage": used}, {"x": "y" * 400_000}):
        async with asking(tmp_path, Limits(agent_bytes=1_000_000)) as ask:
            before = ask.used
            await ask.add("one", raw=json.dumps(whole).encode())
            ask.choose("one/x")
            await ask.post(call, LONG)
            told = range(9, 10) if "usage" in whole else ASKED
            assert ask.used.input_tokens - before.input_tokens in told


async def test_an_error_as_a_whole_answer_is_none(ask: Asking) -> None:
    await ask.add("one", raw=b'{"error": {"message": "Overloaded", "code": 502}}')
    await ask.add("two")
    ask.choose("one/x", "two/x")
    assert (await ask.chat())[0] == 200
    assert ask.used == Usage(1, 0, 7, 5)
    ask.choose("one/x")
    status, said = await ask.chat()
    assert (status, said["error"]["message"]) == (502, "one/x broke off: Overloaded")


def event(**body: Any) -> bytes:
    """One event."""
    return b"data: " + json.dumps(body).encode() + b"\n\n"


async def test_a_model_that_broke_off_counts_beside_the_one_that_took_over(ask: Asking) -> None:
    begun = {"id": "m", "usage": {"input_tokens": 40, "output_tokens": 2}}
    error = {"type": "overloaded_error", "message": "Overloaded"}
    await ask.add("one", ProviderKind.anthropic, events=(
        event(type="message_start", message=begun), event(type="error", error=error),
    ))  # fmt: skip
    await ask.add("two")
    ask.choose("one/x", "two/x")
    assert (await ask.chat(stream=True))[0] == 200
    assert await counted(ask) == Usage(1, 0, 47, 7)


async def test_the_last_of_several_totals_counts_once(ask: Asking) -> None:
    used = [{"prompt_tokens": 9, "completion_tokens": made} for made in (1, 2, 3)]
    pieces = [event(choices=[{"delta": {"content": "x"}}], usage=one) for one in used]
    end = event(choices=[{"delta": {}, "finish_reason": "stop"}])
    await ask.add("one", events=(*pieces, end))
    ask.choose("one/x")
    assert (await ask.chat(stream=True))[0] == 200
    assert await counted(ask) == Usage(1, 0, 9, 3)


async def test_numbers_that_no_provider_can_mean_are_no_numbers(ask: Asking) -> None:
    for prompt in (10**40, -5, "7", None, [1]):
        used = {"prompt_tokens": prompt, "completion_tokens": prompt}
        choice = {"message": {"content": "x"}, "finish_reason": "stop"}
        raw = json.dumps({"choices": [choice], "usage": used}).encode()
        ask.choose("one/x")
        await ask.add("one", raw=raw)
        assert (await ask.chat())[0] == 200
    assert 0 <= ask.used.tokens < 10**13


@pytest.mark.parametrize("streams", [True, False])
async def test_of_sixteen_at_once_a_budget_with_room_for_one_lets_one_pass(
    ask: Asking, streams: bool
) -> None:
    fake = await ask.add("one", wait=never if streams else None)
    ask.choose("one/x", budget=50)
    asked = [asyncio.create_task(ask.chat(stream=streams)) for _ in range(16)]
    if streams:
        done, waiting = await asyncio.wait(asked, timeout=1)
        assert (len(done), len(waiting), len(fake.calls)) == (15, 1, 1)
        answers = [one.result() for one in done]
        assert {(status, said["error"]["type"]) for status, said in answers} == {
            (429, "rate_limit_error")
        }
        for one in waiting:
            one.cancel()
        await counted(ask, 16)
    else:
        await asyncio.gather(*asked)
        assert ask.used.tokens <= 50 + 12
    fake.wait = None
    assert (await ask.chat())[0] == 200


async def test_what_a_question_may_use_is_kept_for_it_and_given_back(ask: Asking) -> None:
    await ask.add("one", wait=never)
    budget = USUAL_MOST_TOKENS + 1000
    for asked, passes in (({}, True), ({"max_tokens": budget}, False), ({"n": 2}, False)):
        ask.choose("one/x", budget=budget)
        async with under_way(ask, 1, **asked):
            task = asyncio.create_task(ask.chat(stream=True))
            await asyncio.wait([task], timeout=0.3)
            assert task.done() is not passes, asked
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize(
    ("month", "number", "before"),
    [("2026-05", 13, "2025-04"), ("2026-01", 1, "2025-12"), ("2026-12", 12, "2025-12"),
     ("2026-05", 0, "2026-05")],
)  # fmt: skip
def test_months_before(month: str, number: int, before: str) -> None:
    assert months_before(month, number) == before


def test_what_nobody_asks_for_any_more_is_forgotten(ask: Asking) -> None:
    used = Usage(1, 0, 10, 5)
    kept = ["2025-04", "2026-04", "2026-05"]
    for month in ("2020-01", "2025-03", *kept):
        for agent in (AGENT, "gone-123456"):
            ask.usage.add(agent, month, used)
    ask.gateway.tidy({AGENT, "another-123456"})
    assert [month for month, _ in ask.usage.list_months(AGENT)] == kept
    # An agent that is only missed for a moment must not have its budget anew.
    assert [month for month, _ in ask.usage.list_months("gone-123456")] == ["2026-05"]
    ask.now = ask.now.replace(month=6)
    ask.gateway.tidy({AGENT})
    assert ask.usage.list_months("gone-123456") == ()


async def test_a_budget_is_no_hindrance_to_others(ask: Asking) -> None:
    await ask.add("one", wait=never)
    ask.choose("one/x", budget=1)
    async with under_way(ask, 1):
        ask.choose("one/x")
        async with under_way(ask, 3):
            assert ask.gateway.last_used(AGENT) == ask.now
