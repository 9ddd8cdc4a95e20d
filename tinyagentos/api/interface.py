"""An agent's own web interface behind taOS, at an origin of its own.

What an agent serves is a stranger's: on taOS's own origin its scripts could act with the person's
session. So each interface has a listener on a port of its own, opened when somebody wants it. It
lets in who has a session of taOS, and passes on neither that nor any other cookie.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

import aiohttp
from aiohttp import WSCloseCode, WSMsgType, web
from multidict import CIMultiDict, CIMultiDictProxy

from tinyagentos.access import COOKIE
from tinyagentos.agents.host import Host
from tinyagentos.agents.order import FRAMEWORK_KEY
from tinyagentos.agents.requests import get_instance
from tinyagentos.api.hosts import HostNames, bare_host
from tinyagentos.api.ports import Ports
from tinyagentos.api.sockets import bind_tcp
from tinyagentos.gateway.tokens import agent_token
from tinyagentos.model.errors import Conflict, HostNotReady, NotFound, Unavailable
from tinyagentos.net.accept import Acceptor
from tinyagentos.net.connections import Connections
from tinyagentos.net.limits import Limits
from tinyagentos.net.web import note_requests, protocols

_log = logging.getLogger(__name__)
MOST_LISTENERS = 32
PORT_TRIES = 20
UNUSED_FOR = 12 * 3600.0
CONNECT_WITHIN = 10.0
SILENT_WITHIN = 600.0
# Each connection may have another to the agent.
CONNECTIONS = Limits(files_share=16)
MOST_MESSAGE = 32 * 1024 * 1024
CLOSE_WITHIN = 0.5
# How often it is asked of what is open whether its session still lasts.
SESSION_EVERY = 5.0
# RFC 9110, section 7.6.1: between two neighbours only.
HOP = {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer",
       "transfer-encoding", "upgrade", "proxy-connection"}  # fmt: skip
# Nothing of taOS reaches the agent, and nobody who forwarded; the agent sees a caller beside it.
NOT_TO_AGENT = HOP | {"host", "cookie", "origin", "referer", "forwarded", "x-real-ip"}
# What would reach beyond its origin: cookies know no port, and reports go to whom they name.
NOT_FROM_AGENT = HOP | {
    "set-cookie", "clear-site-data", "x-frame-options", "strict-transport-security", "server",
    "content-security-policy", "content-security-policy-report-only", "report-to",
    "reporting-endpoints", "nel", "alt-svc",
}  # fmt: skip
REPORTS = ("report-uri", "report-to")
# Its pages run in the person's browser, from where the network at home can be reached: so they load
# and ask nothing but from where they came. How they are made is their own affair.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline' blob:; connect-src 'self' data: blob:{sockets}; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'self'"
)
HOST = re.compile(r"[A-Za-z0-9.-]+(:[0-9]+)?")
SAFE = {"GET", "HEAD", "OPTIONS"}
SESSION_ENDED = b"Your session has ended."


@dataclass
class Listener:
    """The listener of one agent's interface."""

    instance: str
    port: int
    base: str
    bound: socket.socket
    acceptor: Acceptor
    runner: web.AppRunner
    agent: aiohttp.ClientSession
    used_at: float
    sockets: set[web.WebSocketResponse] = field(default_factory=set)

    async def close(self) -> None:
        """End it with all that goes through it."""
        self.acceptor.stop()
        self.bound.close()
        closing = (one.close(code=WSCloseCode.GOING_AWAY) for one in tuple(self.sockets))
        try:
            async with asyncio.timeout(CLOSE_WITHIN):
                await asyncio.gather(*closing, return_exceptions=True)
        except TimeoutError:
            pass  # the runner's end cuts the rest off
        await self.runner.cleanup()
        await self.agent.close()


class Interfaces:
    """The interfaces that are open."""

    def __init__(
        self,
        host: Host,
        is_session: Callable[[str], bool],
        token: str,
        clock: Callable[[], float] = time.monotonic,
        *,
        hostname: str = "",
    ) -> None:
        """token: the API's own, never passed on; hostname: what the machine calls itself."""
        self._host = host
        self._is_session = is_session
        self._token = token
        self._clock = clock
        self._names = HostNames.of(host.settings, hostname)
        self._ports = Ports(host.settings.data_dir / "interface_ports.json")
        self._open: dict[str, Listener] = {}
        self._opening = asyncio.Lock()
        self._connections = Connections("agents' own interfaces", CONNECTIONS)

    async def open(self, name: str, host_header: str) -> str:
        """Where the agent's interface is for who called us by that name.

        Raises NotFound when there is no such agent or it has none, Conflict when it does not run.
        """
        instance = await get_instance(name, self._host)
        recipe = self._host.recipes.get(instance.config.get(FRAMEWORK_KEY, ""))
        if recipe is None or recipe.agent.interface is None:
            raise NotFound(
                f"Agent {name!r} has no web interface of its own.",
                hint="Talk to it on its page, or with `taos agent chat`.",
            )
        if not instance.is_running:
            raise Conflict(
                f"Agent {name!r} is not running.", hint=f"Start it: `taos agent start {name}`."
            )
        async with self._opening:
            listener = self._open.get(instance.name)
            if listener is None:
                await self._make_room()
                listener = self._open[instance.name] = await self._listen(
                    instance.name, recipe.agent.port
                )
        listener.used_at = self._clock()
        interface = recipe.agent.interface
        token = agent_token(self._host.key, instance.name)
        fragment = interface.fragment.replace("{token}", token)
        called = bare_host(host_header) or "127.0.0.1"
        where = f"[{called}]" if ":" in called else called
        scheme = "https" if self._host.settings.tls_cert else "http"
        address = f"{scheme}://{where}:{listener.port}{quote(interface.path)}"
        return f"{address}#{fragment}" if fragment else address

    async def tidy(self) -> None:
        """Close what nobody used for long, or whose agent is gone."""
        there = {one.name for one in await self._host.watch.instances() if one.is_running}
        for name, one in tuple(self._open.items()):
            unused = not one.sockets and self._clock() - one.used_at > UNUSED_FOR
            if unused or name not in there:
                await self._open.pop(name).close()

    async def close(self) -> None:
        """Close all."""
        await asyncio.gather(*(one.close() for one in self._open.values()))
        self._open.clear()
        self._connections.close()

    async def _make_room(self) -> None:
        if len(self._open) >= MOST_LISTENERS:
            oldest = min(self._open, key=lambda name: self._open[name].used_at)
            await self._open.pop(oldest).close()

    async def _listen(self, instance: str, agent_port: int) -> Listener:
        settings = self._host.settings
        bound = self._bind(instance)
        context = None
        if settings.tls_cert:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(settings.tls_cert, settings.tls_key)
        base = f"http://127.0.0.1:{agent_port}"  # as if the caller were beside the agent
        agent = aiohttp.ClientSession(
            base,
            connector=aiohttp.UnixConnector(str(self._host.socket(instance))),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=CONNECT_WITHIN, sock_read=SILENT_WITHIN
            ),
        )
        app = web.Application(client_max_size=MOST_MESSAGE, middlewares=[note_requests])
        runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=CLOSE_WITHIN
        )

        async def handle(request: web.Request) -> web.StreamResponse:
            made.used_at = self._clock()
            if refusal := self._refuse(request):
                return refusal
            with self._host.uses.using(instance):
                if request.headers.get("upgrade", "").lower() == "websocket":
                    return await self._carry_socket(request, made)
                return await self._carry(request, made)

        app.router.add_route("*", "/{path:.*}", handle)
        await runner.setup()
        acceptor = Acceptor(bound, protocols(runner), self._connections, tls=context)
        port = bound.getsockname()[1]
        made = Listener(instance, port, base, bound, acceptor, runner, agent, self._clock())
        acceptor.start()
        return made

    def _bind(self, instance: str) -> socket.socket:
        """A socket at the port that the interface had, else at one that no agent had."""
        address = self._host.settings.host
        # Somebody else of this host may have the port now; then the agent gets another.
        for wanted in (self._ports.of(instance), *(0,) * PORT_TRIES):
            with contextlib.suppress(HostNotReady):
                bound = bind_tcp(address, wanted)
                port: int = bound.getsockname()[1]
                if not self._ports.is_anothers(port, instance):
                    self._ports.keep(instance, port)
                    return bound
                bound.close()
        raise Unavailable(
            "There is no port left for the agent's interface.", hint="Close other programs."
        )

    def _refuse(self, request: web.Request) -> web.Response | None:
        """What is wrong with the request; None when it may pass."""
        named = request.headers.get("host", "")
        if not self._names.accept(named):
            return _said(421, "taOS does not answer under that host name.")
        if not self._is_session(request.cookies.get(COOKIE, "")):
            return _said(401, "Log in to taOS, then open this from the agent's page.")
        # A page of anybody else has the person's cookie sent along, but not our origin.
        origin, scheme = request.headers.get("origin"), "https" if request.secure else "http"
        if origin is not None and origin != f"{scheme}://{named}":
            return _said(403, "This request did not come from the agent's own pages.")
        is_socket = request.headers.get("upgrade", "").lower() == "websocket"
        if origin is None and (is_socket or request.method not in SAFE):
            return _said(403, "This request does not say where it came from.")
        site = request.headers.get("sec-fetch-site", "same-origin")
        is_visit = request.headers.get("sec-fetch-mode") == "navigate" and request.method == "GET"
        if site not in ("same-origin", "none") and not is_visit:
            return _said(403, "This request did not come from the agent's own pages.")
        return None

    def _headers(self, request: web.Request) -> CIMultiDict[str]:
        """What the agent is told of the request."""
        told = CIMultiDict(
            (name, value) for name, value in request.headers.items()
            if name.lower() not in NOT_TO_AGENT and not name.lower().startswith("x-forwarded")
        )  # fmt: skip
        if self._token in told.get("authorization", ""):
            del told["authorization"]
        return told

    async def _carry(self, request: web.Request, listener: Listener) -> web.StreamResponse:
        """Pass a request on, and what comes back, as it comes, while the session lasts."""
        headers = self._headers(request)
        if "origin" in request.headers:
            headers["Origin"] = listener.base
        answer: web.StreamResponse | None = None
        try:
            async with listener.agent.request(
                request.method,
                request.rel_url,
                headers=headers,
                data=request.content if request.can_read_body else None,
                allow_redirects=False,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            ) as response:
                if not 200 <= response.status <= 599:
                    return _said(502, "The agent's answer cannot be passed on.")
                answer = web.StreamResponse(
                    status=response.status, headers=_safe_headers(response.headers, request.host)
                )
                await answer.prepare(request)
                session = request.cookies.get(COOKIE, "")
                if not await self._pass_on(response, answer, session):
                    _cut_off(request)
                return answer
        except (aiohttp.ClientConnectorError, TimeoutError):
            sentence = "The agent does not answer."
        except Exception as error:
            # What a stranger's answer raises is nobody's list.
            _log.info("an agent's answer broke", extra={"why": f"{type(error).__name__}: {error}"})
            sentence = "The agent's answer cannot be passed on."
        if answer is None:
            return _said(502, sentence)
        # It has begun: the browser is to know that this is not its end.
        _cut_off(request)
        return answer

    async def _pass_on(
        self, response: aiohttp.ClientResponse, answer: web.StreamResponse, session: str
    ) -> bool:
        """Pass the agent's bytes on; False when the session ended before they did."""

        async def carry() -> None:
            async for chunk in response.content.iter_any():
                await answer.write(chunk)

        carrying = asyncio.ensure_future(carry())
        ending = asyncio.ensure_future(self._until_logged_out(session))
        try:
            await asyncio.wait((carrying, ending), return_when=asyncio.FIRST_COMPLETED)
            if carrying.done():
                carrying.result()
            return carrying.done()
        finally:
            for task in (carrying, ending):
                task.cancel()
            await asyncio.gather(carrying, ending, return_exceptions=True)

    async def _carry_socket(self, request: web.Request, listener: Listener) -> web.StreamResponse:
        """Pass a WebSocket's messages on in both directions until one side ends or the session."""
        asked = request.headers.get("sec-websocket-protocol", "")
        protocols = [one.strip() for one in asked.split(",") if one.strip()]
        headers = CIMultiDict(
            (name, value) for name, value in self._headers(request).items()
            if not name.lower().startswith("sec-websocket")
        )  # fmt: skip
        try:
            agent = await listener.agent.ws_connect(
                request.rel_url, protocols=protocols, headers=headers,
                origin=listener.base, max_msg_size=MOST_MESSAGE,
            )  # fmt: skip
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return _said(502, "The agent does not answer.")
        chosen = (agent.protocol,) if agent.protocol else ()
        person = web.WebSocketResponse(
            protocols=chosen, max_msg_size=MOST_MESSAGE, compress=False, timeout=CLOSE_WITHIN
        )
        async with agent:
            await person.prepare(request)
            listener.sockets.add(person)
            tasks = [
                asyncio.ensure_future(_pump(person, agent)),
                asyncio.ensure_future(_pump(agent, person)),
                asyncio.ensure_future(self._until_logged_out(request.cookies.get(COOKIE, ""))),
            ]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                if tasks[2].done():
                    await person.close(code=WSCloseCode.POLICY_VIOLATION, message=SESSION_ENDED)
                else:
                    await person.close(code=agent.close_code or WSCloseCode.GOING_AWAY)
            finally:
                listener.sockets.discard(person)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        return person

    async def _until_logged_out(self, session: str) -> None:
        while self._is_session(session):
            await asyncio.sleep(SESSION_EVERY)


Side = web.WebSocketResponse | aiohttp.ClientWebSocketResponse


async def _pump(source: Side, sink: Side) -> None:
    """Messages of the one for the other, until the one has no more."""
    async for message in source:
        match message.type:
            case WSMsgType.TEXT:
                await sink.send_str(message.data)
            case WSMsgType.BINARY:
                await sink.send_bytes(message.data)


def _cut_off(request: web.Request) -> None:
    """End the connection in the middle."""
    if request.transport:
        request.transport.abort()


def _safe_headers(given: CIMultiDictProxy[str], host: str) -> CIMultiDict[str]:
    """The agent's headers that may reach the browser, with what no page of it may loosen.

    host: what the browser called us.
    """
    told = CIMultiDict(
        (name, value) for name, value in given.items() if name.lower() not in NOT_FROM_AGENT
    )
    for policy in policies(given.getall("content-security-policy", ()), host):
        told.add("Content-Security-Policy", policy)
    told["X-Frame-Options"] = "DENY"
    told["X-Content-Type-Options"] = "nosniff"
    told["Referrer-Policy"] = "no-referrer"
    return told


def policies(own: Sequence[str], host: str) -> tuple[str, ...]:
    """What the agent's pages may, each of which holds: its own policies, without reports, and ours.

    host: as the browser has it, for browsers to which 'self' means no WebSocket.
    """
    kept = (
        ";".join(
            one for one in policy.split(";")
            if one.strip().partition(" ")[0].lower() not in REPORTS
        )
        for policy in ",".join(own).split(",")
    )  # fmt: skip
    sockets = f" ws://{host} wss://{host}" if HOST.fullmatch(host) else ""
    return (*(one for one in kept if one.strip()), POLICY.format(sockets=sockets))


def _said(status: int, sentence: str) -> web.Response:
    return web.Response(status=status, text=f"{sentence}\n")
