"""Where a provider may be: at home and on the internet, never where the host's own secrets are."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import TCPConnector
from aiohttp.abc import AbstractResolver, ResolveResult
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.provider import fake_provider
from tests.unit.gateway.conftest import Asking, asking
from tinyagentos.gateway.session import LazySession
from tinyagentos.model.errors import InvalidInput, Unavailable
from tinyagentos.model.provider import NewProvider, ProviderKind, checked, is_closed

CLOSED = [
    "169.254.169.254", "169.254.0.1", "0.0.0.0", "0.1.2.3", "224.0.0.251", "239.255.255.250",
    "255.255.255.255", "240.0.0.1", "100.100.100.200", "168.63.129.16", "::", "fe80::1",
    "fe80::1%eth0", "febf::1", "ff02::fb", "::ffff:169.254.169.254", "::ffff:a9fe:a9fe",
    "::ffff:0.0.0.0", "::169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1",
    "fd00:ec2::254", "fd20:ce::254", "no address", "",
]  # fmt: skip
OPEN = ["127.0.0.1", "127.8.8.8", "::1", "10.0.0.7", "192.168.1.20", "172.17.0.1", "100.64.0.7",
        "fd12:3456::7", "::ffff:192.168.1.20", "8.8.8.8", "2606:4700::1111"]  # fmt: skip


@pytest.mark.parametrize("address", CLOSED)
def test_closed_addresses(address: str) -> None:
    assert is_closed(address)


@pytest.mark.parametrize("address", OPEN)
def test_open_addresses(address: str) -> None:
    assert not is_closed(address)


def at(host: str) -> NewProvider:
    return NewProvider("one", ProviderKind.openai, f"http://{host}:8080/v1")


@pytest.mark.parametrize(
    "host",
    [
        *(f"[{one}]" if ":" in one else one for one in CLOSED[:-2] if "%" not in one),
        "2852039166", "0xA9FEA9FE", "0xa9.0xfe.0xa9.0xfe", "0251.0376.0251.0376", "169.254.43518",
        "169.254.169.254.", "127.1", "0",
    ],
)  # fmt: skip
def test_a_provider_is_not_added_there(host: str) -> None:
    with pytest.raises(InvalidInput, match="no address of a provider"):
        checked(at(host))


@pytest.mark.parametrize(
    "host", [*(f"[{one}]" if ":" in one else one for one in OPEN), "nas", "models.example",
             "ollama.local", "4u.example", "0xbeef.example", "localhost"],
)  # fmt: skip
def test_a_provider_is_added_here(host: str) -> None:
    assert checked(at(host)).url == f"http://{host}:8080/v1"


@given(st.ip_addresses(v=6) | st.ip_addresses(v=4))
def test_no_spelling_of_an_address_is_another_address(address: object) -> None:
    assert is_closed(str(address)) == is_closed(getattr(address, "exploded", str(address)))


class Names(AbstractResolver):
    """A name server of an attacker: it says what it likes, and something else the next time."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        address = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        kind = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [
            ResolveResult(hostname=host, host=address, port=port, family=kind, proto=0, flags=0)
        ]

    async def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
async def ask(tmp_path: Path) -> AsyncIterator[Asking]:
    async with asking(tmp_path) as found:
        yield found


def resolve_by(ask: Asking, *answers: str) -> None:
    """Have names mean these addresses, one after the other."""
    http = LazySession(Names(*answers))
    ask.stack.push_async_callback(http.close)
    ask.providers._http = ask.gateway._http = http


@pytest.mark.parametrize("address", ["169.254.169.254", "::ffff:169.254.169.254", "fe80::1"])
async def test_a_name_that_leads_there_is_not_followed(ask: Asking, address: str) -> None:
    await ask.providers.add(at("models.example"))
    resolve_by(ask, address)
    with pytest.raises(Unavailable, match=f"leads to {address}, which is no address"):
        await ask.providers.test("one")
    ask.choose("one/large")
    status, said = await ask.chat()
    assert status == 502
    assert said["error"]["message"] == f"one leads to {address}, which is no address of a provider."


async def test_a_name_that_leads_there_the_second_time_is_not_followed(ask: Asking) -> None:
    resolve_by(ask, "127.0.0.1", "169.254.169.254")
    async with fake_provider(key="") as fake:
        url = f"http://models.example:{fake.port}/v1"
        await ask.providers.add(NewProvider("one", ProviderKind.openai, url))
        assert (await ask.providers.test("one")).models
    # The kept connection is gone with its server, and what the name meant is asked for anew.
    connector = ask.gateway._http().connector
    assert isinstance(connector, TCPConnector)
    connector.clear_dns_cache()
    ask.choose("one/large")
    status, said = await ask.chat()
    assert status == 502
    assert "leads to 169.254.169.254" in said["error"]["message"]


async def test_where_a_provider_redirects_to_is_not_asked(ask: Asking) -> None:
    await ask.add("one", status=302)
    ask.choose("one/large")
    assert (await ask.chat())[0] == 502
    assert [call for call, _ in ask.fakes[0].calls] == ["chat/completions"]


async def test_an_address_of_an_older_server_is_not_asked(ask: Asking) -> None:
    """Rows in the database were checked by the rules of their time."""
    await ask.providers.add(at("10.0.0.7"))
    row = ask.providers._table.list()[0]
    old = replace(row.provider, url="http://169.254.169.254/v1")
    ask.providers._table.put(replace(row, provider=old, sealed_key=b""))
    with pytest.raises(Unavailable, match="no address of a provider"):
        await ask.providers.test("one")
