"""Talking to an agent on a page. A conversation lives on while its page is left."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from markupsafe import Markup
from nicegui import background_tasks, ui

from tinyagentos.agents.chat import Chat
from tinyagentos.incus import IncusError
from tinyagentos.model.errors import TaosError
from tinyagentos.web.frame import Site, put, show
from tinyagentos.web.hints import for_web
from tinyagentos.web.markup import el, notice

KEPT = 60
MOST_CONVERSATIONS = 200
DRAW_EVERY = 0.15
LOOK_WITHIN = 1.0
_numbers = count()


@lru_cache(maxsize=1)
def _markdown() -> MarkdownIt:
    """Markdown without HTML of its own and without pictures: an agent's words are a stranger's."""
    made = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    made.add_render_rule("link_open", _open_link)
    return made


def _open_link(
    renderer: RendererHTML, tokens: list[Token], number: int, options: OptionsDict, env: EnvType
) -> str:
    tokens[number].attrSet("target", "_blank")
    tokens[number].attrSet("rel", "noopener noreferrer")
    return renderer.renderToken(tokens, number, options, env)


def render_words(text: str) -> Markup:
    """An agent's answer as markup."""
    return Markup(_markdown().render(text))  # noqa: S704 - escaped by the renderer


@dataclass
class Said:
    """One turn. who: `me`, `agent`, or `fail` for what went wrong."""

    who: str
    text: str


@dataclass
class Conversation:
    """What was said with one agent since the server began, and the answer that is coming."""

    chat: Chat
    name: str
    explain: Callable[[BaseException], tuple[str, str]]
    said: deque[Said] = field(default_factory=lambda: deque(maxlen=KEPT))
    views: set[asyncio.Event] = field(default_factory=set)
    task: asyncio.Task[None] | None = None

    @property
    def is_answering(self) -> bool:
        """Whether an answer is coming."""
        return self.task is not None and not self.task.done()

    def ask(self, text: str) -> bool:
        """Say something; False, and nothing is said, while an answer is coming."""
        if not text.strip() or self.is_answering:
            return False
        self.said.append(Said("me", text.strip()))
        self.task = background_tasks.create(self._answer(text), name=f"chat {self.name}")
        self._tell()
        return True

    def stop(self) -> None:
        """Hear no more of the answer."""
        if self.task:
            self.task.cancel()

    async def _answer(self, text: str) -> None:
        turn = Said("agent", "")
        self.said.append(turn)
        try:
            async for piece in await self.chat.ask(self.name, text):
                turn.text += piece
                self._tell()
            if not turn.text:
                turn.text = "*(no answer)*"
        except asyncio.CancelledError:
            turn.text += "\n\n*(stopped)*"
        except (TaosError, IncusError) as error:
            if not turn.text:
                self.said.remove(turn)
            self.said.append(Said("fail", " ".join(self.explain(error))))
        finally:
            self.task = None
            self._tell()

    def _tell(self) -> None:
        for view in self.views:
            view.set()


_conversations: dict[tuple[int, str], Conversation] = {}


def find_conversation(site: Site, instance: str, name: str) -> Conversation:
    """The agent's conversation; another agent of the same name begins a new one."""
    key = (id(site), instance)
    if key not in _conversations:
        if len(_conversations) >= MOST_CONVERSATIONS:
            del _conversations[next(iter(_conversations))]
        _conversations[key] = Conversation(site.services.chat, name, site.explain)
    return _conversations[key]


class ChatView:
    """The conversation on one page."""

    def __init__(self, site: Site, instance: str, name: str) -> None:
        self._talk = find_conversation(site, instance, name)
        self._site = site
        self._name = name
        self._turns: list[tuple[Said, ui.html]] = []

    async def _has_default(self) -> bool:
        """Whether this host has a model; one that was not looked for yet is waited for shortly."""
        providers = self._site.services.providers
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_WITHIN):
                return bool(providers.known_default() or await providers.default_model())
        return True  # the chat itself says it better

    async def build(self) -> asyncio.Task[None] | None:
        """Build it; what keeps it up to date, until cancelled."""
        models = await self._site.services.models.get(self._name)
        if not models.models and not await self._has_default():
            show(notice(
                "warn", "No model is set up yet, so no agent can answer.",
                el("p", el("a", "Add a model", href="/models", class_="button primary")),
            ))  # fmt: skip
            return None
        box = f"chat-{next(_numbers)}"
        self._log = (
            ui.element("div")
            .classes("chat")
            .props(f'id={box}-log tabindex=0 role=log aria-live=polite aria-label="Conversation"')
        )
        self._box = box
        take = f"emit(taosTake('{box}'))"
        with ui.element("div").classes("ask"):
            with ui.element("div").classes("field"):
                show(f"Say something to {self._name}", tag="label").props(f"for={box}").classes(
                    "hidden-words"
                )
                area = ui.element("textarea").props(f"id={box} rows=2")
                area._props["placeholder"] = f"Say something to {self._name}"
                area._props["maxlength"] = "30000"
                area.on(
                    "keydown", lambda event: self._ask(str(event.args)),
                    js_handler="(e)=>{if(e.key==='Enter'&&!e.shiftKey&&!e.isComposing)"
                    f"{{e.preventDefault();{take}}}}}",
                )  # fmt: skip
            self._send = show("Send", tag="button").classes("button primary").props("type=button")
            self._send.on(
                "click", lambda event: self._ask(str(event.args)), js_handler=f"()=>{{{take}}}"
            )
            self._stop = show("Stop", tag="button").classes("button").props("type=button")
            self._stop.on("click", self._talk.stop, [])
        self._draw()
        return background_tasks.create(self._keep_drawing(), name=f"chat of {self._name}")

    def _ask(self, text: str) -> None:
        """Ask, and only then take what was typed out of the box."""
        if self._talk.ask(text):
            self._run("taosTaken", self._box)
            self._run("taosEnd", f"{self._box}-log", True)

    def _run(self, name: str, *given: object) -> None:
        self._log.client.run_javascript(f"{name}({', '.join(map(json.dumps, given))})")

    async def _keep_drawing(self) -> None:
        changed = asyncio.Event()
        self._talk.views.add(changed)
        try:
            while True:
                await changed.wait()
                changed.clear()
                if self._log.is_deleted:
                    return
                self._draw()
                await asyncio.sleep(DRAW_EVERY)
        finally:
            self._talk.views.discard(changed)

    def _draw(self) -> None:
        said = list(self._talk.said)
        if [one for one, _ in self._turns] != said[: len(self._turns)]:
            self._log.clear()
            self._turns.clear()
        with self._log:
            if not said and not self._turns:
                show(el("p", f"{self._name} remembers what you say here.", class_="quiet"))
            for turn in said[len(self._turns) :]:
                if not self._turns:
                    self._log.clear()
                made = show().classes(f"said-by {turn.who}")
                self._turns.append((turn, made))
        for turn, made in self._turns:
            put(made, self._render(turn))
        busy = self._talk.is_answering
        self._send.visible, self._stop.visible = not busy, busy
        self._run("taosEnd", f"{self._box}-log")

    def _render(self, turn: Said) -> Markup:
        if turn.who == "agent":
            return render_words(turn.text) if turn.text else el("span", "…", class_="quiet")
        return for_web(turn.text) if turn.who == "fail" else Markup.escape(turn.text)
