"""Talking to an agent as its own clients do: through its door, with the token only the host has."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import aiohttp

from tinyagentos.agents.host import Host
from tinyagentos.agents.model_keys import read_choice
from tinyagentos.agents.order import FRAMEWORK_KEY
from tinyagentos.agents.readiness import open_agent
from tinyagentos.agents.requests import get_instance
from tinyagentos.gateway.events import Events, data_of
from tinyagentos.gateway.providers import Providers
from tinyagentos.gateway.tokens import agent_token
from tinyagentos.model.errors import Conflict, InvalidInput, Unavailable
from tinyagentos.model.recipe import AgentChat

LONGEST = 32_000
CONNECT_WITHIN = 10.0
# An agent may work on an answer with its tools for a long time without a word.
SILENT_WITHIN = 600.0
ANSWER_WITHIN = 3600.0
LARGEST_REFUSAL = 2000
# Characters of text, and bytes with all that is around it: some 200 for a word.
LONGEST_ANSWER = 1_000_000
LARGEST_ANSWER = 64 * 1024 * 1024
CONVERSATION = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Chat:
    """Conversations with the agents of this host. What was said is kept by the agent itself."""

    def __init__(self, host: Host, providers: Providers) -> None:
        self._host = host
        self._providers = providers

    async def ask(self, name: str, message: str, conversation: str = "main") -> AsyncIterator[str]:
        """The agent's answer in pieces, as they come.

        Checked before the first piece is asked for: raises InvalidInput, NotFound, or Conflict
        when the agent does not run, cannot be talked to or has no model. The iterator raises
        Unavailable when the agent gives no answer or breaks off.
        """
        if not message.strip() or len(message) > LONGEST:
            raise InvalidInput(
                "There is nothing to say." if not message.strip() else "The message is too long.",
                hint=f"Send 1 to {LONGEST} characters.",
            )
        if not CONVERSATION.fullmatch(conversation):
            raise InvalidInput(
                "The conversation's name cannot be used.",
                hint="Use up to 64 letters, digits, dots, hyphens and underscores.",
            )
        instance = await get_instance(name, self._host)
        if not instance.is_running:
            raise Conflict(
                f"Agent {name!r} is not running.", hint=f"Start it: `taos agent start {name}`."
            )
        recipe = self._host.recipes.get(instance.config.get(FRAMEWORK_KEY, ""))
        chat = recipe.agent.chat if recipe else None
        if chat is None:
            raise Conflict(
                f"taOS does not know how to talk to agent {name!r}.",
                hint="Use the agent's own ways.",
            )
        if not read_choice(instance.config).models and not await self._providers.default_model():
            raise Conflict(
                "No model is set up, so no agent can answer.",
                hint="Add a provider: `taos provider add`, or on the page Models.",
            )
        return self._answer(instance.name, name, chat, message, conversation)

    async def _answer(
        self, instance: str, name: str, chat: AgentChat, message: str, conversation: str
    ) -> AsyncIterator[str]:
        question = {
            "model": chat.model,
            "stream": True,
            # The agent keeps one conversation for each user.
            "user": f"taos:{conversation}",
            "messages": [{"role": "user", "content": message}],
        }
        timeout = aiohttp.ClientTimeout(
            total=ANSWER_WITHIN, sock_connect=CONNECT_WITHIN, sock_read=SILENT_WITHIN
        )
        token = agent_token(self._host.key, instance)
        try:
            with self._host.uses.using(instance):
                async with (
                    open_agent(self._host.socket(instance)) as agent,
                    agent.post(
                        chat.path,
                        json=question,
                        headers=chat_headers(chat, token, conversation),
                        timeout=timeout,
                        # Where it would lead is no place that the agent's token goes to.
                        allow_redirects=False,
                    ) as response,
                ):
                    if response.status != 200:
                        raise await _refusal(name, response)
                    async with aclosing(_pieces(name, response)) as pieces:
                        async for piece in pieces:
                            yield piece
        # What reading a stranger's bytes raises; an event without an end is a ValueError too.
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, RecursionError) as error:
            raise Unavailable(
                f"Agent {name!r} gave no answer ({type(error).__name__}).",
                hint=f"`taos agent show {name}` tells its state, `taos agent logs {name}` more.",
            ) from error


def chat_headers(chat: AgentChat, token: str, conversation: str) -> dict[str, str]:
    """What goes with a question: the agent's own token, and what its recipe wants."""
    wanted = {
        name: value.replace("{conversation}", conversation) for name, value in chat.headers.items()
    }
    return {**wanted, "Authorization": f"Bearer {token}"}


async def _refusal(name: str, response: aiohttp.ClientResponse) -> Unavailable:
    said = (await response.content.read(LARGEST_REFUSAL)).decode(errors="replace")
    return Unavailable(
        f"Agent {name!r} answered {response.status}: {said.strip()}",
        hint=f"`taos agent logs {name}` shows what it met.",
    )


async def _pieces(name: str, response: aiohttp.ClientResponse) -> AsyncGenerator[str, None]:
    """The text in streamed chat completions; Unavailable when the agent breaks off, or never ends.

    An answer can go on without a word of text, too: so its bytes are counted as well.
    """
    events, length, size = Events(), 0, 0
    endless = Unavailable(f"The answer of agent {name!r} has no end.", hint="Ask for less.")
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > LARGEST_ANSWER:
            raise endless
        for event in events.feed(chunk):
            match data_of(event):
                case {"choices": [{"delta": {"content": str(text)}}, *_]} if text:
                    length += len(text)
                    if length > LONGEST_ANSWER:
                        raise endless
                    # Half a pair of surrogates can stand in JSON, but in nothing that is sent on.
                    yield text.encode(errors="replace").decode()
                case {"error": {"message": str(said)}}:
                    said = said[:LARGEST_REFUSAL].encode(errors="replace").decode()
                    raise Unavailable(f"The agent broke off: {said}", hint="Ask again.")
