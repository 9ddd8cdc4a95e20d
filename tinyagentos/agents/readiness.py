"""Whether an agent answers: asked through its socket on the host, at its own readiness path."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from tinyagentos.agents.order import FRAMEWORK_KEY
from tinyagentos.incus import Instance
from tinyagentos.model.errors import NotReady
from tinyagentos.model.recipe import Recipe

ASK_EVERY = 0.1
ASK_WITHIN = 2.0
LOOK_EVERY = 2.0


@dataclass(frozen=True)
class Answer:
    """What the agent said when asked; status 0 when it did not answer."""

    status: int
    said: str

    @property
    def is_ready(self) -> bool:
        """Whether the agent called itself ready."""
        return self.status == 200


Ask = Callable[[], Awaitable[Answer]]
HEALTH_WITHIN = 1.0
MOST_SAID = 300
Look = Callable[[], Awaitable[str]]


def open_agent(socket: Path) -> aiohttp.ClientSession:
    """A session of HTTP to the agent behind the socket; the caller closes it.

    What is behind the socket may be hostile: it is not asked for anything packed, and what it
    packs nevertheless is not unpacked; no cookie of it is kept.
    """
    return aiohttp.ClientSession(
        "http://agent",
        connector=aiohttp.UnixConnector(str(socket)),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept-Encoding": "identity"},
        auto_decompress=False,
    )


async def ask(agent: aiohttp.ClientSession, path: str, *, within: float = ASK_WITHIN) -> Answer:
    """Ask the agent once; whatever it does is an Answer."""
    limit = aiohttp.ClientTimeout(total=within)
    try:
        async with agent.get(path, timeout=limit, allow_redirects=False) as response:
            said = (await response.content.read(MOST_SAID)).decode(errors="replace")
            return Answer(response.status, f"{response.status} {_printable(said)}".strip())
    except TimeoutError:
        return Answer(0, f"no answer within {within:.0f} s")
    except Exception as error:
        # What reading a stranger's bytes raises is nobody's list: one agent's must not end the
        # watching of all.
        return Answer(0, f"no answer ({type(error).__name__})")


def _printable(said: str) -> str:
    """On one line, without what would steer a terminal."""
    return "".join(one if one.isprintable() else " " for one in said)


def health_asker(
    recipes: Mapping[str, Recipe], socket: Callable[[str], Path]
) -> Callable[[Instance], Awaitable[Answer]]:
    """What asks an agent once whether it is well; socket: where an instance's door is."""

    async def ask_health(instance: Instance) -> Answer:
        recipe = recipes.get(instance.config.get(FRAMEWORK_KEY, ""))
        if recipe is None:
            return Answer(0, "this taOS does not know its framework")
        async with open_agent(socket(instance.name)) as agent:
            return await ask(agent, recipe.agent.ready_path, within=HEALTH_WITHIN)

    return ask_health


async def wait_ready(
    ask_agent: Ask, look_for_failure: Look, *, within: float, report: Callable[[str], None]
) -> None:
    """Return as soon as the agent calls itself ready.

    look_for_failure is called every two seconds and returns why the agent cannot become ready, or
    nothing. within: seconds. Raises NotReady with the last answer.
    """
    deadline = time.monotonic() + within
    next_look = time.monotonic() + LOOK_EVERY
    while True:
        answer = await ask_agent()
        if answer.is_ready:
            return
        report(answer.said)
        now = time.monotonic()
        if now >= deadline:
            raise NotReady(
                f"The agent did not become ready within {within:.0f} s; "
                f"its last answer: {answer.said}.",
                hint="A slow machine may need longer: set `ready_within`. The job has the log.",
            )
        if now >= next_look:
            if why := await look_for_failure():
                raise NotReady(why, hint="The job has the end of the agent's log.")
            next_look = time.monotonic() + LOOK_EVERY
        # The agent has no way to call us; a refused connection costs it nothing.
        await asyncio.sleep(ASK_EVERY)
