"""A shell in an agent's instance: opened for a person, ended when the person has gone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from tinyagentos.agents.host import Host
from tinyagentos.agents.order import HOME
from tinyagentos.agents.requests import get_instance
from tinyagentos.factory.smoke import AGENT_ENV, AGENT_UID
from tinyagentos.incus import Terminal
from tinyagentos.model.errors import Conflict

SHELL = ("bash", "-l")
USER = {**AGENT_ENV, "TERM": "xterm-256color", "USER": "agent"}
ROOT = {"TERM": "xterm-256color", "USER": "root", "HOME": "/root"}


class Shells:
    """Terminals in the agents of this host."""

    def __init__(self, host: Host) -> None:
        self._host = host

    @asynccontextmanager
    async def open(
        self,
        name: str,
        command: Sequence[str] = (),
        *,
        width: int = 80,
        height: int = 24,
        as_root: bool = False,
    ) -> AsyncIterator[Terminal]:
        """A command on a terminal, without one a login shell; it is killed when the block ends.

        Raises NotFound, Conflict when the agent does not run, and what Incus raises.
        """
        instance = await get_instance(name, self._host)
        if not instance.is_running:
            raise Conflict(
                f"Agent {name!r} is not running.", hint=f"Start it: `taos agent start {name}`."
            )
        user = 0 if as_root else AGENT_UID
        shell = self._host.incus.instances.exec_interactive(
            instance.name,
            tuple(command) or SHELL,
            env=ROOT if as_root else USER,
            user=user,
            group=user,
            cwd="/root" if as_root else HOME,
            width=width,
            height=height,
        )
        with self._host.uses.using(instance.name):
            async with shell as terminal:
                yield terminal
