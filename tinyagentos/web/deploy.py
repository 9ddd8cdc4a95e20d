"""The dialog that deploys an agent."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from typing import TypeVar

from nicegui import ui

from tinyagentos.agents.steps import DEPLOY
from tinyagentos.incus import IncusError
from tinyagentos.model.agent import AgentSpec, Source, check_agent_name
from tinyagentos.model.errors import InvalidInput, TaosError
from tinyagentos.model.image import ImagePolicy
from tinyagentos.model.job import Job
from tinyagentos.model.network import NetworkPolicy
from tinyagentos.model.recipe import AgentDefaults
from tinyagentos.web import costs, words
from tinyagentos.web.checked import Checked, accept, lead_to, refuse
from tinyagentos.web.frame import Field, Site, choices, put, sheet, show, text_field
from tinyagentos.web.limits import read_cpus, read_disk, read_memory
from tinyagentos.web.markup import el, notice
from tinyagentos.web.model_field import ModelOffer
from tinyagentos.web.refresh import Refresh, within_reason

# A dialog that was asked for is to open; what Incus does not tell by then is told from memory.
OPEN_WITHIN = 0.7
T = TypeVar("T")


def expected_seconds(site: Site, job: Job) -> float | None:
    """How long all of the deploy is expected to take; None until it has chosen its way."""
    if job.kind != DEPLOY:
        return None
    if job.expected_seconds is not None or not job.source:
        return job.expected_seconds
    host = site.services.host
    subject = f"{job.params.get('framework', '')}/{host.arch}"
    return host.timings.typical_seconds(f"deploy.{job.source}", subject)


NETWORKS = {
    "internet": ("The internet", "Not your home network, not other agents, not this host."),
    "none": ("Nothing", "Only its models, through this host."),
    "lan": ("The internet and parts of my home", "The networks below, such as a printer's."),
}


def network_choice(now: str = "internet") -> Callable[[], str]:
    """The choice of a network policy; what is returned gives it as it is written.

    It raises InvalidInput for what is none, and says so at the field.
    """
    kind, _, networks = now.partition(":")
    chosen = [kind or "internet"]
    hint = "Separated by commas."

    def choose(key: str) -> None:
        chosen[0] = key
        lan.box.parent_slot.parent.visible = key == "lan"  # type: ignore[union-attr]

    def read() -> str:
        written = f"lan:{lan.value.strip()}" if chosen[0] == "lan" else chosen[0]
        try:
            NetworkPolicy.parse(written)
        except InvalidInput as error:
            refuse(lan, error)
            raise
        return written

    choices("What it may reach", NETWORKS, chosen[0], choose)
    lan = text_field(
        "Networks at home", networks, hint, lambda _: accept(lan, hint),
        placeholder="192.168.1.0/24", autocapitalize="none",
    )  # fmt: skip
    choose(chosen[0])
    return read


class DeploySheet:
    """What a person chooses, checked as it is given."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def open(self) -> None:
        """Show the dialog; nobody is waited for who may be silent."""
        if ui.context.client.has_socket_connection:
            await self._open()
        else:  # the page itself is on its way, and comes first
            Refresh(self._open, "the deploy dialog")()

    async def _open(self) -> None:
        site = self._site
        found, _ = await asyncio.gather(
            site.services.agents.list_frameworks(within=OPEN_WITHIN), self._see_agents()
        )
        self._frameworks = {one.name: one for one in found}
        self._framework = found[0].name
        self._source = Source.fastest
        self._free_disk = ""
        with sheet("Deploy an agent") as self._dialog:
            choices("Framework", self._describe(), self._framework, self._choose)
            self._name = text_field(
                "Name", self._suggest(), "", self._check_name, autocapitalize="none",
                spellcheck="false",
            )  # fmt: skip
            self._offer = ModelOffer(site)
            with ui.element("div") as self._model_box:
                self._model = self._offer.field("Model")
            self._no_model = show()
            with ui.element("details"):
                show("More choices", tag="summary")
                with ui.element("div").classes("stack"):
                    self._ways = ui.element("div")
                    self._network = network_choice()
                    self._build_limits()
            self._trouble = show().props("role=status")
            with ui.element("div").classes("actions"):
                site.button("Cancel", self._dialog.close)
                site.button("Deploy", self._deploy, "primary")
        self._check_name("")
        self._say_models()
        self._choose(self._framework)
        self._dialog.on("hide", self._dialog.delete)
        self._dialog.open()
        Refresh(self._look, "look for disk and models")()

    async def _see_agents(self) -> None:
        """Have the names that are taken known, unless that takes long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(OPEN_WITHIN):
                await self._site.feed.fresh_sight()

    def _build_limits(self) -> None:
        with ui.element("div").classes("fields"):
            self._memory = Checked("Memory", read_memory)
            self._cpus = Checked("Processors", read_cpus, inputmode="numeric")
            self._disk = Checked(
                "Disk", lambda text: read_disk(text, self._recipe.image_disk_bytes)
            )

    @property
    def _recipe(self) -> AgentDefaults:
        return self._site.services.host.recipes[self._framework].agent

    async def _look(self) -> None:
        """What only others know: an Ollama that runs here, and the room on the disk."""
        await self._site.services.providers.list_providers()
        if self._dialog.is_deleted:
            return
        self._offer.refresh()
        self._say_models()
        try:
            free = await within_reason(self._site.services.agents.disk_room())
        except (TaosError, IncusError):
            return  # the deploy itself says what is wrong with the host
        if not self._dialog.is_deleted:
            self._free_disk = words.memory(free)
            self._say_limits()

    def _describe(self) -> dict[str, tuple[str, str]]:
        return {one.name: (one.title, costs.describe(one)) for one in self._frameworks.values()}

    def _suggest(self) -> str:
        taken = {agent.name for agent in self._site.feed.sight.agents}
        first = "hello"
        names = [first, *(f"{first}-{number}" for number in range(2, 1000))]
        return next(name for name in names if name not in taken)

    def _choose(self, framework: str) -> None:
        self._framework = framework
        self._ways.clear()
        with self._ways:
            options = costs.source_options(self._frameworks[framework], self._policy)
            choices("How it gets here", options, self._source, self._choose_source)
        self._say_limits()

    @property
    def _policy(self) -> ImagePolicy | None:
        """When images are fetched; None: never, as there is no channel."""
        services = self._site.services
        return services.images.policy if services.settings.image_channel else None

    def _choose_source(self, source: str) -> None:
        self._source = Source(source)

    def _say_limits(self) -> None:
        """The framework's defaults, and what this host has."""
        recipe, cores = self._recipe, len(os.sched_getaffinity(0))
        memory, disk = words.memory(recipe.memory_limit_bytes), words.memory(recipe.disk_bytes)
        room = words.memory(self._site.services.agents.memory_room())
        cpus = str(recipe.cpus or "all")
        free = f"; {self._free_disk} are free here" if self._free_disk else ""
        self._memory.tell(f"Empty: {memory}; {room} are free for agents here.", memory)
        self._cpus.tell(f"Empty: {cpus}; this host has {cores}.", cpus)
        self._disk.tell(f"Empty: {disk}{free}.", disk)

    def _say_models(self) -> None:
        """What the agent will think with; without a provider, how to come by one."""
        is_there = bool(self._offer.providers)
        self._model.tell(self._offer.say_default())
        self._model_box.visible = is_there
        put(self._no_model, None if is_there else notice(
            "warn", "No model is set up yet.",
            el("p", "The agent can be deployed without, and answers once there is one: ",
               el("a", "add a provider on the page Models", href="/models"), "."),
        ))  # fmt: skip

    def _check_name(self, _: str) -> None:
        with contextlib.suppress(InvalidInput):  # it is said at the field
            self._read_name()

    def _read_name(self) -> str:
        name = self._name.value
        try:
            check_agent_name(name)
        except InvalidInput as error:
            refuse(self._name, error)
            raise
        if any(agent.name == name for agent in self._site.feed.sight.agents):
            taken = InvalidInput(f"There is an agent {name} already.", hint="Choose another name.")
            refuse(self._name, taken)
            raise taken
        accept(self._name, "This name is free.")
        return name

    async def _deploy(self) -> None:
        spec = self._read()
        if spec is None:
            return
        put(self._trouble, el("p", "Asking this host …", class_="quiet"))
        try:
            await self._site.services.agents.start_deploy(spec)
        except (TaosError, IncusError) as error:
            put(self._trouble, notice("fail", *self._site.explain(error)))
            return
        ui.navigate.to(f"/agents/{spec.name}")

    def _read(self) -> AgentSpec | None:
        """What was chosen; None when something of it cannot be, which is said where it stands."""
        wrong: list[tuple[Field | None, InvalidInput]] = []

        def take(field: Field | None, read: Callable[[], T]) -> T | None:
            try:
                return read()
            except InvalidInput as error:
                wrong.append((field, error))
                return None

        name = take(self._name, self._read_name)
        model = take(self._model.field, self._model.read)
        network = take(None, self._network)
        memory, cpus, disk = (
            take(one.field, one.read) for one in (self._memory, self._cpus, self._disk)
        )
        if wrong or name is None or model is None or network is None:
            said = (error.message for _, error in wrong)
            put(self._trouble, notice("fail", "Not everything above can be used.", *said))
            if field := next((field for field, _ in wrong if field), None):
                lead_to(field)
            return None
        return AgentSpec(
            name, self._framework, self._source, model, memory_bytes=memory, cpus=cpus,
            disk_bytes=disk, network=network,
        )  # fmt: skip
