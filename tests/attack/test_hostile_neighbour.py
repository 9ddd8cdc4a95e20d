"""A hostile neighbour on the local network: it reaches the server's port, and has no password."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from bench.common import ROOT, Server
from bench.half_open import ask_both, port_of, server_without_incus
from tests.attack.crowd import Crowd, crowded, send_raw
from tinyagentos.access import COOKIE, DEVICE_COOKIE
from tinyagentos.web.look import STATIC

pytestmark = pytest.mark.e2e
PASSWORD = "a password of the test"
FILES = 1024
LOADED_WITHIN = 30
ANSWER = re.compile(rb"HTTP/1\.1 (\d+)")


@pytest.fixture(scope="module")
def taos() -> Iterator[Server]:
    """A server with few files, a password and its pages loaded."""
    with server_without_incus(ROOT, FILES) as made:
        made.http.put("/api/web/password", json={"password": PASSWORD}).raise_for_status()
        wait_pages(made)
        yield made


@pytest.fixture
def own() -> Iterator[Server]:
    """A server of the test's own, without a password."""
    with server_without_incus(ROOT, FILES) as made:
        yield made


def wait_pages(taos: Server) -> None:
    """Wait until NiceGUI answers."""
    until = time.monotonic() + LOADED_WITHIN
    while taos.http.get("/", headers={"Accept": "text/html"}).status_code == 503:
        assert time.monotonic() < until
        time.sleep(0.2)


def neighbour(taos: Server, number: int = 2, **more: str) -> httpx.Client:
    """A client at an address of its own."""
    return httpx.Client(
        transport=httpx.HTTPTransport(local_address=f"127.2.0.{number}"),
        base_url=f"http://127.0.0.1:{port_of(taos)}", headers=more, timeout=10,
    )  # fmt: skip


def log_in(http: httpx.Client, taos: Server, password: str, **headers: str) -> httpx.Response:
    """What the login says to the password."""
    origin = {"Origin": f"http://127.0.0.1:{port_of(taos)}"}
    return http.post("/login", data={"password": password}, headers={**origin, **headers})


@pytest.mark.parametrize(
    ("addresses", "trickle"), [(1, 0), (1000, 0), (1000, 1.0)], ids=["one", "many", "trickling"]
)
def test_three_thousand_half_open_connections_keep_nobody_out(
    own: Server, addresses: int, trickle: float
) -> None:
    with crowded(Crowd(port_of(own), 3000, addresses, trickle)) as crowd:
        time.sleep(1)
        told = ask_both(own, 5)
        assert crowd.end().opened >= 3000
    assert told["health"]["median"] < 1
    assert told["unix_socket"]["median"] < 1
    assert told["unix_socket"]["unanswered"] == 0
    assert told["log_growth_kb"] < 100


def test_who_takes_no_answer_keeps_nobody_out(taos: Server) -> None:
    asks = f"GET {STATIC}/taos.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode() * 200
    held = []
    try:
        for number in range(200):
            raw = socket.create_connection(
                ("127.0.0.1", port_of(taos)), 5, (f"127.3.{number}.1", 0)
            )
            raw.setblocking(False)
            held.append(raw)
            raw.send(asks)
        told = ask_both(taos, 10)
    finally:
        for raw in held:
            raw.close()
    assert told["health"]["median"] < 1
    assert told["unix_socket"]["unanswered"] == 0


def test_nonsense_does_not_fill_the_log(taos: Server) -> None:
    log = taos.folder / "server.log"
    before = log.stat().st_size
    said = (
        b"\x16\x03\x01\x02\x00\x01\x00", b"NONSENSE\r\n\r\n", b"GET / HTTP/1.1\r\n\xff: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xe9\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nCookie: taos_session=\xe9\r\nConnection: close\r\n\r\n",
    )  # fmt: skip
    for number in range(300):
        send_raw(port_of(taos), said[number % len(said)], 0.2)
    assert log.stat().st_size - before < 5000


SMUGGLED = b"GET /api/health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
CHUNKED = b"0\r\n\r\n" + SMUGGLED
LENGTH = str(len(CHUNKED)).encode()


def posted(*headers: bytes, body: bytes) -> bytes:
    return b"\r\n".join((b"POST /login HTTP/1.1", b"Host: 127.0.0.1", *headers, b"", body))


@pytest.mark.parametrize(
    "said",
    [
        posted(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=CHUNKED),
        posted(b"Transfer-Encoding: chunked", b"Content-Length: " + LENGTH, body=CHUNKED),
        posted(b"Content-Length: 0", b"Content-Length: " + LENGTH, body=CHUNKED),
        posted(b"Content-Length: 0, " + LENGTH, body=CHUNKED),
        posted(b"Content-Length: +0", body=CHUNKED),
        posted(b"Content-Length : 0", body=CHUNKED),
        posted(b"Transfer-Encoding: xchunked", body=CHUNKED),
        posted(b"Transfer-Encoding: chunked, identity", body=CHUNKED),
        posted(b"Transfer-Encoding : chunked", body=CHUNKED),
        posted(b"X: y", b" Transfer-Encoding: chunked", b"Content-Length: " + LENGTH, body=CHUNKED),
        posted(b"Content-Length: 0\n" + SMUGGLED, body=b""),
        posted(b"Transfer-Encoding: chunked", body=b"0x0\r\n\r\n" + SMUGGLED),
        posted(b"Transfer-Encoding: chunked", body=b"-1\r\n\r\n" + SMUGGLED),
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.test\r\n\r\n",
        b"GET /\tx HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: \x00\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
    ],
    ids=lambda said: repr(said[:90]),
)  # fmt: skip
def test_no_request_hides_in_another(taos: Server, said: bytes) -> None:
    heard = ANSWER.findall(send_raw(port_of(taos), said, 1))
    assert len(heard) <= 1
    assert all(400 <= int(one) < 500 for one in heard)


def test_a_whole_address_in_the_request_is_no_other_name(taos: Server) -> None:
    for target in (b"http://evil.test/api/agents", b"http://127.0.0.1/api/agents", b"//api/agents"):
        heard = send_raw(
            port_of(taos), b"GET " + target + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 1
        )
        assert ANSWER.findall(heard) in ([b"401"], [b"404"])


@pytest.mark.parametrize("folder", [STATIC, "/_taos", "/_nicegui/3.18.0/static", "/images/weights"])
@pytest.mark.parametrize(
    "way",
    ["/../../door.py", "/..%2fdoor.py", "/%2e%2e/door.py", "/%2e%2e%2f%2e%2e%2fdoor.py",
     "/..%252fdoor.py", "/..\\door.py", "/..%5cdoor.py", "/%00", "/taos.css%00.py", "//etc/passwd",
     "/%2fetc%2fpasswd", "/....//door.py", "/%c0%ae%c0%ae/door.py"],
)  # fmt: skip
def test_no_file_but_its_own_is_read(taos: Server, folder: str, way: str) -> None:
    said = f"GET {folder}{way} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    heard = send_raw(port_of(taos), said.encode(), 2)
    [status] = ANSWER.findall(heard)
    assert status in (b"400", b"401", b"404")
    for secret in (b"root:", b"class Door", b"import "):
        assert secret not in heard


def test_a_stranger_makes_the_server_build_no_page(taos: Server) -> None:
    with neighbour(taos, Accept="text/html") as http:
        for path in ("/_nicegui/x", "/_taos/x", "/_nicegui/3.18.0/static/nicegui.js",
                     "/_nicegui_ws/socket.io/?EIO=4&transport=polling"):  # fmt: skip
            answer = http.get(path)
            assert answer.status_code == 404
            assert len(answer.content) < 300
        assert http.get(f"{STATIC}/taos.css").status_code == 200
        page = http.get("/login").text
        # What the login needs is there without a session.
        for needed in re.findall(r'(?:href|src)="(/[^"]+)"', page):
            assert http.get(needed).status_code == 200


def test_a_setup_code_is_guessed_by_nobody_and_works_once(own: Server) -> None:
    code = own.http.post("/api/web/setup-code").json()["code"]
    headers = {"Origin": f"http://127.0.0.1:{port_of(own)}"}

    def visit(number: int, given: str) -> tuple[int, bool]:
        form = {"code": given, "password": f"{PASSWORD} {number}"}
        with neighbour(own, 10 + number, **headers) as http:
            answer = http.post("/setup", data=form)
            return answer.status_code, COOKIE in answer.headers.get("set-cookie", "")

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(lambda number: visit(number, ""), range(4))) == {(401, False)}
        guesses = [f"aaaaa-aaaa{letter}" for letter in "bcdefghjkm"]
        assert set(pool.map(visit, range(10), guesses)) == {(401, False)}
        done = list(pool.map(lambda number: visit(number, code), range(16)))
    [winner] = [number for number, (_, got_in) in enumerate(done) if got_in]
    with neighbour(own, 60) as http:
        assert COOKIE in log_in(http, own, f"{PASSWORD} {winner}").headers.get("set-cookie", "")


@pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "CF-Connecting-IP"])
def test_a_header_is_nobodys_address(own: Server, name: str) -> None:
    own.http.put("/api/web/password", json={"password": PASSWORD}).raise_for_status()
    with neighbour(own) as http:
        said = [log_in(http, own, "guess", **{name: f"10.9.0.{n}"}).status_code for n in range(6)]
    assert said == [401] * 5 + [429]


def test_guesses_from_everywhere_do_not_lock_the_owner_out(own: Server) -> None:
    own.http.put("/api/web/password", json={"password": PASSWORD}).raise_for_status()
    with neighbour(own, 250) as owner:
        assert log_in(owner, own, PASSWORD).status_code == 303
        origin = {"Origin": f"http://127.0.0.1:{port_of(own)}"}
        assert owner.post("/logout", headers=origin).status_code == 303
        for number in range(35):
            with neighbour(own, 100 + number) as http:
                log_in(http, own, "guess")
        with neighbour(own, 251) as stranger:
            assert log_in(stranger, own, PASSWORD).status_code == 429
        assert DEVICE_COOKIE in owner.cookies
        assert log_in(owner, own, PASSWORD).status_code == 303


def test_a_session_is_never_the_strangers_choice_and_its_cookie_is_kept_close(
    taos: Server,
) -> None:
    with neighbour(taos, 20) as http:
        chosen = {"Cookie": f"{COOKIE}=chosen-by-somebody-else"}
        answer = log_in(http, taos, PASSWORD, **chosen)
        for cookie in answer.headers.get_list("set-cookie"):
            assert "httponly" in cookie.lower()
            assert "samesite=strict" in cookie.lower()
            assert "chosen" not in cookie
        assert http.get("/api/jobs", headers=chosen).status_code == 401
        assert http.get("/api/jobs").status_code == 200


@pytest.mark.parametrize("path", ["/_nicegui_ws/socket.io/?EIO=4&transport=websocket",
                                  "/api/agents/x/shell", "/api/agents/x/shell?root=1"])  # fmt: skip
@pytest.mark.parametrize("origin", ["http://evil.test", "null", "", "own"])
def test_no_websocket_without_a_session(taos: Server, path: str, origin: str) -> None:
    where = f"http://127.0.0.1:{port_of(taos)}" if origin == "own" else origin
    said = (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port_of(taos)}\r\nConnection: Upgrade\r\n"
        f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nOrigin: {where}\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    heard = send_raw(port_of(taos), said.encode(), 3)
    [status] = ANSWER.findall(heard)
    assert status in (b"401", b"403", b"404")


def test_nobody_on_the_network_has_the_unix_sockets_rights(taos: Server) -> None:
    path = str(taos.socket)
    for host in (path, f"unix:{path}", "taos", "localhost"):
        said = f"GET /api/agents HTTP/1.0\r\nHost: {host}\r\nX-Forwarded-Host: {path}\r\n\r\n"
        assert ANSWER.findall(send_raw(port_of(taos), said.encode(), 2)) == [b"401"]
    assert Path(path).stat().st_mode & 0o777 == 0o600
    assert Path(path).parent.stat().st_mode & 0o077 == 0
