"""Serving for real: two ways in, one server at a time, and a calm end."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.unit.api.fake_services import FakeServices
from tests.unit.api.live import WITHIN, LiveServer, live_server
from tinyagentos.api.app import create_api
from tinyagentos.api.serve import serve
from tinyagentos.api.sockets import answers, bind_local, bind_tcp, listening, web_address
from tinyagentos.config import Settings
from tinyagentos.model.errors import Conflict, HostNotReady

ROOT = Path(__file__).parent.parent.parent.parent


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    with live_server(tmp_path) as serving:
        yield serving


def over_socket(settings: Settings) -> httpx.Client:
    transport = httpx.HTTPTransport(uds=str(settings.server_socket))
    return httpx.Client(transport=transport, base_url="http://whatever", timeout=WITHIN)


def test_the_unix_socket_needs_no_token_and_the_address_does(server: LiveServer) -> None:
    with over_socket(server.settings) as http:
        assert http.get("/api/agents").status_code == 200
    with httpx.Client(base_url=server.address, trust_env=False) as http:
        assert http.get("/api/health").status_code == 200
        assert http.get("/api/agents").status_code == 401
        token = server.services.token
        headers = {"Authorization": f"Bearer {token}"}
        assert http.get("/api/agents", headers=headers).status_code == 200


@pytest.mark.parametrize("name", ["X-Forwarded-For", "X-Forwarded-Host", "Forwarded"])
def test_nobody_on_the_address_passes_for_the_socket(server: LiveServer, name: str) -> None:
    path = str(server.settings.server_socket)
    with httpx.Client(base_url=server.address, trust_env=False) as http:
        for headers in ({name: path}, {"Host": path}, {"Host": f"unix:{path}"}):
            assert http.get("/api/agents", headers=headers).status_code == 401
    host, port = server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=WITHIN) as raw:
        raw.sendall(f"GET http://{path}/api/agents HTTP/1.0\r\n\r\n".encode())
        assert b" 401 " in raw.recv(1000).splitlines()[0]


def test_the_socket_is_its_owners_alone(server: LiveServer) -> None:
    assert stat.S_IMODE(server.settings.server_socket.stat().st_mode) == 0o600


def test_a_second_server_is_refused_and_the_first_one_stays(server: LiveServer) -> None:
    with pytest.raises(Conflict), listening(server.settings):
        pass
    assert answers(server.settings.server_socket)


def test_the_socket_of_a_dead_server_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "taos.sock"
    bind_local(path).close()
    assert not answers(path)
    with bind_local(path):
        assert answers(path)
        with pytest.raises(Conflict):
            bind_local(path)


def test_nothing_is_left_of_a_server_that_ended(tmp_path: Path) -> None:
    with live_server(tmp_path) as server:
        settings = server.settings
    assert not settings.server_socket.exists()
    with listening(settings):
        pass


def test_a_taken_port_is_said_with_what_to_do(tmp_path: Path) -> None:
    with bind_tcp("127.0.0.1", 0) as taken:
        settings = Settings(data_dir=tmp_path, run_dir=tmp_path, port=taken.getsockname()[1])
        with pytest.raises(HostNotReady) as caught, listening(settings):
            pass
    assert "TAOS_PORT" in caught.value.hint
    assert not settings.server_socket.exists()


@pytest.mark.parametrize("host", ["203.0.113.7", "no such host"])
def test_an_address_that_is_not_ours_is_said(host: str) -> None:
    with pytest.raises(HostNotReady, match="cannot listen"):
        bind_tcp(host, 0)


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for data, run in (("file", "run"), ("data", "file")):
        settings = Settings(data_dir=tmp_path / data, run_dir=tmp_path / run, port=0)
        with pytest.raises(HostNotReady), listening(settings):
            pass


def test_an_ipv6_address_is_written_with_brackets() -> None:
    assert web_address("::1", 8420) == "http://[::1]:8420"
    assert web_address("127.0.0.1", 1) == "http://127.0.0.1:1"


def test_a_body_far_too_large_is_refused_and_not_kept(server: LiveServer) -> None:
    with over_socket(server.settings) as http:
        answer = http.post("/api/agents/deploy", content=b"x" * 300_000)
        assert answer.status_code == 413
        assert http.get("/api/health").status_code == 200


def test_a_caller_that_leaves_a_stream_does_no_harm(server: LiveServer) -> None:
    with over_socket(server.settings) as http:
        job = http.post("/api/agents/deploy", json={"name": "waits"}).json()["job"]
        path = f"/api/jobs/{job['id']}/events"
        headers = {"Last-Event-ID": "7 or so"}
        with http.stream("GET", path, headers=headers) as stream:
            assert next(stream.iter_lines()) == "event: job"
        server.call(server.services.go_on.set)
        with http.stream("GET", path) as stream:
            data = [line for line in stream.iter_lines() if line.startswith("data: ")]
        assert json.loads(data[-1][6:])["state"] == "succeeded"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_soon_and_cleanly_with_streams_open(
    tmp_path: Path, number: signal.Signals
) -> None:
    settings = Settings(data_dir=tmp_path, run_dir=tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.unit.api.live", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        assert process.stdout.readline().startswith("http://")
        with over_socket(settings) as http:
            job = http.post("/api/agents/deploy", json={"name": "waits"}).json()["job"]
            with http.stream("GET", f"/api/jobs/{job['id']}/events") as stream:
                lines = stream.iter_lines()
                assert next(lines) == "event: job"
                begun = time.monotonic()
                process.send_signal(number)
                list(lines)  # the stream ends like one that is complete
        assert process.wait(WITHIN) == 0
        assert time.monotonic() - begun < 2.5
        assert "cleaned up" in process.stdout.read()
        assert not settings.server_socket.exists()
    finally:
        process.kill()
        process.communicate()


def test_the_server_runs_outside_the_main_thread(server: LiveServer) -> None:
    assert threading.current_thread() is threading.main_thread()
    assert server.address.startswith("http://127.0.0.1:")


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "taos")])
    now = datetime.now(UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(made.public_bytes(encoding))
    key_file.write_bytes(
        key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert_file, key_file


async def test_with_a_certificate_the_address_is_tls_and_the_socket_is_not(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    services = FakeServices(tmp_path)
    settings = Settings(data_dir=tmp_path, run_dir=tmp_path, port=0, tls_cert=cert, tls_key=key)
    started: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(
        serve(create_api(services), settings, on_started=started.set_result)
    )
    address = await asyncio.wait_for(started, WITHIN)
    assert address.startswith("https://127.0.0.1:")
    context = ssl.create_default_context(cafile=str(cert))
    async with httpx.AsyncClient(base_url=address, verify=context, trust_env=False) as http:
        assert (await http.get("/api/health")).status_code == 200
        assert (await http.get("/api/agents")).status_code == 401
    transport = httpx.AsyncHTTPTransport(uds=str(settings.server_socket))
    async with httpx.AsyncClient(base_url="http://taos", transport=transport) as http:
        assert (await http.get("/api/agents")).status_code == 200
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
