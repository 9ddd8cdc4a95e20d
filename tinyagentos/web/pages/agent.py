"""One agent: what it does now, its log, its state over time, and what can be done with it."""

from __future__ import annotations

import asyncio
from typing import Literal

from markupsafe import Markup
from nicegui import ui

from tinyagentos.agents.record import ambiguous
from tinyagentos.agents.service import agent_subject
from tinyagentos.model.agent import Agent, AgentState
from tinyagentos.model.job import Job, JobState
from tinyagentos.web import timeline, words
from tinyagentos.web.about import AboutView
from tinyagentos.web.chart import render_usage_lines
from tinyagentos.web.chat import ChatView
from tinyagentos.web.deploy import expected_seconds
from tinyagentos.web.feed import Change, Sight, find_job
from tinyagentos.web.frame import Act, Site, announcer, confirm, empty, frame, put, show, tell
from tinyagentos.web.logview import LogView
from tinyagentos.web.markup import el, notice
from tinyagentos.web.pages.agents import render_usage
from tinyagentos.web.tabs import Tab, Tabs
from tinyagentos.web.terminal import TerminalView
from tinyagentos.web.work import job_buttons

CHAT, LOG, TERMINAL, SNAPSHOTS, ABOUT = "Chat", "Log", "Terminal", "Snapshots", "About"
ANSWERING = (AgentState.ready, AgentState.unhealthy, AgentState.starting)


def register(site: Site) -> None:
    """Make the page known."""

    @ui.page("/agents/{name}")
    async def page(name: str) -> None:
        await AgentPage(site, name).build()


def tab_names(state: AgentState, *, chats: bool, runs: bool) -> tuple[str, ...]:
    """What can be looked at of an agent. chats: it can be talked to; runs: its instance does."""
    if state in ANSWERING:
        return (*((CHAT,) if chats else ()), LOG, TERMINAL, SNAPSHOTS, ABOUT)
    if state is AgentState.deploying:
        return (ABOUT,)
    if state is AgentState.failed:
        return (LOG, ABOUT) if runs else (ABOUT,)
    return (SNAPSHOTS, ABOUT)


def advice(agent: Agent, sight: Sight) -> str | Markup:
    """What can be done about an agent that is not well."""
    if agent.state is not AgentState.failed:
        return "Its log below may say more."
    if agent.name in sight.unfinished:
        return "It was never ready: delete it, and deploy it again."
    why = el("a", "the page Host", href="/host")
    return el("p", "Restart it. If that does not help, ", why, " may say why.")


def is_news(job: Job, *, has_agent: bool) -> bool:
    """Whether the newest job on an agent is to be shown on its page."""
    if job.is_active:
        return True
    ended_badly = (JobState.failed,) if has_agent else (JobState.failed, JobState.cancelled)
    return job.state in ended_badly and not job.dismissed


class AgentPage:
    """The page in one browser."""

    def __init__(self, site: Site, name: str) -> None:
        self._site = site
        self._name = name
        self._tasks: list[asyncio.Task[None]] = []
        self._shown_controls: object = None
        self._work_shown: object = None
        self._about: AboutView | None = None

    async def build(self) -> None:
        """Build it, then keep it up to date."""
        site = self._site
        ui.context.client.on_delete(self._end_tasks)
        await site.feed.fresh_sight()
        with frame(self._name, "agents", back=("/", "Agents"), called=self._build_called) as beside:
            with beside:
                self._chip = show()
            self._said = announcer()
            self._above = show().classes("stack")
            with (
                ui.element("section").classes("card").props('aria-label="Work on this agent"') as (
                    self._work_card
                )
            ):
                self._work = show()
                self._work_buttons = ui.element("div").classes("row")
            with empty(
                "agents", f"There is no agent {self._name}", "It may have been deleted."
            ) as self._nothing:
                show(el("a", "To the agents", href="/", class_="button primary"))
            self._controls = (
                ui.element("div").classes("row").props('role=group aria-label="Actions"')
            )
            with ui.element("div").classes("stack"):
                self._tabs = Tabs(site, self._end_tasks)
            self._dialogs = ui.element("div")  # what is asked stays when buttons are drawn again
        self._show()
        site.listen(self._changed)

    def _build_called(self) -> None:
        self._called = show(tag="p").classes("called")

    def _named(self) -> list[Agent]:
        return [one for one in self._site.feed.sight.agents if one.name == self._name]

    def _find(self) -> Agent | None:
        """The agent; None when there is none, or when several instances have its name."""
        named = self._named()
        return named[0] if len(named) == 1 else None

    def _say_ambiguous(self) -> list[Markup]:
        """What is said instead of an agent that is several instances; else nothing."""
        named = self._named()
        if len(named) < 2:
            return []
        project = self._site.services.host.incus.project
        error = ambiguous(self._name, (one.instance for one in named), project)
        return [notice("fail", error.message, error.hint)]

    def _job(self) -> Job | None:
        return find_job(self._site.services, agent_subject(self._name))

    def _changed(self, change: Change) -> None:
        self._show()
        job = self._job()
        about_snapshots = job and job.id in change.jobs and not job.is_active
        if about_snapshots and self._tabs.chosen == SNAPSHOTS:
            self._tabs.choose(SNAPSHOTS)

    def _end_tasks(self) -> None:
        while self._tasks:
            self._tasks.pop().cancel()

    def _show(self) -> None:
        agent, job = self._find(), self._job()
        sight = self._site.feed.sight
        put(self._chip, words.agent_chip(agent.state) if agent else None)
        put(self._called, agent.title if agent else None)
        above = self._say_ambiguous()
        if sight.problem:
            above.append(notice("fail", sight.problem.message, sight.problem.hint))
        if agent and agent.reason:
            kind = "fail" if agent.state is AgentState.failed else "warn"
            above.append(notice(kind, words.reason(agent), advice(agent, sight)))
        is_up = agent and agent.state is not AgentState.deploying
        if agent and is_up and (usage := sight.usage.get(agent.name)):
            taken = self._site.feed.history.find(agent.instance)
            lines = render_usage_lines(taken, agent.memory_bytes)
            figures = render_usage(usage, agent.memory_bytes)
            above.append(el("section", figures, lines, class_="card", aria_label="In use"))
        put(self._above, Markup("").join(above))
        self._show_work(job, agent)
        self._nothing.visible = not (agent or above or self._work_card.visible)
        self._show_controls(agent, job)
        if agent and self._about:
            self._about.renew(agent)

    def _show_work(self, job: Job | None, agent: Agent | None) -> None:
        self._work_card.visible = bool(job and is_news(job, has_agent=agent is not None))
        if job is None or not self._work_card.visible:
            return
        heading = el(
            "div", el("h2", words.kind(job)), words.job_chip(job), class_="head row",
            style="justify-content:space-between",
        )  # fmt: skip
        body = timeline.render_job(job, expected_seconds(self._site, job))
        put(self._work, el("div", heading, body, class_="stack"))
        put(self._said, timeline.said(job))
        wanted = (job.id, job.is_active, job.cancel_requested, job.state)
        if wanted == self._work_shown:
            return
        self._work_shown = wanted
        self._work_buttons.clear()
        with self._work_buttons:
            job_buttons(self._site, job, may_dismiss=True, otherwise=agent is None)

    def _show_controls(self, agent: Agent | None, job: Job | None) -> None:
        """Buttons and tabs; what is there already stays as it is."""
        self._tabs.offer(self._list_tabs(agent) if agent else {})
        busy = bool(job and job.is_active)
        unfinished = self._name in self._site.feed.sight.unfinished
        wanted = (
            (agent.state in ANSWERING or agent.state, agent.newest, agent.undo_version, unfinished)
            if agent and not busy
            else None
        )
        if wanted == self._shown_controls:
            return
        self._shown_controls = wanted
        self._controls.clear()
        if agent and wanted:
            with self._controls:
                self._power_buttons(agent, unfinished=unfinished)

    def _power_buttons(self, agent: Agent, *, unfinished: bool) -> None:
        site, agents, name = self._site, self._site.services.agents, self._name

        async def power(action: Literal["start", "stop", "restart"]) -> None:
            await agents.start_power(name, action)

        async def upgrade() -> None:
            await agents.start_upgrade(name)

        async def undo() -> None:
            await agents.start_undo(name)

        if agent.state is AgentState.stopped:
            site.button("Start", lambda: power("start"), "primary")
        elif agent.state in ANSWERING:
            site.button("Restart", lambda: power("restart"))
            site.button("Stop", lambda: power("stop"))
            recipe = site.services.host.recipes.get(agent.framework)
            if recipe and recipe.agent.interface:
                link = el("a", "Its own interface", href=f"/agents/{name}/ui/", target="_blank",
                          rel="noopener", class_="button")  # fmt: skip
                show(link)
        elif agent.state is AgentState.failed:
            if not unfinished:
                site.button("Restart", lambda: power("restart"), "primary")
            site.button("Delete", self._ask_delete, "danger")
            return
        if agent.newest:
            site.button(f"Upgrade to {agent.newest}", upgrade, "primary")
        if agent.undo_version:
            text = (
                "The agent and its state become what they were before the upgrade. What it did "
                "since then is kept as a snapshot."
            )
            title = f"Return to {agent.undo_version}"
            site.button(title, lambda: self._ask(f"{title}?", text, "Return", undo))

    def _ask_delete(self) -> None:
        async def delete() -> None:
            await self._site.services.agents.start_delete(self._name)

        text = (
            "The agent goes, with its memory, its files and its snapshots. Nothing of it is kept."
        )
        self._ask(f"Delete {self._name}?", text, "Delete for ever", delete, name=self._name)

    def _ask(self, title: str, text: str, action: str, act: Act, name: str = "") -> None:
        with self._dialogs:
            dialog = confirm(self._site, title, text, action, act, name=name)
        dialog.on("hide", dialog.delete)
        dialog.open()

    def _list_tabs(self, agent: Agent) -> dict[str, Tab]:
        recipe = self._site.services.host.recipes.get(agent.framework)
        names = tab_names(
            agent.state,
            chats=bool(recipe and recipe.agent.chat),
            runs=agent.name in self._site.feed.sight.running,
        )
        whole = agent.state not in (AgentState.deploying, AgentState.failed)
        builds = {
            CHAT: lambda: self._build_chat(agent.instance),
            LOG: self._build_log,
            TERMINAL: self._build_terminal,
            SNAPSHOTS: self._build_snapshots,
            ABOUT: self._build_about,
        }
        # Another agent of the same name is another one; About has more of one that was deployed.
        about = {ABOUT: f"{agent.instance} {whole} {agent.state is AgentState.deploying}"}
        return {name: Tab(builds[name], about.get(name, agent.instance)) for name in names}

    async def _build_chat(self, instance: str) -> None:
        keeping = await ChatView(self._site, instance, self._name).build()
        if keeping:
            self._tasks.append(keeping)

    def _build_log(self) -> None:
        self._tasks.append(LogView(self._site, self._name).build())

    def _build_terminal(self) -> None:
        text = "A shell inside the agent's container, as the agent's own user."
        show(el("p", text, class_="quiet small"))
        self._tasks.append(TerminalView(self._site, self._name).build())

    async def _build_about(self) -> None:
        if agent := self._find():
            self._about = AboutView(self._site, agent, self._ask_delete)
            await self._about.build()

    async def _build_snapshots(self) -> None:
        site, agents = self._site, self._site.services.agents
        now = site.services.host.now()
        found = await agents.list_snapshots(self._name)

        async def take() -> None:
            await agents.start_snapshot(self._name)
            tell("The agent's state is being kept.")

        with ui.element("div").classes("row"):
            site.button("Keep the state as it is now", take, "primary", "plus")
        if not found:
            show(el("p", "A snapshot keeps the agent's memory and files, to return to.",
                    class_="quiet"))  # fmt: skip
            return
        with ui.element("ul").classes("checks"):
            for one in reversed(found):
                with ui.element("li").style("grid-template-columns:minmax(0,1fr) auto"):
                    show(Markup("").join([
                        el("p", el("strong", one.name)),
                        el("p", words.ago(one.created_at, now), class_="quiet small"),
                    ]))  # fmt: skip
                    with ui.element("div").classes("row"):
                        self._snapshot_buttons(one.name)

    def _snapshot_buttons(self, snapshot: str) -> None:
        site, agents = self._site, self._site.services.agents

        async def restore() -> None:
            await agents.start_restore(self._name, snapshot)

        async def drop() -> None:
            await agents.start_drop(self._name, snapshot)

        bring_back = confirm(
            site, f"Return to {snapshot}?",
            "The agent stops, gets that state, and starts. Its state now is kept as a snapshot.",
            "Return to it", restore,
        )  # fmt: skip
        remove = confirm(site, f"Remove {snapshot}?", "It cannot be brought back.", "Remove", drop)
        site.button("Restore", bring_back.open, "small")
        site.button("Remove", remove.open, "small danger")
