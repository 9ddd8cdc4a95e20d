"""taos web: the link and the password."""

from __future__ import annotations

import io
import json
import sys

import pytest

from tests.unit.api.live import LiveServer
from tests.unit.cli.conftest import Taos
from tinyagentos.cli.errors import DONE, USAGE
from tinyagentos.cli.web import web_link
from tinyagentos.client import Client, web_address
from tinyagentos.config import Settings


def test_the_link_has_a_code_until_there_is_a_password(server: LiveServer) -> None:
    client = Client.connect(server.settings)
    assert "/setup?code=" in web_link(client, server.settings)
    client.set_web_password("correct horse")
    assert web_link(client, server.settings) == f"{web_address(server.settings)}/"


def test_commands(server: LiveServer, taos: Taos, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = taos("web", "link", "--json")
    assert shown.status == DONE
    assert "/setup?code=" in json.loads(shown.out)["address"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("short\n"))
    assert taos("web", "password", "--stdin").status == USAGE
    monkeypatch.setattr(sys, "stdin", io.StringIO("correct horse\n"))
    assert taos("web", "password", "--stdin").status == DONE
    assert "/setup" not in taos("web", "link").out


def test_the_address_with_tls() -> None:
    settings = Settings(tls_cert="/c", tls_key="/k", host="::", port=1)  # type: ignore[arg-type]
    assert web_address(settings) == "https://[::1]:1"
