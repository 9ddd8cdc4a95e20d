"""What an agent is, and changing it: the tab About of its page."""

from __future__ import annotations

from collections.abc import Callable

from markupsafe import Markup
from nicegui import ui

from tinyagentos.model.agent import Agent, AgentState
from tinyagentos.model.errors import InvalidInput
from tinyagentos.model.provider import AgentModels, ModelChoice
from tinyagentos.web import timeline, words
from tinyagentos.web.chart import render_months
from tinyagentos.web.deploy import network_choice
from tinyagentos.web.frame import Site, put, show, tell, text_field
from tinyagentos.web.markup import Content, bar, el, facts
from tinyagentos.web.model_field import ModelList
from tinyagentos.web.settings import SettingsCard


class AboutView:
    """The tab in one browser."""

    def __init__(self, site: Site, agent: Agent, ask_delete: Callable[[], None]) -> None:
        """ask_delete: opens the dialog that deletes the agent."""
        self._site = site
        self._agent = agent
        self._name = agent.name
        self._ask_delete = ask_delete
        self._settings: SettingsCard | None = None

    async def build(self) -> None:
        """Build it here."""
        agent = self._agent
        self._facts = show(tag="section").classes("card")
        self.renew(agent)
        if agent.state is AgentState.deploying:
            return
        if agent.state is not AgentState.failed:
            schedule = await self._site.services.agents.get_schedule(self._name)
            state_bytes = await self._site.services.agents.get_state_bytes(self._name)
            settings = SettingsCard(self._site, agent, schedule, state_bytes)
            settings.build()
            self._settings = settings
            await self._build_models()
            self._build_network(agent)
        with ui.element("section").classes("card").props('aria-label="Delete the agent"'):
            show(Markup("").join([
                el("h2", "Delete"),
                el("p", "Removes the agent with all it knows.", class_="quiet"),
            ]))  # fmt: skip
            with ui.element("div").classes("row"):
                self._site.button("Delete this agent", self._ask_delete, "danger")

    def renew(self, agent: Agent) -> None:
        """Show what the agent is now; what somebody is typing stays."""
        if self._facts.is_deleted:
            return
        put(self._facts, facts(self._describe(agent), wide=True))
        if self._settings:
            self._settings.renew(agent)

    def _describe(self, agent: Agent) -> dict[str, Content]:
        return {
            "Framework": f"{agent.framework} {agent.version}",
            "Deployed": timeline.SOURCES.get(agent.source, agent.source),
            "Since": words.ago(agent.created_at, self._site.services.host.now()),
            "Memory limit": words.memory(agent.memory_bytes),
            "Processors": str(agent.cpus or ""),
            "May reach": words.network(agent.network),
            "Instance": el("code", agent.instance),
        }

    async def _build_models(self) -> None:
        """Which models it uses, and what it used of them."""
        site, name = self._site, self._name
        now = await site.services.models.get(name)
        with ui.element("section").classes("card stack").props('aria-label="Models"'):
            use = show(render_use(now)).classes("stack")
            models = ModelList(site, now.models)
            tokens = text_field(
                "Most tokens a month",
                str(now.monthly_tokens or ""),
                "Empty: no limit.",
                inputmode="numeric",
            )

            async def save() -> None:
                most = tokens.value.strip() or "0"
                if not most.isdecimal():
                    raise InvalidInput(f"{most[:40]!r} is no number.", hint="Give one, or nothing.")
                choice = ModelChoice(models.read(), int(most))
                put(use, render_use(await site.services.models.choose(name, choice)))
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
                tell("It is being changed; the agent goes on running.")

            with ui.element("div").classes("row"):
                site.button("Apply", change, "primary")


def render_use(now: AgentModels) -> Markup:
    """What an agent used of models, and may use."""
    used, budget = now.usage, now.monthly_tokens
    share = used.tokens / budget if budget else None
    pairs: dict[str, Content] = {
        "Requests": f"{used.requests}, {used.errors} failed",
        "Tokens": f"{used.input_tokens} in, {used.output_tokens} out",
        "Budget": f"{budget} tokens a month" if budget else "none",
    }
    spent = f"{used.tokens} of {budget} tokens"
    return Markup("").join([
        el("h2", "Models"),
        el("p", "This month", class_="quiet small"),
        facts(pairs),
        bar(min(1.0, share), spent, "fail" if share >= 1 else "") if share is not None else "",
        render_months(now.months),
    ])  # fmt: skip
