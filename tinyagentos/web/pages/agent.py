"""One agent: what it does now, its log, its state over time, and what can be done with it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Literal

from markupsafe import Markup
from nicegui import background_tasks, ui
from nicegui.element import Element

from tinyagentos.agents.service import agent_subject
from tinyagentos.agents.steps import DEPLOY
from tinyagentos.incus import IncusError
from tinyagentos.model.agent import Agent, AgentState
from tinyagentos.model.errors import InvalidInput, TaosError
from tinyagentos.model.job import Job, JobState
from tinyagentos.model.provider import ModelChoice, parse_model
from tinyagentos.web import timeline, words
from tinyagentos.web.chart import render_months, render_usage_lines
from tinyagentos.web.chat import ChatView
from tinyagentos.web.deploy import expected_seconds, network_choice
from tinyagentos.web.feed import Change, find_job
from tinyagentos.web.frame import (
    Site,
    announcer,
    confirm,
    empty,
    frame,
    put,
    show,
    tell,
    text_field,
    trouble,
)
from tinyagentos.web.markup import Content, bar, el, facts, notice
from tinyagentos.web.pages.agents import render_usage
from tinyagentos.web.settings import SettingsCard
from tinyagentos.web.terminal import TerminalView

LOG_LINES = 400
LOG_PAUSE = 0.25
SNAPSHOTS = "Snapshots"
Build = Callable[[], Awaitable[None] | None]


def register(site: Site) -> None:
    """Make the page known."""

    @ui.page("/agents/{name}")
    async def page(name: str) -> None:
        await AgentPage(site, name).build()


class AgentPage:
    """The page in one browser."""

    def __init__(self, site: Site, name: str) -> None:
        self._site = site
        self._name = name
        self._tasks: list[asyncio.Task[None]] = []
        self._shown_controls: object = None
        self._tabs: Tabs | None = None
        self._work_shown: object = None

    async def build(self) -> None:
        """Build it, then keep it up to date."""
        site = self._site
        ui.context.client.on_delete(self._end_tasks)
        sight = await site.feed.fresh_sight()
        with frame(self._name, "agents", back=("/", "Agents")) as beside:
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
            if not self._find() and not self._job() and not sight.problem:
                with empty(
                    "agents", f"There is no agent {self._name}", "It may have been deleted."
                ):
                    show(el("a", "To the agents", href="/", class_="button primary"))
            self._controls = (
                ui.element("div").classes("row").props('role=group aria-label="Actions"')
            )
            self._details = ui.element("div").classes("stack")
        self._show()
        site.listen(self._changed)

    def _find(self) -> Agent | None:
        return next((one for one in self._site.feed.sight.agents if one.name == self._name), None)

    def _job(self) -> Job | None:
        return find_job(self._site.services, agent_subject(self._name))

    async def _changed(self, change: Change) -> None:
        self._show()
        job = self._job()
        about_snapshots = job and job.id in change.jobs and not job.is_active
        if about_snapshots and self._tabs and self._tabs.chosen == SNAPSHOTS:
            await self._tabs.choose(SNAPSHOTS)

    def _end_tasks(self) -> None:
        while self._tasks:
            self._tasks.pop().cancel()

    def _show(self) -> None:
        agent, job = self._find(), self._job()
        sight = self._site.feed.sight
        put(self._chip, words.agent_chip(agent.state) if agent else None)
        above: list[Markup] = []
        if sight.problem:
            above.append(notice("fail", sight.problem.message, sight.problem.hint))
        if agent and agent.reason:
            kind = "fail" if agent.state is AgentState.failed else "warn"
            above.append(notice(kind, agent.reason, "The log below may say more."))
        is_up = agent and agent.state is not AgentState.deploying
        if agent and is_up and (usage := sight.usage.get(agent.name)):
            lines = render_usage_lines(self._site.feed.history(agent.name), agent.memory_bytes)
            figures = render_usage(usage, agent.memory_bytes)
            above.append(el("section", figures, lines, class_="card", aria_label="In use"))
        put(self._above, Markup("").join(above))
        self._show_work(job, agent)
        self._show_controls(agent, job)

    def _show_work(self, job: Job | None, agent: Agent | None) -> None:
        is_news = job is not None and (
            job.is_active or job.state is JobState.failed or (agent is None)
        )
        self._work_card.visible = is_news
        if job is None or not is_news:
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
            job_buttons(self._site, job, agent is None)

    def _show_controls(self, agent: Agent | None, job: Job | None) -> None:
        """Buttons and details; built again only when they are other ones."""
        busy = bool(job and job.is_active)
        wanted = (agent.state, agent.newest, agent.undo_version, busy) if agent else None
        if wanted == self._shown_controls:
            return
        before, self._shown_controls = self._shown_controls, wanted
        self._controls.clear()
        if agent is None:
            self._details.clear()
            self._end_tasks()
            return
        with self._controls:
            if not busy:
                self._power_buttons(agent)
        was = before[0] if isinstance(before, tuple) else None
        if agent.state is not was or was is None:
            self._end_tasks()
            self._details.clear()
            with self._details:
                self._build_details(agent)

    def _power_buttons(self, agent: Agent) -> None:
        site, agents, name = self._site, self._site.services.agents, self._name

        async def power(action: Literal["start", "stop", "restart"]) -> None:
            await agents.start_power(name, action)

        async def upgrade() -> None:
            await agents.start_upgrade(name)

        async def undo() -> None:
            await agents.start_undo(name)

        if agent.state is AgentState.stopped:
            site.button("Start", lambda: power("start"), "primary")
        elif agent.state in (AgentState.ready, AgentState.unhealthy):
            site.button("Restart", lambda: power("restart"))
            site.button("Stop", lambda: power("stop"))
        recipe = site.services.host.recipes.get(agent.framework)
        if agent.state is AgentState.ready and recipe and recipe.agent.interface:
            link = el("a", "Its own interface", href=f"/agents/{name}/ui/", target="_blank",
                      rel="noopener", class_="button")  # fmt: skip
            show(link)
        if agent.newest:
            site.button(f"Upgrade to {agent.newest}", upgrade, "primary")
        if agent.undo_version:
            ask = confirm(
                site, f"Return to {agent.undo_version}?",
                "The agent and its state become what they were before the upgrade. What it did "
                "since then is kept as a snapshot.", "Return", undo,
            )  # fmt: skip
            site.button(f"Return to {agent.undo_version}", ask.open)

    def _build_details(self, agent: Agent) -> None:
        tabs: dict[str, Build] = {}
        if agent.state in (AgentState.ready, AgentState.unhealthy, AgentState.starting):
            recipe = self._site.services.host.recipes.get(agent.framework)
            if recipe and recipe.agent.chat:
                tabs["Chat"] = lambda: self._build_chat(agent)
            tabs["Log"] = self._build_log
            tabs["Terminal"] = self._build_terminal
        if agent.state not in (AgentState.deploying, AgentState.failed):
            tabs[SNAPSHOTS] = self._build_snapshots
        tabs["About"] = lambda: self._build_about(agent)
        self._tabs = Tabs(tabs, self._end_tasks)

    async def _build_chat(self, agent: Agent) -> None:
        try:
            keeping = await ChatView(self._site, agent.instance, self._name).build()
        except (TaosError, IncusError) as error:
            show(trouble(self._site, error))
            return
        if keeping:
            self._tasks.append(keeping)

    async def _build_log(self) -> None:
        site = self._site
        box = f"log-{id(self)}"
        follow = [True]
        with ui.element("div").classes("row"):
            search = text_field("Find in the log", "", "", lambda _: redraw(), type="search")
            with ui.element("label").classes("row small"):
                tick = ui.element("input").props("type=checkbox checked")
                tick.on(
                    "change", lambda event: follow.__setitem__(0, bool(event.args)),
                    js_handler="(e) => emit(e.target.checked)",
                )  # fmt: skip
                show("Stay at the end", tag="span")
        log = (
            show("", tag="pre")
            .classes("log")
            .props(f'id={box} tabindex=0 role=log aria-label="Log of {self._name}"')
        )
        lines: list[str] = []
        client = ui.context.client

        def redraw() -> None:
            wanted = search.value.lower()
            text = "\n".join(one for one in lines if wanted in one.lower())
            client.run_javascript(
                f"const b=document.getElementById({json.dumps(box)});"
                f"if(b){{b.textContent={json.dumps(text + chr(10))};b.scrollTop=b.scrollHeight}}"
            )

        async def read() -> None:
            try:
                await client.connected()
                source = await site.services.agents.open_log(
                    self._name, follow=True, lines=LOG_LINES
                )
                async for batch in batched(source):
                    lines.extend(batch)
                    del lines[: -20 * LOG_LINES]
                    wanted = search.value.lower()
                    text = "".join(f"{one}\n" for one in batch if wanted in one.lower())
                    if text:
                        client.run_javascript(
                            f"taosGrow({json.dumps(box)}, {json.dumps(text)}, "
                            f"{json.dumps(follow[0])})"
                        )
            except (TaosError, IncusError) as error:
                if not log.is_deleted:
                    put(log, trouble(site, error))

        self._tasks.append(background_tasks.create(read(), name=f"log of {self._name}"))

    def _build_terminal(self) -> None:
        text = "A shell inside the agent's container, as the agent's own user."
        show(el("p", text, class_="quiet small"))
        self._tasks.append(TerminalView(self._site, self._name).build())

    async def _build_snapshots(self) -> None:
        site, agents = self._site, self._site.services.agents
        now = site.services.host.now()
        try:
            found = await agents.list_snapshots(self._name)
        except (TaosError, IncusError) as error:
            show(trouble(site, error))
            return

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

    async def _build_about(self, agent: Agent) -> None:
        site = self._site
        way = timeline.SOURCES.get(agent.source, agent.source)
        pairs: dict[str, Content] = {
            "Title": agent.title,
            "Framework": f"{agent.framework} {agent.version}",
            "Deployed": way,
            "Since": words.ago(agent.created_at, site.services.host.now()),
            "Memory limit": words.memory(agent.memory_bytes),
            "May reach": words.network(agent.network),
            "Instance": el("code", agent.instance),
        }
        show(el("section", facts(pairs, wide=True), class_="card"))

        if agent.state is AgentState.deploying:
            return
        if agent.state is not AgentState.failed:
            schedule = await site.services.agents.get_schedule(self._name)
            SettingsCard(site, agent, schedule).build()
            await self._build_models()
            self._build_network(agent)

        async def delete() -> None:
            await site.services.agents.start_delete(self._name)

        ask = confirm(
            site, f"Delete {self._name}?",
            "The agent goes, with its memory, its files and its snapshots. Nothing of it is kept.",
            "Delete for ever", delete, name=self._name,
        )  # fmt: skip
        with ui.element("section").classes("card").props('aria-label="Delete the agent"'):
            show(Markup("").join([
                el("h2", "Delete"),
                el("p", "Removes the agent with all it knows.", class_="quiet"),
            ]))  # fmt: skip
            with ui.element("div").classes("row"):
                site.button("Delete this agent", ask.open, "danger")

    async def _build_models(self) -> None:
        """Which models it uses, and what it used of them."""
        site, name = self._site, self._name
        now = await site.services.models.get(name)
        used, budget = now.usage, now.monthly_tokens
        with ui.element("section").classes("card stack").props('aria-label="Models"'):
            pairs: dict[str, Content] = {
                "Requests": f"{used.requests}, {used.errors} failed",
                "Tokens": f"{used.input_tokens} in, {used.output_tokens} out",
                "Budget": f"{budget} tokens a month" if budget else "none",
            }
            show(Markup("").join([
                el("h2", "Models"),
                el("p", "This month", class_="quiet small"),
                facts(pairs),
                bar(min(1.0, used.tokens / budget), f"{used.tokens} of {budget} tokens",
                    "fail" if used.tokens >= budget else "") if budget else "",
                render_months(now.months),
            ]))  # fmt: skip
            models = text_field(
                "Models, best first", ", ".join(now.models),
                "PROVIDER/MODEL, separated by commas; empty: the default of this host.",
                autocapitalize="none", spellcheck="false", placeholder="anthropic/claude-sonnet-5",
            )  # fmt: skip
            tokens = text_field(
                "Most tokens a month", str(budget or ""), "Empty: no limit.", inputmode="numeric"
            )

            async def save() -> None:
                listed = filter(None, (one.strip() for one in models.value.split(",")))
                most = tokens.value.strip() or "0"
                if not most.isdecimal():
                    raise InvalidInput(f"{most[:40]!r} is no number.", hint="Give one, or nothing.")
                choice = ModelChoice(tuple(map(parse_model, listed)), int(most))
                await site.services.models.choose(name, choice)
                tell("Used from its next question on.")

            with ui.element("div").classes("row"):
                site.button("Save", save, "primary")

    def _build_network(self, agent: Agent) -> None:
        """What it may reach, and changing that."""
        site = self._site
        with ui.element("section").classes("card stack").props('aria-label="Network"'):
            show(el("h2", "Network"))
            policy = network_choice(agent.network)

            async def change() -> None:
                await site.services.agents.start_network(self._name, policy())

            with ui.element("div").classes("row"):
                site.button("Apply", change, "primary")


def job_buttons(site: Site, job: Job, is_gone: bool = False) -> None:
    """What can be done with the job."""
    jobs = site.services.jobs

    def cancel() -> None:
        jobs.cancel_job(job.id)

    async def retry() -> None:
        again = await jobs.retry_job(job.id)
        tell(f"{words.kind(again)}: begun again.")

    if job.is_active and not job.cancel_requested:
        site.button("Cancel", cancel, "danger" if job.kind == DEPLOY else "")
    elif job.state in (JobState.failed, JobState.cancelled):
        site.button("Retry", retry, "primary")
        if is_gone:
            show(el("a", "Deploy otherwise", href="/?deploy=1", class_="button"))


class Tabs:
    """Tabs by name; a panel is built when it is looked at, each time.

    leave is called before what was shown goes.
    """

    def __init__(self, tabs: dict[str, Build], leave: Callable[[], None]) -> None:
        self._tabs = tabs
        self._leave = leave
        self.chosen = next(iter(tabs))
        self._buttons: dict[str, Element] = {}
        with ui.element("div").classes("tabs").props("role=tablist"):
            for name in tabs:
                button = show(Markup.escape(name), tag="button").props("role=tab type=button")
                button.on("click", lambda _, name=name: self.choose(name), [])
                self._buttons[name] = button
        self._panel = ui.element("div").classes("panel").props("role=tabpanel")
        background_tasks.create(self.choose(self.chosen), name=f"tab {self.chosen}")

    async def choose(self, name: str) -> None:
        """Show the panel of that name, built again."""
        self.chosen = name
        for one, button in self._buttons.items():
            button.props(f"aria-selected={'true' if one == name else 'false'}")
        self._leave()
        self._panel.clear()
        self._panel.props(f'aria-label="{name}"')
        with self._panel:
            waiting = self._tabs[name]()
            if waiting is not None:
                await waiting


async def batched(lines: AsyncIterator[str]) -> AsyncIterator[list[str]]:
    """The lines as they come, those of a quarter of a second together."""
    queue: asyncio.Queue[str | None] = asyncio.Queue(maxsize=10_000)

    async def fill() -> None:
        try:
            async for line in lines:
                await queue.put(line)
        finally:
            await queue.put(None)

    filling = asyncio.create_task(fill())
    try:
        while (line := await queue.get()) is not None:
            await asyncio.sleep(LOG_PAUSE)
            batch = [line]
            while not queue.empty() and (more := queue.get_nowait()) is not None:
                batch.append(more)
            yield batch
        await filling
    finally:
        filling.cancel()
