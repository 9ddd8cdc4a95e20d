"""The composition root: builds every real object, starts the server, stops it in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from ipaddress import IPv4Address

from tinyagentos import log
from tinyagentos.access import Access
from tinyagentos.acts.client import Acts
from tinyagentos.agents.chat import Chat
from tinyagentos.agents.choice import needs_line
from tinyagentos.agents.confine import keep_confined
from tinyagentos.agents.host import Host
from tinyagentos.agents.instances import pick_pool
from tinyagentos.agents.kinds import agent_kinds
from tinyagentos.agents.models import Choices, Models
from tinyagentos.agents.network import (
    refresh_bridges,
    refresh_nics,
    refresh_when_changed,
    tidy_bridges,
)
from tinyagentos.agents.readiness import health_asker
from tinyagentos.agents.recipes import RecipeBuilder, agent_recipes
from tinyagentos.agents.reconcile import reconcile
from tinyagentos.agents.service import Agents
from tinyagentos.agents.shell import Shells
from tinyagentos.agents.uses import Uses
from tinyagentos.agents.watch import Watch
from tinyagentos.api.interface import Interfaces
from tinyagentos.config import Settings
from tinyagentos.gateway.providers import Providers
from tinyagentos.gateway.serve import Gateway
from tinyagentos.gateway.session import LazySession
from tinyagentos.gateway.vault import Vault
from tinyagentos.host.check import Check
from tinyagentos.host.daemon_logs import shorten_logs
from tinyagentos.host.facts import (
    has_systemd,
    host_arch,
    memory_available_bytes,
    memory_total_bytes,
    slowness,
)
from tinyagentos.host.incus_daemon import DAEMON_SOCKETS
from tinyagentos.host.incus_rules import IncusRules
from tinyagentos.host.policy import read_host_addresses
from tinyagentos.host.private import PRIVATE, close_to_others
from tinyagentos.host.room import read_room
from tinyagentos.host.token import ensure_key, ensure_token
from tinyagentos.host.walls import RECORD, Firewall, Walls
from tinyagentos.images.download import Supply
from tinyagentos.images.line import Line
from tinyagentos.images.service import Images
from tinyagentos.incus import Busy, Incus, IncusError, IncusUnreachable, OperationLost
from tinyagentos.incus import NoSpace as IncusNoSpace
from tinyagentos.jobs.runner import Runner
from tinyagentos.model.errors import NoSpace, StoreFailed, TaosError
from tinyagentos.model.job import Job, Problem
from tinyagentos.store.access import AccessTable
from tinyagentos.store.database import Database
from tinyagentos.store.jobs import JobTable
from tinyagentos.store.providers import ProviderTable, UsageTable
from tinyagentos.store.reserve import Reserve
from tinyagentos.store.supply import SupplyTable
from tinyagentos.store.timings import TimingTable

_log = logging.getLogger(__name__)
MISSING_WITHIN = 2.0
SETTLE_WITHIN = 60.0
TIDY_EVERY = 3600.0
IDLE_EVERY = 60.0
ADDRESSES_EVERY = 60.0
RECORDS_EVERY = 5.0
AGAIN_AFTER = 10.0
LOGS_EVERY = 20.0


class Services:
    """Everything the faces work with. Building it does no network I/O and asks Incus nothing."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        ensure_folders(settings)
        self.token = ensure_token(settings.token_file)
        self.database = Database(settings.database, reserve=Reserve(settings.data_dir / "reserve"))
        self.access = Access(AccessTable(self.database))
        self.incus = Incus.unix(settings.incus_socket, project=settings.incus_project)
        self.acts = Acts(settings)
        self.jobs = Runner(
            JobTable(self.database),
            clock=lambda: datetime.now(UTC),
            new_id=lambda: uuid.uuid4().hex[:12],
            explain=explain,
            is_transient=is_transient,
            settle=self._settle,
        )
        recipes = agent_recipes()
        line = Line(
            limit=settings.image_rate,
            is_needed=lambda: any(needs_line(job) for job in self.jobs.list_active()),
        )
        timings = TimingTable(self.database)
        watch = Watch(
            self.incus,
            health_asker(recipes, lambda name: settings.agent_sockets / f"{name}.sock"),
            lambda: self.jobs.ended,
        )
        supply = Supply(
            self.incus, settings, host_arch(), line, timings, SupplyTable(self.database),
            lambda: datetime.now(UTC),
        )  # fmt: skip
        self.images = Images(supply, recipes, self.jobs)
        self.host = Host(
            settings=settings,
            incus=self.incus,
            runner=self.jobs,
            timings=timings,
            recipes=recipes,
            builder=RecipeBuilder(self.incus, settings, host_arch(), self.acts.make_base),
            images=self.images,
            line=line,
            arch=host_arch(),
            key=ensure_key(settings.data_dir / "agents.key"),
            new_suffix=lambda: secrets.token_hex(3),
            memory_available=memory_available_bytes,
            memory_total=memory_total_bytes,
            slowness=slowness,
            now=lambda: datetime.now(UTC),
            watch=watch,
            addresses=read_host_addresses,
            uses=Uses(lambda: datetime.now(UTC)),
            walls=Walls(
                Firewall(),
                read_host_addresses,
                lambda: datetime.now(UTC),
                settings.run_dir / RECORD,
            ),
        )
        self.incus_rules = IncusRules(self.incus, self.host.walls, settings.bridge)
        self.agents = Agents(self.host)
        self.http = LazySession()
        vault = Vault(ensure_key(settings.data_dir / "providers.key"))
        self.providers = Providers(ProviderTable(self.database), vault, self.http)
        usage, choices = UsageTable(self.database), Choices(self.incus)
        self.models = Models(self.host, self.providers, usage, choices)
        self.chat = Chat(self.host, self.providers)
        self.shells = Shells(self.host)
        self.interfaces = Interfaces(
            self.host, self.access.is_session, self.token, hostname=socket.gethostname()
        )
        self.gateway = Gateway(
            self.host.key, self.providers, choices, usage, self.http, self.host.now
        )
        for kind in (*agent_kinds(self.host), *self.images.kinds()):
            self.jobs.register(kind)

    async def _settle(self, job: Job) -> None:
        """Wait until Incus has done what an earlier attempt of the job asked it for."""
        if name := job.params.get("instance"):
            with contextlib.suppress(IncusError):
                await self.incus.settle(name, within=SETTLE_WITHIN)

    async def missing(self) -> tuple[Problem, ...]:
        """What keeps this server from deploying agents; empty when nothing does."""
        if failure := self.database.failure:
            return (explain(failure),)
        try:
            async with asyncio.timeout(MISSING_WITHIN):
                room = await read_room(self.incus, (await pick_pool(self.host)).name)
        except TimeoutError:
            return (Problem("host_not_ready", "Incus does not answer.", "Run `taos doctor`."),)
        except (TaosError, IncusError) as error:
            return (explain(error),)
        if room.free_bytes == 0:
            return (Problem(NoSpace.code, f"{room.said}.", room.hint),)
        return ()

    def explain(self, error: BaseException) -> Problem:
        """An exception as a code, a sentence and a hint."""
        return explain(error)

    async def mend(self, check: Check, report: Callable[[str], None]) -> None:
        """Have the host's check made to pass."""
        await self.acts.mend(check, report)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Take up unfinished jobs; at the end leave running ones to the next server."""
        self.database.keep_room()
        self.jobs.start()
        self.images.start_policy()
        upkeep = (
            asyncio.create_task(keep_up("tidying", self._tidy), name="tidy"),
            asyncio.create_task(keep_up("stopping idle agents", self._stop_idle), name="idle"),
            asyncio.create_task(keep_up("watching agents", self.host.watch.run), name="watch"),
            asyncio.create_task(
                keep_up("looking after images", self.images.keep_supplied), name="supply"
            ),
            asyncio.create_task(
                keep_up("following addresses", self._follow_addresses), name="addresses"
            ),
            asyncio.create_task(
                keep_up(
                    "keeping agents confined",
                    lambda: keep_confined(self.incus_rules, self.host.watch),
                ),
                name="confine",
            ),
            asyncio.create_task(keep_up("shortening logs", self._shorten_logs), name="logs"),
            asyncio.create_task(keep_up("writing records", self._write_records), name="records"),
        )
        try:
            async with self.gateway.serving(self.settings.gateway_socket):
                yield
        finally:
            for task in upkeep:
                task.cancel()
            await self.jobs.stop()
            await self.interfaces.close()
            await self.http.close()
            await self.incus.close()
            self.database.close()

    async def _stop_idle(self) -> None:
        """Every minute, stop agents that nobody needs now, if they are to be."""
        while True:
            await asyncio.sleep(IDLE_EVERY)
            await attempt(
                "stopping idle agents", lambda: self.agents.stop_idle(self.gateway.last_used)
            )
            await attempt("closing unused interfaces", self.interfaces.tidy)

    async def _follow_addresses(self) -> None:
        """Close addresses that the host got to agents, a minute later at the latest."""
        known: tuple[IPv4Address, ...] = ()
        while True:
            known = await refresh_when_changed(known, self.host)
            await asyncio.sleep(ADDRESSES_EVERY)

    async def _shorten_logs(self) -> None:
        """Keep the logs of Incus's helpers small, where the host's own Incus is used."""
        while True:
            if os.geteuid() == 0 and self.settings.incus_socket in DAEMON_SOCKETS:
                for log_file in await asyncio.to_thread(shorten_logs):
                    _log.warning("a log was emptied", extra={"file": log_file})
            await asyncio.sleep(LOGS_EVERY)

    async def _write_records(self) -> None:
        """Write what the database did not take, soon after it can again."""
        while True:
            await asyncio.sleep(RECORDS_EVERY)
            if self.database.failure:
                self.database.flush()
            self.database.keep_reserve()

    async def _forget_usage(self) -> None:
        # Jobs first: an instance that an upgrade renames has one.
        busy = {job.params.get("instance", "") for job in self.jobs.list_active()}
        self.gateway.tidy(busy | {one.name for one in await self.incus.instances.list()})

    async def _tidy(self) -> None:
        """Put right what is left over, every hour and whenever Incus was away and is back."""
        unused: frozenset[str] = frozenset()
        an_hour_passed = False

        async def drop_bridges() -> None:
            nonlocal unused
            unused = await tidy_bridges(self.host, unused)

        while True:
            await attempt("refreshing agents' networks", lambda: refresh_bridges(self.host))
            await attempt("filtering agents' addresses", lambda: refresh_nics(self.host))
            await attempt("putting leftovers right", lambda: reconcile(self.host))
            await attempt("ending undo windows", self.agents.end_undo_windows)
            await attempt("forgetting usage of gone agents", self._forget_usage)
            if an_hour_passed:
                await attempt("removing unused bridges", drop_bridges)
            back = self.host.watch.reconnected
            try:
                async with asyncio.timeout(TIDY_EVERY):
                    await back.wait()
            except TimeoutError:
                an_hour_passed = True
            else:
                an_hour_passed = False
                back.clear()


async def attempt(what: str, act: Callable[[], Awaitable[object]]) -> None:
    """Do a piece of upkeep; what goes wrong is logged, and is in no other piece's way."""
    try:
        await act()
    except (TaosError, IncusError) as error:
        _log.warning("%s did not succeed: %s", what, error)
    except Exception:
        _log.exception("%s did not succeed", what)


async def keep_up(
    what: str, work: Callable[[], Awaitable[object]], pause: float = AGAIN_AFTER
) -> None:
    """Have work that is to go on for ever begun again whenever it ends, until cancelled."""
    while True:
        await attempt(what, work)
        await asyncio.sleep(pause)


def is_transient(error: BaseException) -> bool:
    """Whether a job that met it is to be tried again soon.

    Busy: what a server began in Incus goes on when the server dies, and is in the next one's way.
    StoreFailed: another program may hold the database, or the disk may answer again.
    """
    return isinstance(error, IncusUnreachable | OperationLost | Busy | StoreFailed)


def explain(error: BaseException) -> Problem:
    """An exception as a code, a sentence and a hint."""
    match error:
        case TaosError():
            return Problem(error.code, error.message, error.hint)
        case IncusUnreachable():
            return Problem(
                "host_not_ready", "Incus cannot be reached.", "Run `taos doctor`, or `taos setup`."
            )
        case IncusNoSpace():
            return Problem(
                "no_space",
                f"The storage is full. Incus says: {error}",
                "Delete agents or images you do not need, or grow the pool.",
            )
        case IncusError():
            return Problem("incus_failed", f"Incus says: {error}", "`taos doctor` checks the host.")
        case _:
            return Problem(
                "internal", f"Something unexpected happened ({type(error).__name__}).",
                "The server's log has the details.",
            )  # fmt: skip


def ensure_folders(settings: Settings) -> None:
    """The folders of the server; they and their files are closed to all others."""
    for folder in (
        settings.data_dir, settings.cache_dir, settings.agent_sockets, settings.run_dir
    ):  # fmt: skip
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    close_to_others(settings.data_dir)
    close_to_others(settings.run_dir)


async def run_server(settings: Settings) -> None:
    """Serve until a signal ends it.

    Raises Conflict when another server of the same data_dir runs: two would run the same jobs.
    """
    from tinyagentos.api.app import create_api
    from tinyagentos.api.serve import announce, serve
    from tinyagentos.api.sockets import listening
    from tinyagentos.host.incus_daemon import IncusSupervisor
    from tinyagentos.host.server import allow_files
    from tinyagentos.web.entrance import Entrance

    log.set_up(settings.log_level, settings.data_dir / "server.log")
    os.umask(PRIVATE)
    allow_files()
    ensure_folders(settings)
    with listening(settings) as sockets:
        services = Services(settings)
        async with services.running(), contextlib.AsyncExitStack() as stack:
            if os.geteuid() == 0 and not has_systemd():
                supervisor = asyncio.create_task(IncusSupervisor(settings).run())
                stack.callback(supervisor.cancel)
            entrance = Entrance(services)
            loading: list[asyncio.Task[None]] = []

            def started(address: str) -> None:
                announce(address)
                loading.append(asyncio.create_task(entrance.run(), name="web pages"))

            try:
                api = create_api(services, entrance, hostname=socket.gethostname())
                await serve(api, settings, sockets=sockets, on_started=started)
            finally:
                for task in loading:
                    task.cancel()
                await asyncio.gather(*loading, return_exceptions=True)
