"""Which models an agent uses. Kept with its instance, so it goes wherever the agent goes."""

from __future__ import annotations

import time
from collections.abc import Callable

from tinyagentos.agents import instances
from tinyagentos.agents.host import Host
from tinyagentos.agents.model_keys import read_choice, write_choice
from tinyagentos.agents.network import read_policy
from tinyagentos.agents.order import AGENT_KEY
from tinyagentos.agents.requests import agent_subject, get_instance
from tinyagentos.gateway.providers import Providers
from tinyagentos.incus import Incus, IncusError
from tinyagentos.model.errors import Conflict, HostNotReady, InvalidInput
from tinyagentos.model.provider import AgentModels, ModelAccess, ModelChoice, check_choice
from tinyagentos.store.providers import UsageTable

# What was changed elsewhere, such as the network policy, is seen after this many seconds.
FRESH = 5.0


class Choices:
    """What instances may ask of models, for the gateway: read once in a while, kept between."""

    def __init__(self, incus: Incus, clock: Callable[[], float] = time.monotonic) -> None:
        self._incus = incus
        self._clock = clock
        self._known: dict[str, tuple[float, ModelAccess]] = {}

    async def __call__(self, instance: str) -> ModelAccess | None:
        """What the agent with that instance may ask of models; None when there is no such agent.

        While Incus is away the last known one is used: agents go on without it. Raises
        HostNotReady when none is known.
        """
        read_at, known = self._known.get(instance, (0.0, None))
        if known is not None and self._clock() - read_at < FRESH:
            return known
        try:
            found = await self._incus.instances.find(instance)
        except IncusError:
            if known is not None:
                return known
            raise HostNotReady(
                "Incus does not answer, so this agent's models are not known.",
                hint="Run `taos doctor`.",
            ) from None
        if found is None or AGENT_KEY not in found.config:
            self.forget(instance)
            return None
        access = ModelAccess(read_choice(found.config), read_policy(found.config).internet)
        self._known[instance] = self._clock(), access
        return access

    def forget(self, instance: str) -> None:
        """Read the instance's choice anew."""
        self._known.pop(instance, None)


class Models:
    """What agents use of models."""

    def __init__(
        self, host: Host, providers: Providers, usage: UsageTable, choices: Choices
    ) -> None:
        self._host = host
        self._providers = providers
        self._usage = usage
        self._choices = choices

    async def get(self, name: str) -> AgentModels:
        """The agent's models and what it used this month; NotFound when there is no such agent."""
        instance = await get_instance(name, self._host)
        month = f"{self._host.now():%Y-%m}"
        return AgentModels(
            read_choice(instance.config),
            self._usage.get(instance.name, month),
            self._usage.list_months(instance.name),
        )

    async def choose(self, name: str, choice: ModelChoice) -> AgentModels:
        """Have the agent use these models from its next question on; nothing is restarted.

        Raises NotFound for an agent or provider that is not there, InvalidInput, or Conflict while
        a job is at work on the agent.
        """
        await self._check(choice)
        instance = await get_instance(name, self._host)
        self._check_at_rest(name)
        await instances.set_config(instance.name, write_choice(choice), self._host)
        self._choices.forget(instance.name)
        # A job that began meanwhile may have copied the old choice to a new root already.
        self._check_at_rest(name)
        chosen = await self.get(name)
        if chosen.choice != choice:
            raise Conflict(
                f"Agent {name!r} was changed at the same moment.", hint="Look, and choose again."
            )
        return chosen

    def _check_at_rest(self, name: str) -> None:
        if job := self._host.runner.find_active(agent_subject(name)):
            raise Conflict(
                f"A {job.kind} job is at work on agent {name!r}.",
                hint=f"Wait for it, then choose: `taos job watch {job.id}`.",
            )

    async def _check(self, choice: ModelChoice) -> None:
        check_choice(choice)
        known = {one.name for one in await self._providers.list_providers()}
        for model in choice.models:
            if model.provider not in known:
                raise InvalidInput(
                    f"There is no provider {model.provider!r}.",
                    hint="Add it with `taos provider add`, or see `taos provider list`.",
                )
