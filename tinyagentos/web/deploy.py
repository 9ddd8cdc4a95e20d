"""The dialog that deploys an agent."""

from __future__ import annotations

from collections.abc import Callable

from nicegui import ui

from tinyagentos import wire
from tinyagentos.agents.instances import pick_pool
from tinyagentos.agents.steps import DEPLOY
from tinyagentos.incus import IncusError
from tinyagentos.model.agent import Framework, Source, check_agent_name
from tinyagentos.model.errors import InvalidInput, TaosError
from tinyagentos.model.job import Job
from tinyagentos.web import words
from tinyagentos.web.frame import Field, Site, choices, put, sheet, show, text_field
from tinyagentos.web.markup import notice


def expected_seconds(site: Site, job: Job) -> float | None:
    """How long the deploy usually takes on this host by the way it goes."""
    if job.kind != DEPLOY or not job.source:
        return None
    host = site.services.host
    subject = f"{job.params.get('framework', '')}/{host.arch}"
    return host.timings.typical_seconds(f"deploy.{job.source}", subject)


def source_options(framework: Framework) -> dict[str, tuple[str, str]]:
    """The ways a deploy can go, each with its price on this host."""
    took = {name: words.about(known) for name, known in framework.expected_seconds.items()}
    size = words.size(framework.image_size_bytes)
    return {
        "fastest": (
            "The quickest way",
            "By image when it is here, else whichever is sooner: its download or a build.",
        ),
        "image": (
            "Only by image",
            f"{took.get('image') or 'seconds'}; needs the image{f' ({size})' if size else ''}.",
        ),
        "build": (
            "Build on this host",
            f"{took.get('build') or 'about a minute'}; fetches the parts from their makers.",
        ),
    }


NETWORKS = {
    "internet": ("The internet", "Not your home network, not other agents, not this host."),
    "none": ("Nothing", "Only its models, through this host."),
    "lan": ("The internet and parts of my home", "The networks below, such as a printer's."),
}


def network_choice(now: str = "internet") -> Callable[[], str]:
    """The choice of a network policy; what is returned gives it as it is written."""
    kind, _, networks = now.partition(":")
    chosen = [kind or "internet"]

    def choose(key: str) -> None:
        chosen[0] = key
        lan.box.parent_slot.parent.visible = key == "lan"  # type: ignore[union-attr]

    choices("What it may reach", NETWORKS, chosen[0], choose)
    lan = text_field(
        "Networks at home", networks, "Separated by commas.", placeholder="192.168.1.0/24",
        autocapitalize="none",
    )  # fmt: skip
    choose(chosen[0])
    return lambda: f"lan:{lan.value.strip()}" if chosen[0] == "lan" else chosen[0]


class DeploySheet:
    """What a person chooses, checked as it is typed."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._source = "fastest"

    async def open(self) -> None:
        """Show the dialog with what is free now."""
        site = self._site
        self._frameworks = {one.name: one for one in site.services.agents.list_frameworks()}
        self._framework = next(iter(self._frameworks))
        free = await self._free()
        default = await site.services.providers.default_model()
        models = str(default or "none is set up yet")
        await site.feed.fresh_sight()
        with sheet("Deploy an agent") as self._dialog:
            choices("Framework", self._describe(), self._framework, self._choose)
            self._name = text_field(
                "Name", self._suggest(), "", self._check_name, autocapitalize="none",
                spellcheck="false",
            )  # fmt: skip
            with ui.element("details"):
                show("More choices", tag="summary")
                with ui.element("div").classes("stack"):
                    options = source_options(self._frameworks[self._framework])
                    choices("How it gets here", options, "fastest", self._choose_source)
                    self._network = network_choice()
                    self._model = text_field(
                        "Model", "", "PROVIDER/MODEL; empty: the default of this host.",
                        autocapitalize="none", spellcheck="false", placeholder=models,
                    )  # fmt: skip
                    with ui.element("div").classes("fields"):
                        self._memory = self._limit("Memory", "2 GiB", free.get("memory", ""))
                        self._cpu = self._limit("Processors", "2", "", inputmode="numeric")
                        self._disk = self._limit("Disk", "10 GiB", free.get("disk", ""))
            self._trouble = show()
            with ui.element("div").classes("actions"):
                site.button("Cancel", self._dialog.close)
                site.button("Deploy", self._deploy, "primary")
        self._dialog.on("hide", self._dialog.delete)
        self._dialog.open()

    def _describe(self) -> dict[str, tuple[str, str]]:
        def meaning(one: Framework) -> str:
            took = [
                f"{words.about(known)} by {name}"
                for name, known in one.expected_seconds.items()
                if known
            ]
            need = f"needs {words.memory(one.memory_bytes)} of memory"
            return "; ".join([f"Version {one.version}, {need}", *took]) + "."

        return {one.name: (one.title, meaning(one)) for one in self._frameworks.values()}

    def _limit(self, label: str, example: str, free: str, **more: str) -> Field:
        return text_field(
            label, "", free or "Empty: as usual", lambda _: None, placeholder=example, **more
        )

    def _suggest(self) -> str:
        taken = {agent.name for agent in self._site.feed.sight.agents}
        first = "hello"
        names = [first, *(f"{first}-{number}" for number in range(2, 1000))]
        return next(name for name in names if name not in taken)

    def _choose(self, framework: str) -> None:
        self._framework = framework

    def _choose_source(self, source: str) -> None:
        self._source = source

    def _check_name(self, name: str) -> bool:
        try:
            check_agent_name(name)
        except InvalidInput as error:
            self._name.say(error.hint, wrong=True)
            return False
        if any(agent.name == name for agent in self._site.feed.sight.agents):
            self._name.say(f"There is an agent {name} already.", wrong=True)
            return False
        self._name.say("This name is free.")
        return True

    async def _deploy(self) -> None:
        if not self._check_name(self._name.value):
            return
        try:
            spec = wire.NewAgent(
                name=self._name.value,
                framework=self._framework,
                source=Source(self._source),
                memory=self._size(self._memory),
                cpu=self._count(self._cpu),
                disk=self._size(self._disk),
                network=self._network(),
                model=self._model.value.strip(),
            ).to_spec()
            await self._site.services.agents.start_deploy(spec)
        except (TaosError, IncusError) as error:
            put(self._trouble, notice("fail", *self._site.explain(error)))
            return
        ui.navigate.to(f"/agents/{spec.name}")

    def _size(self, field: Field) -> int | None:
        given = field.value.strip()
        if not given:
            return None
        try:
            parsed = wire.parse_size(given)
        except ValueError as error:
            field.say(f"Not a size: {error}.", wrong=True)
            raise InvalidInput(
                f"{given[:40]!r} is no size.", hint="Give one such as 512MiB or 2GiB."
            ) from error
        return int(str(parsed))

    def _count(self, field: Field) -> int | None:
        given = field.value.strip()
        if given and not given.isdigit():
            field.say("A whole number.", wrong=True)
            raise InvalidInput(f"{given[:40]!r} is no number.", hint="Give one such as 2.")
        return int(given) if given else None

    async def _free(self) -> dict[str, str]:
        """What this host has left, in words; what cannot be known is left out."""
        host = self._site.services.host
        found = {"memory": f"Free here: {words.memory(host.memory_available())}"}
        try:
            room = await host.incus.storage.get_resources((await pick_pool(host)).name)
            found["disk"] = f"Free here: {words.memory(room.free_bytes)}"
        except (TaosError, IncusError):
            pass  # the deploy itself says what is wrong with the host
        return found
