"""The smoke test: an image is deployed as taOS deploys it, in a throw-away project, and asked.

    read -> look inside -> import -> deploy -> ask -> run its programs -> remove everything

An image of another architecture is not booted; what can be tried by emulation is.
"""

from __future__ import annotations

import asyncio
import secrets
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from tinyagentos.agents.chat import Chat
from tinyagentos.agents.host import Host
from tinyagentos.agents.kinds import agent_kinds
from tinyagentos.agents.models import Choices
from tinyagentos.agents.order import UNIT
from tinyagentos.agents.readiness import health_asker
from tinyagentos.agents.recipes import RecipeBuilder
from tinyagentos.agents.service import Agents
from tinyagentos.agents.stub_model import MODEL, StubModel, stub_model
from tinyagentos.agents.uses import Uses
from tinyagentos.agents.watch import Watch
from tinyagentos.config import Settings
from tinyagentos.factory.base import make_base_here
from tinyagentos.factory.isolation import build_folder, is_held
from tinyagentos.factory.recipe import load_recipe
from tinyagentos.factory.smoke import (
    AGENT_ENV,
    AGENT_UID,
    COMMAND_WITHIN,
    SAID,
    Checks,
    check_inside,
    check_programs,
    check_unpacked,
    join_parts,
    program_checks,
    why_not_runnable,
)
from tinyagentos.gateway.providers import Providers
from tinyagentos.gateway.serve import Gateway
from tinyagentos.gateway.session import LazySession
from tinyagentos.gateway.vault import Vault
from tinyagentos.host.checks.project import CONFIG
from tinyagentos.host.facts import host_arch, memory_available_bytes, memory_total_bytes, slowness
from tinyagentos.host.policy import drop_policy_bridge, read_host_addresses
from tinyagentos.host.walls import RECORD, Firewall, Walls
from tinyagentos.images.download import Supply
from tinyagentos.images.importer import ImageFile, import_file, read_image_file
from tinyagentos.images.line import Line
from tinyagentos.images.service import Images
from tinyagentos.incus import Incus, IncusError
from tinyagentos.jobs.runner import Runner
from tinyagentos.model.agent import AgentSpec, Source
from tinyagentos.model.errors import HostNotReady, InvalidInput, NotReady, SmokeFailed, TaosError
from tinyagentos.model.job import JobState, Problem
from tinyagentos.model.network import NetworkPolicy
from tinyagentos.model.provider import NewProvider, ProviderKind
from tinyagentos.model.recipe import Recipe, RecipeKind, SmokePart
from tinyagentos.model.smoke import Check
from tinyagentos.store.database import Database
from tinyagentos.store.jobs import JobTable
from tinyagentos.store.providers import ProviderTable, UsageTable
from tinyagentos.store.supply import SupplyTable
from tinyagentos.store.timings import TimingTable

PREFIX = "taos-smoke-"
FOLDER_KEY = "user.taos.smoke-folder"
AGENT, STUB = "smoke", "stub"
FIRST, SECOND = "Say the word.", "Say it once more."
IMPORT, DEPLOY, USER, CHAT = "import", "deploy and readiness", "agent's user", "two turns"
ASK_WITHIN = 120.0
REMOVE_TRIES = 5
REMOVE_PAUSE = 1.0


async def smoke_image(
    path: Path, settings: Settings, told: Callable[[Check], None]
) -> tuple[Check, ...]:
    """Check the image file, calling told with each check that is done.

    Nothing is left of it, however it ends; what one that was killed left is removed by the next.
    Raises InvalidInput when the file is no image of an agent, HostNotReady when this host cannot
    boot any. A failed check raises nothing here.
    """
    image = await read_image_file(path)
    recipe = load_recipe(image.framework)
    if recipe.kind is not RecipeKind.agent:
        raise InvalidInput(
            f"{path.name} is a base, which runs no agent.", hint="Give an image of an agent."
        )
    part = join_parts(load_recipe(recipe.base).smoke, recipe.smoke)
    checks = Checks(told)
    look = await check_inside(path, part, checks)
    files = look.files if look else ()
    if image.arch == host_arch():
        try:
            await check_booted(image, recipe, part, files, settings, checks)
        except IncusError as error:
            raise HostNotReady(
                f"The image cannot be booted on this host; Incus says: {error}.",
                hint="Run `taos doctor`.",
            ) from error
    else:
        why = f"an image for {image.arch} does not boot on this {host_arch()} host"
        checks.skip(boot_checks(recipe), why)
        if why := why_not_runnable(image.arch, host_arch()):
            checks.skip(program_checks(part), why)
        else:
            await check_unpacked(path, part, files, settings.cache_dir, checks)
    return tuple(checks.done)


def boot_checks(recipe: Recipe) -> tuple[str, ...]:
    """The names of the checks that need the image to boot."""
    return (IMPORT, DEPLOY, USER, *((CHAT,) if recipe.agent.chat else ()))


async def check_booted(
    image: ImageFile,
    recipe: Recipe,
    part: SmokePart,
    files: Sequence[str],
    settings: Settings,
    checks: Checks,
) -> None:
    """Import, deploy and ask the image in a project of its own."""
    async with (
        Incus.unix(settings.incus_socket, project=settings.incus_project) as own,
        build_folder(settings.cache_dir) as folder,
        throw_away_project(own, folder) as incus,
        smoke_host(incus, settings, recipe, folder) as host,
        stub_model(f"smoke{secrets.token_hex(4)}") as stub,
        smoke_gateway(host, stub) as chat,
    ):

        async def bring_in() -> str:
            await import_file(image.path, incus)
            return f"{image.size_bytes / 1e6:.1f} MB"

        async def deploy() -> str:
            return await deploy_agent(recipe, host)

        rest = [*boot_checks(recipe), *program_checks(part)]
        for name, work in ((IMPORT, bring_in), (DEPLOY, deploy)):
            rest.remove(name)
            if not await checks.run(name, work):
                checks.skip(rest, f"{name} failed")
                return
        [instance] = [one.name for one in await incus.instances.list()]
        await checks.run(USER, lambda: check_user(instance, incus))
        if recipe.agent.chat:
            await checks.run(CHAT, lambda: check_turn(chat, stub))

        async def run(argv: tuple[str, ...]) -> str:
            return await run_as_agent(instance, argv, incus)

        await check_programs(part, files, run, checks)


@asynccontextmanager
async def throw_away_project(own: Incus, folder: Path) -> AsyncIterator[Incus]:
    """Incus seen from a new project like the agents' own; it goes with all that is in it.

    folder: locked for as long as the smoke test runs, which tells its project from a leftover.
    """
    await remove_leftovers(own)
    name = f"{PREFIX}{secrets.token_hex(3)}"
    profile = await own.profiles.get("default")
    config = {**CONFIG, FOLDER_KEY: str(folder)}
    internet = NetworkPolicy(internet=True)
    had_bridge = await own.networks.find(internet.bridge)
    try:
        await own.projects.ensure(name, config, "Smoke test of an image; removed at its end")
        incus = own.with_project(name)
        await incus.profiles.ensure("default", config=profile.config, devices=profile.devices)
        yield incus
    finally:
        await asyncio.shield(remove_project(own, name))
        if not had_bridge:
            await drop_policy_bridge(internet, own)


async def remove_leftovers(incus: Incus) -> None:
    """Remove the projects of smoke tests that were killed."""
    for project in await incus.projects.list():
        folder = project.config.get(FOLDER_KEY, "")
        if project.name.startswith(PREFIX) and folder and not is_held(Path(folder)):
            await remove_project(incus, project.name)


async def remove_project(own: Incus, name: str) -> None:
    """Remove the project with its instances, volumes and images."""
    incus = own.with_project(name)
    for left in reversed(range(REMOVE_TRIES)):
        try:
            if await own.projects.find(name):
                await _empty(incus)
                await own.projects.delete(name)
            return
        except IncusError:
            if not left:
                raise
            # What was being made when we were interrupted may appear a moment later.
            await asyncio.sleep(REMOVE_PAUSE)


async def _empty(incus: Incus) -> None:
    for instance in await incus.instances.list():
        await incus.instances.delete(instance.name, force=True)
    for pool in await incus.storage.list_pools():
        for volume in await incus.storage.list_volumes(pool.name):
            await incus.storage.delete_volume(pool.name, volume.name)
    for image in await incus.images.list():
        await incus.images.delete(image.fingerprint)


@asynccontextmanager
async def smoke_host(
    incus: Incus, settings: Settings, recipe: Recipe, folder: Path
) -> AsyncIterator[Host]:
    """What a deploy works with, as the server has it, with nothing of the server's data."""
    settings = settings.model_copy(
        update={"data_dir": folder, "run_dir": folder, "incus_project": incus.project}
    )
    settings.agent_sockets.mkdir()
    database = Database(settings.database)
    runner = Runner(
        JobTable(database),
        clock=lambda: datetime.now(UTC),
        new_id=lambda: uuid.uuid4().hex[:12],
        explain=_explain,
        is_transient=lambda _: False,
    )
    recipes = {recipe.name: recipe}
    timings = TimingTable(database)
    supply = Supply(
        incus, settings, host_arch(), Line(), timings, SupplyTable(database),
        lambda: datetime.now(UTC),
    )  # fmt: skip
    host = Host(
        settings=settings,
        incus=incus,
        runner=runner,
        timings=timings,
        recipes=recipes,
        builder=RecipeBuilder(
            incus, settings, host_arch(), partial(make_base_here, cache=settings.cache_dir)
        ),
        images=Images(supply, recipes, runner),
        line=supply.line,
        arch=host_arch(),
        key=secrets.token_bytes(32),
        new_suffix=lambda: secrets.token_hex(3),
        memory_available=memory_available_bytes,
        memory_total=memory_total_bytes,
        slowness=slowness,
        now=lambda: datetime.now(UTC),
        watch=Watch(
            incus,
            health_asker(recipes, lambda name: settings.agent_sockets / f"{name}.sock"),
            lambda: runner.ended,
        ),
        addresses=read_host_addresses,
        uses=Uses(lambda: datetime.now(UTC)),
        walls=Walls(Firewall(), read_host_addresses, lambda: datetime.now(UTC), folder / RECORD),
    )
    for kind in agent_kinds(host):
        runner.register(kind)
    try:
        yield host
    finally:
        await runner.stop()
        database.close()


@asynccontextmanager
async def smoke_gateway(host: Host, stub: StubModel) -> AsyncIterator[Chat]:
    """The gateway as the server has it, the stub its provider; how to talk to agents behind it."""
    http = LazySession()
    database = Database(host.settings.database)
    try:
        providers = Providers(ProviderTable(database), Vault(secrets.token_bytes(32)), http)
        await providers.add(
            NewProvider(STUB, ProviderKind.openai, stub.url, model=MODEL, key=stub.key)
        )
        gateway = Gateway(
            host.key, providers, Choices(host.incus), UsageTable(database), http, host.now
        )
        async with gateway.serving(host.settings.gateway_socket):
            yield Chat(host, providers)
    finally:
        await http.close()
        database.close()


async def deploy_agent(recipe: Recipe, host: Host) -> str:
    """Deploy an agent by its image and wait until it answers; the steps' seconds in words."""
    spec = AgentSpec(AGENT, framework=recipe.name, source=Source.image)
    job = await Agents(host).start_deploy(spec)
    job = await host.runner.wait_job(job.id)
    if job.state is not JobState.succeeded:
        raise NotReady(job.error.message if job.error else "The deploy was stopped.")
    return ", ".join(f"{step.name} {step.seconds:.1f} s" for step in job.steps[1:])


async def check_user(instance: str, incus: Incus) -> str:
    """No process of the agent's unit is root's."""
    # By each process's own cgroup: where the tree is mounted differs with the host's version.
    look = (
        f"for one in /proc/[0-9]*; do grep -qs /{UNIT} $one/cgroup && stat -c %u $one; done; true"
    )
    said = await _run(instance, ("sh", "-c", look), incus, 0)
    users = set(said.split())
    if users != {str(AGENT_UID)}:
        raise SmokeFailed(
            f"The processes of {UNIT} run as users {', '.join(sorted(users)) or 'none'}; "
            f"they have to run as {AGENT_UID}."
        )
    return f"{len(said.split())} processes, all of user {AGENT_UID}"


async def check_turn(chat: Chat, stub: StubModel) -> str:
    """Two questions are answered with what the model said to them, in one conversation.

    As taOS itself talks: streamed, and the agent's own questions go through the gateway.
    """
    for number, question in enumerate((FIRST, SECOND)):
        try:
            async with asyncio.timeout(ASK_WITHIN):
                said = "".join([piece async for piece in await chat.ask(AGENT, question, AGENT)])
        except TimeoutError as error:
            raise SmokeFailed("The agent gave no answer in time.") from error
        except TaosError as error:
            raise SmokeFailed(f"{error.message} {_asked(stub)}") from error
        if stub.word not in said:
            raise SmokeFailed(
                f"The model's answer did not come back; {_asked(stub)} "
                f"The agent said {said[:SAID]!r}."
            )
        if number and not any(FIRST in one and SECOND in one for one in stub.questions):
            raise SmokeFailed("The agent did not remember the first question at the second.")
    if set(stub.callers) != {stub.key}:
        raise SmokeFailed("The agent's question did not come through the gateway.")
    return f"the model's answers came back; {_asked(stub)}"


def _asked(stub: StubModel) -> str:
    return f"it was asked {len(stub.callers)} times."


async def run_as_agent(instance: str, argv: tuple[str, ...], incus: Incus) -> str:
    """Run a command as the agent's user; SmokeFailed with what it said."""
    return await _run(instance, argv, incus, AGENT_UID)


async def _run(instance: str, argv: tuple[str, ...], incus: Incus, user: int) -> str:
    ended = await incus.instances.exec(
        instance, argv, env=AGENT_ENV, user=user, group=user, cwd="/", within=COMMAND_WITHIN
    )
    out = ended.stdout.decode(errors="replace")
    if ended.exit_code:
        said = (ended.stderr.decode(errors="replace") or out).strip()[-SAID:]
        raise SmokeFailed(f"`{' '.join(argv)[:80]}` ended with {ended.exit_code}: {said}")
    return out


def _explain(error: BaseException) -> Problem:
    if isinstance(error, TaosError):
        return Problem(error.code, error.message, error.hint)
    return Problem("incus_failed", f"{type(error).__name__}: {error}")
