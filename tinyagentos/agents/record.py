"""Which instance is an agent: the one place that looks an agent up by its name.

An instance says in its configuration whose it is; its own name is never parsed for that. Everything
that takes an agent's name asks here, so everybody refuses the same and in the same words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tinyagentos.agents.order import AGENT_KEY
from tinyagentos.agents.roles import ROLE_KEY
from tinyagentos.incus import Incus, Instance
from tinyagentos.model.errors import Conflict, NotFound


def is_agent(instance: Instance) -> bool:
    """Whether the instance is an agent, and not the old or the coming root of one."""
    return AGENT_KEY in instance.config and not instance.config.get(ROLE_KEY)


def no_agent(name: str) -> NotFound:
    """There is no agent of that name."""
    return NotFound(f"There is no agent {name[:60]!r}.", hint="`taos agent list` shows the agents.")


def say_shared(name: str, instances: Iterable[str]) -> str:
    """The sentence that several instances are the agent of that name."""
    return f"The agent {name!r} is several instances: {', '.join(sorted(instances))}."


def ambiguous(name: str, instances: Iterable[str], project: str) -> Conflict:
    """Several instances are the agent of that name; the hint says how to put that right.

    project: the Incus project they are in.
    """
    incus = f"incus --project {project}"
    return Conflict(
        say_shared(name, instances),
        hint=f"Look at them with `{incus} list`. Give the one that is not {name!r} a name of its "
        f"own (`{incus} config set INSTANCE {AGENT_KEY}=NAME`), or remove it "
        f"(`{incus} delete --force INSTANCE`). Until then nothing is done to either.",
    )


def pick_agent(name: str, found: Sequence[Instance], project: str) -> Instance | None:
    """The agent of that name among the instances of the project, or None.

    Raises Conflict when several instances are that agent.
    """
    named = [one for one in found if is_agent(one) and one.config[AGENT_KEY] == name]
    if len(named) > 1:
        raise ambiguous(name, (one.name for one in named), project)
    return named[0] if named else None


def shared_names(found: Iterable[Instance]) -> Mapping[str, tuple[str, ...]]:
    """The names that several instances have as an agent, with those instances' own names."""
    by_name: dict[str, tuple[str, ...]] = {}
    for one in filter(is_agent, found):
        name = one.config[AGENT_KEY]
        by_name[name] = (*by_name.get(name, ()), one.name)
    return {name: several for name, several in by_name.items() if len(several) > 1}


def certain_agents(found: Sequence[Instance]) -> tuple[Instance, ...]:
    """The agents among the instances, without those that share a name."""
    shared = shared_names(found)
    return tuple(one for one in found if is_agent(one) and one.config[AGENT_KEY] not in shared)


async def find_agent(name: str, incus: Incus) -> Instance | None:
    """The agent's instance as Incus has it now, or None; Conflict when there are several."""
    return pick_agent(name, await incus.instances.list(), incus.project)
