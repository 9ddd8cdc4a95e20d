"""A hostile web page in the browser of the owner, who is logged in at taOS.

A real server, and real Chromium. The page comes from another site, and from another port of taOS's
own host. The latter gets the session's cookie sent along, as an agent's own interface would; only
its origin is another.
"""

from __future__ import annotations

import http.server
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from bench.common import ROOT, Server
from bench.half_open import port_of, server_without_incus
from tests.attack.test_hostile_neighbour import PASSWORD, log_in, neighbour, wait_pages
from tests.web.conftest import CHROMIUM
from tinyagentos.access import COOKIE

pytestmark = pytest.mark.e2e
WITHIN = 15_000
# Names of somebody else that lead to this machine, as after DNS rebinding.
EVIL, REBOUND = "evil.test", "rebound.test"
POLLING = "/_nicegui_ws/socket.io/?EIO=4&transport=polling"
PROVIDER = '{"name": "evil", "kind": "openai", "url": "http://127.0.0.1:1/v1", "key": "x"}'


@pytest.fixture(scope="module")
def taos() -> Iterator[Server]:
    """A server with a password and its pages loaded."""
    with server_without_incus(ROOT, 1024) as made:
        made.http.put("/api/web/password", json={"password": PASSWORD}).raise_for_status()
        wait_pages(made)
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, for which the two names lead here."""
    found = next((path for path in map(shutil.which, CHROMIUM) if path), None)
    assert found, "install the package chromium; `./taos test` does"
    args = [
        "--no-sandbox",
        f"--host-resolver-rules=MAP {EVIL} 127.0.0.1, MAP {REBOUND} 127.0.0.1",
        # What Chromium itself holds against rebinding, and other browsers do not.
        "--disable-features=LocalNetworkAccessChecks",
    ]
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=args)
        yield started
        started.close()


class Blank(http.server.BaseHTTPRequestHandler):
    """An empty page for the attack's script, whatever is asked for."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>evil</title><body></body>")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def evil_port() -> Iterator[int]:
    """Where the hostile page is."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Blank) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@dataclass(frozen=True)
class Attack:
    """A hostile page in a browser that is logged in at `ours`."""

    page: Page
    context: BrowserContext
    taos: Server
    ours: str

    def is_logged_in(self) -> bool:
        """Whether the owner's session lasts."""
        return self.context.request.get(f"{self.ours}/api/jobs").status == 200


@pytest.fixture(params=["another site", "another port of the same host"])
def attack(
    request: pytest.FixtureRequest, browser: Browser, taos: Server, evil_port: int
) -> Iterator[Attack]:
    context = browser.new_context()
    context.set_default_timeout(WITHIN)
    ours = f"http://127.0.0.1:{port_of(taos)}"
    page = context.new_page()
    page.goto(f"{ours}/login")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("heading", name="Agents", level=1).wait_for()
    made = Attack(page, context, taos, ours)
    assert made.is_logged_in()
    page.goto(f"http://{EVIL if request.param == 'another site' else '127.0.0.1'}:{evil_port}/")
    yield made
    assert made.is_logged_in()
    assert taos.http.get("/api/providers").json() == []
    context.close()


def test_its_requests_change_nothing(attack: Attack) -> None:
    """Those that need no preflight: `no-cors` with a text that is JSON, and beacons."""
    attack.page.evaluate(
        """async ([ours, provider]) => {
            const say = {method: "POST", mode: "no-cors", credentials: "include"};
            for (const [path, body] of [["/logout", ""], ["/api/providers", provider],
                                        ["/api/agents/upgrade", "{}"]]) {
                await fetch(ours + path, {...say, body, headers: {"Content-Type": "text/plain"}});
                await fetch(ours + path, {...say, body: new URLSearchParams({x: body})});
                navigator.sendBeacon(ours + path, body);
            }
            for (const path of ["/logout", "/api/agents/x/stop"]) {
                await new Promise(done => {
                    const picture = new Image();
                    picture.onload = picture.onerror = done;
                    picture.src = ours + path;
                });
            }
        }""",
        [attack.ours, PROVIDER],
    )


@pytest.mark.parametrize("path", ["/logout", "/api/providers", "/login", "/setup"])
def test_its_forms_are_refused(attack: Attack, path: str) -> None:
    """Also that of the login, with which the owner would work in somebody else's session."""
    with attack.page.expect_navigation() as going:
        attack.page.evaluate(
            """([where, provider]) => {
                const form = document.createElement("form");
                form.method = "post"; form.action = where; form.enctype = "text/plain";
                const field = document.createElement("input");
                field.name = provider; field.value = "";
                form.append(field); document.body.append(form); form.submit();
            }""",
            [attack.ours + path, PROVIDER],
        )
    response = going.value
    assert response
    assert response.status in (401, 403)


def test_it_reads_nothing(attack: Attack) -> None:
    read = attack.page.evaluate(
        """async ([ours, polling]) => {
            const read = [];
            for (const path of ["/api/jobs", "/api/agents", "/login", "/metrics", polling])
                for (const headers of [{}, {"Content-Type": "application/json"}, {"X-Own": "1"}])
                    await fetch(ours + path, {credentials: "include", headers})
                        .then(async answer => read.push(await answer.text()), () => {});
            return read;
        }""",
        [attack.ours, POLLING],
    )
    assert read == []


def test_it_cannot_put_taos_in_a_frame(attack: Attack) -> None:
    attack.page.evaluate(
        """(ours) => Promise.all(["/", "/login", "/agents/x"].map(path => new Promise(done => {
            const frame = document.createElement("iframe");
            frame.onload = done; frame.src = ours + path;
            document.body.append(frame);
        })))""",
        attack.ours,
    )
    shown = [frame.url for frame in attack.page.frames[1:]]
    assert len(shown) == 3
    assert all(url.startswith("chrome-error:") for url in shown)


@pytest.mark.parametrize(
    "path", ["/_nicegui_ws/socket.io/?EIO=4&transport=websocket", "/api/agents/x/shell"]
)
def test_it_gets_no_websocket(attack: Attack, path: str) -> None:
    said = attack.page.evaluate(
        """(where) => new Promise(done => {
            const socket = new WebSocket(where);
            socket.onopen = () => done("open"); socket.onerror = () => done("refused");
        })""",
        attack.ours.replace("http", "ws") + path,
    )
    assert said == "refused"


def test_a_window_it_opens_is_out_of_its_reach(attack: Attack) -> None:
    with attack.context.expect_page() as opening:
        attack.page.evaluate(
            "ours => { window.opened = window.open(ours + '/login') }", attack.ours
        )
    opened = opening.value
    opened.wait_for_load_state()
    assert opened.evaluate("window.opener") is None
    assert attack.page.evaluate("window.opened.closed") is True
    opened.close()


def test_the_sessions_cookie_is_no_scripts_to_read(attack: Attack) -> None:
    assert COOKIE not in attack.page.evaluate("document.cookie")
    attack.page.goto(attack.ours)
    assert COOKIE not in attack.page.evaluate("document.cookie")


def test_a_name_that_was_made_to_lead_here_gets_nothing(browser: Browser, taos: Server) -> None:
    context = browser.new_context()
    context.set_default_timeout(WITHIN)
    page = context.new_page()
    where = f"http://{REBOUND}:{port_of(taos)}"
    answer = page.goto(f"{where}/")
    assert answer
    assert answer.status == 421
    # The page came from its own server while the name still led there; now the name leads here.
    page.route(f"{where}/evil", lambda route: route.fulfill(body="evil", content_type="text/html"))
    page.goto(f"{where}/evil")
    told = page.evaluate(
        """async () => Promise.all(["/api/health", "/api/jobs", "/login", "/setup", "/_taos/x"].map(
            async path => (await fetch(path)).status))"""
    )
    assert set(told) == {401}
    posted = page.evaluate(
        """async (word) => (await fetch("/login", {
            method: "POST", body: new URLSearchParams({password: word})})).status""",
        PASSWORD,
    )
    assert posted == 401
    context.close()


@pytest.mark.parametrize("origin", ["http://evil.test", "null", "http://127.0.0.1:1", "own"])
def test_no_origin_is_allowed_by_header(taos: Server, origin: str) -> None:
    """No answer has a header of CORS, with a session and without, preflight or not."""
    given = f"http://127.0.0.1:{port_of(taos)}" if origin == "own" else origin
    asked = {"Origin": given, "Access-Control-Request-Method": "PUT"}
    with neighbour(taos, 30) as http_:
        for _ in range(2):
            for method in ("OPTIONS", "GET"):
                for path in ("/", "/api/health", "/api/jobs", "/login", POLLING):
                    answer = http_.request(method, path, headers=asked)
                    named = [one for one in answer.headers if one.startswith("access-control")]
                    assert named == [], f"{method} {path}"
            log_in(http_, taos, PASSWORD)
