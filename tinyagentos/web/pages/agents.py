"""The first page: every agent as it is now, and the way to a new one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from markupsafe import Markup
from nicegui import ui
from nicegui.element import Element

from tinyagentos.agents.steps import DEPLOY
from tinyagentos.model.agent import Agent, AgentState
from tinyagentos.model.job import Job, JobState
from tinyagentos.web import timeline, words
from tinyagentos.web.deploy import DeploySheet, expected_seconds
from tinyagentos.web.feed import Change
from tinyagentos.web.frame import Site, empty, frame, put, show
from tinyagentos.web.history import Usage
from tinyagentos.web.markup import Content, bar, chip, el, facts, notice
from tinyagentos.web.work import job_buttons

FAILURES_SHOWN = timedelta(hours=24)


@dataclass(frozen=True)
class Card:
    """What one card says. lost: the deploy that left no agent behind."""

    name: str
    chip: Markup
    body: Markup
    link: str
    lost: Job | None = None


@dataclass
class Shown:
    """A card in one browser."""

    box: Element
    chip: ui.html
    body: ui.html
    buttons: Element
    lost: str = ""


def register(site: Site) -> None:
    """Make the page known."""

    @ui.page("/")
    async def page() -> None:
        await AgentsPage(site).build()


class AgentsPage:
    """The page in one browser."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._cards: dict[str, Shown] = {}

    async def build(self) -> None:
        """Build it, then keep it up to date."""
        site = self._site
        deploy = DeploySheet(site)
        with frame("Agents", "agents") as beside:
            with beside:
                site.button("Deploy an agent", deploy.open, "primary", "plus")
            self._trouble = show()
            self._grid = ui.element("div").classes("grid").props("role=list")
            with empty(
                "agents",
                "No agent yet",
                "An agent is an AI assistant that lives on this machine, in a container of its "
                "own. The first one takes about a minute, the next ones seconds.",
            ) as self._empty:
                site.button("Deploy your first agent", deploy.open, "primary", "plus")
        await site.feed.fresh_sight()
        self._show()
        site.listen(self._changed)
        if "deploy" in ui.context.client.request.query_params:
            await deploy.open()

    def _changed(self, change: Change) -> None:
        self._show()

    def _show(self) -> None:
        sight = self._site.feed.sight
        problem = sight.problem
        put(self._trouble, notice("fail", problem.message, problem.hint) if problem else None)
        cards = self._list_cards()
        for name in self._cards.keys() - {card.name for card in cards}:
            self._cards.pop(name).box.delete()
        for place, card in enumerate(cards):
            if card.name not in self._cards:
                self._cards[card.name] = self._make(card)
            shown = self._cards[card.name]
            put(shown.chip, card.chip)
            put(shown.body, card.body)
            self._show_buttons(shown, card.lost)
            if self._grid.default_slot.children.index(shown.box) != place:
                shown.box.move(target_index=place)
        self._empty.visible = not cards and problem is None

    def _make(self, card: Card) -> Shown:
        with self._grid, ui.element("article").classes("card agent").props("role=listitem") as box:
            with ui.element("div").classes("head"):
                show(el("a", card.name, href=card.link), tag="h2")
                state = show()
            body = show().classes("stack")
            buttons = ui.element("div").classes("row")
        return Shown(box, state, body, buttons)

    def _show_buttons(self, shown: Shown, lost: Job | None) -> None:
        wanted = lost.id if lost else ""
        if wanted == shown.lost:
            return
        shown.lost = wanted
        shown.buttons.clear()
        if lost:
            with shown.buttons:
                job_buttons(self._site, lost, may_dismiss=True)

    def _list_cards(self) -> list[Card]:
        site, sight = self._site, self._site.feed.sight
        active = {job.subject: job for job in site.services.jobs.list_active()}
        cards = {
            agent.name: agent_card(
                site, agent, active.get(f"agent:{agent.name}"), sight.usage.get(agent.name)
            )
            for agent in sight.agents
        }
        for job in self._lost_deploys():
            cards.setdefault(words.subject(job), failed_card(job))
        return [cards[name] for name in sorted(cards)]

    def _lost_deploys(self) -> list[Job]:
        """Deploys that failed lately and that nothing followed: they left no agent behind."""
        since = self._site.services.host.now() - FAILURES_SHOWN
        newest: dict[str, Job] = {}
        for job in self._site.services.jobs.list_jobs():
            newest.setdefault(job.subject, job)
        return [
            job
            for job in newest.values()
            if job.kind == DEPLOY and job.state is JobState.failed
            and job.created_at > since and not job.dismissed
        ]  # fmt: skip


def agent_card(site: Site, agent: Agent, job: Job | None, usage: Usage | None) -> Card:
    """The card of an agent that there is or will be."""
    parts: list[Content] = [el("p", agent.title, class_="called")] if agent.title else []
    if job:
        parts.append(timeline.render_brief(job, expected_seconds(site, job)))
    if agent.reason:
        parts.append(
            notice("fail" if agent.state is AgentState.failed else "warn", words.reason(agent))
        )
    if usage and agent.state is not AgentState.deploying:
        parts.append(render_usage(usage, agent.memory_bytes))
    newer = chip("warn", "download", f"Update to {agent.newest}") if agent.newest else None
    about = el("p", f"{agent.framework} {agent.version}", class_="quiet small")
    parts.append(el("div", about, newer, class_="row"))
    body = Markup("").join(part for part in parts if part is not None)
    return Card(agent.name, words.agent_chip(agent.state), body, f"/agents/{agent.name}")


def failed_card(job: Job) -> Card:
    """The card of an agent whose deploy failed."""
    name = words.subject(job)
    why = timeline.first_line(job.error.message) if job.error else "The deploy failed."
    body = notice("fail", "The deploy failed", why)
    return Card(name, words.agent_chip(AgentState.failed), body, f"/agents/{name}", job)


def render_usage(usage: Usage, limit: int | None) -> Markup:
    """What the agent takes now."""
    share = usage.memory_bytes / limit if limit else None
    # Incus counts the files that were read as well, which go when the room is needed: a full bar is
    # no reason to worry.
    memory_bar = bar(share, "Memory and caches in use", "calm") if limit else None
    return facts(
        {
            "Memory, caches": el("div", words.memory_of(usage.memory_bytes, limit), memory_bar),
            "Processor": f"{usage.cpu * 100:.0f} %" if usage.cpu is not None else "measuring",
            "Disk": words.size(usage.disk_bytes),
        }
    )
