"""What every agent has under way, and what it used.

A request holds memory and tokens of the month's budget until its end: what many at once would use
is known before the first of them has an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from tinyagentos.gateway.dialects import Exchange
from tinyagentos.gateway.limits import Limits
from tinyagentos.gateway.refusal import Refusal
from tinyagentos.model.provider import Usage
from tinyagentos.store.providers import UsageTable

KEPT_MONTHS = 13


@dataclass(eq=False)
class Tally:
    """What becomes of one request, and what it holds of the host until then."""

    agent: str
    is_question: bool = False
    exchanges: list[Exchange] = field(default_factory=list)
    failed: bool = False
    weight: int = 0
    reserved: int = 0

    @property
    def used(self) -> Usage:
        """What is counted of it: the tokens of every model that was asked."""
        return Usage(
            requests=1,
            errors=int(self.failed),
            input_tokens=sum(one.tokens[0] for one in self.exchanges),
            output_tokens=sum(one.tokens[1] for one in self.exchanges),
        )


class Accounts:
    """The requests of all agents that are under way. Nothing here waits."""

    def __init__(self, usage: UsageTable, now: Callable[[], datetime], limits: Limits) -> None:
        self._usage = usage
        self._now = now
        self._limits = limits
        self._open: dict[str, list[Tally]] = {}
        self._weight = 0
        self._ended: dict[str, datetime] = {}

    def last_used(self, agent: str) -> datetime | None:
        """When the agent last had a question under way: now, when it has; None: not seen."""
        if any(one.is_question for one in self._open.get(agent, ())):
            return self._now()
        return self._ended.get(agent)

    @contextmanager
    def request(self, agent: str) -> Iterator[Tally]:
        """A request of the agent while it lasts; Refusal when it has too many under way."""
        under_way = self._open.setdefault(agent, [])
        if len(under_way) >= self._limits.at_once:
            sentence = f"An agent may ask {self._limits.at_once} things at once."
            raise Refusal(429, "rate_limit_error", sentence)
        tally = Tally(agent)
        under_way.append(tally)
        try:
            yield tally
        finally:
            under_way.remove(tally)
            self._weight -= tally.weight
            if not under_way:
                del self._open[agent]

    @contextmanager
    def question(self, agent: str) -> Iterator[Tally]:
        """The same for a question, which is counted however it ends."""
        with self.request(agent) as tally:
            tally.is_question = True
            try:
                yield tally
            except Refusal:
                tally.failed = True
                raise
            finally:
                self._ended[agent] = self._now()
                self._usage.add(agent, self.month, tally.used)

    def hold(self, tally: Tally, size_bytes: int) -> None:
        """Count so much more memory for the request; Refusal when that is too much."""
        tally.weight += size_bytes
        self._weight += size_bytes
        if tally.weight > self._limits.agent_bytes:
            sentence = "The question, or its answer, is too large."
            raise Refusal(413, "request_too_large", sentence, is_final=True)
        if sum(one.weight for one in self._open[tally.agent]) > self._limits.agent_bytes:
            sentence = "The questions of this agent are too large to be asked at once."
            raise Refusal(429, "rate_limit_error", sentence, is_final=True)
        if self._weight > self._limits.host_bytes:
            sentence = "The host is answering too much at once."
            raise Refusal(429, "rate_limit_error", sentence, is_final=True)

    def reserve(self, tally: Tally, tokens: int, budget: int) -> None:
        """Keep so many tokens of the month's budget (0: there is none) for the question.

        Refusal when nothing is left: a question may end over the budget, the next is not asked.
        """
        if not budget:
            return
        used = self._usage.get(tally.agent, self.month).tokens
        if used >= budget:
            sentence = f"This agent's budget of {budget} tokens for this month is used up."
            raise Refusal(429, "insufficient_quota", sentence)
        if used + sum(one.reserved for one in self._open[tally.agent]) >= budget:
            sentence = "What is left of this agent's budget is kept for its questions under way."
            raise Refusal(429, "rate_limit_error", sentence)
        tally.reserved = tokens

    def tidy(self, instances: Collection[str]) -> None:
        """Forget what is over a year old, and agents that are not among the instances.

        But not what these used this month: who is only missed for a moment keeps its budget.
        """
        self._usage.drop_before(months_before(self.month, KEPT_MONTHS))
        self._usage.drop_gone(instances, self.month)
        self._ended = {one: at for one, at in self._ended.items() if one in instances}

    @property
    def month(self) -> str:
        """The month that is counted in (`2026-05`)."""
        return f"{self._now():%Y-%m}"


def months_before(month: str, number: int) -> str:
    """The month (`2026-05`) so many before."""
    year, of_year = map(int, month.split("-"))
    months = year * 12 + of_year - 1 - number
    return f"{months // 12:04}-{months % 12 + 1:02}"
