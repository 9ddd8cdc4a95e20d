"""Keys at rest and tokens of agents."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyagentos.gateway.session import LazySession
from tinyagentos.gateway.tokens import agent_token, model_token, owner_of
from tinyagentos.gateway.vault import Vault
from tinyagentos.model.errors import HostNotReady
from tinyagentos.model.provider import NewProvider, Provider, ProviderKind

SECRET = "sk-secret-of-a-person"


@given(st.text(), st.text(min_size=1))
def test_what_is_sealed_opens_for_the_same_thing_only(bound: str, text: str) -> None:
    vault = Vault(b"k" * 32)
    bound = bound.encode("utf-8", "replace").decode()
    text = text.encode("utf-8", "replace").decode()
    sealed = vault.seal(bound, text)
    assert vault.open(bound, sealed) == text
    assert sealed != vault.seal(bound, text)
    for other_vault, other in ((vault, bound + "x"), (Vault(b"o" * 32), bound)):
        with pytest.raises(HostNotReady):
            other_vault.open(other, sealed)
    with pytest.raises(HostNotReady):
        vault.open(bound, sealed[:-1] + bytes([sealed[-1] ^ 1]))


def test_nothing_stays_nothing() -> None:
    assert Vault(b"k" * 32).seal("a", "") == b""
    assert Vault(b"k" * 32).open("a", b"") == ""


@given(st.from_regex(r"[a-z][a-z0-9-]{0,30}-[0-9a-f]{6}", fullmatch=True), st.binary(min_size=32))
def test_a_token_tells_whose_it_is_and_cannot_be_made_without_the_key(
    instance: str, key: bytes
) -> None:
    token = model_token(key, instance)
    assert owner_of(key, token) == instance
    assert owner_of(key + b"x", token) is None
    assert owner_of(key, agent_token(key, instance)) is None
    assert owner_of(key, f"x{token}") is None


@given(st.text())
def test_any_other_text_is_nobodys(text: str) -> None:
    assert owner_of(b"k" * 32, text) is None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


async def test_the_key_is_not_in_the_database_nor_in_what_is_printed(folder: Path) -> None:
    from tinyagentos.gateway.providers import Providers
    from tinyagentos.store.database import Database
    from tinyagentos.store.providers import ProviderTable

    database = Database(folder / "taos.db")
    providers = Providers(ProviderTable(database), Vault(b"v" * 32), LazySession())
    new = NewProvider("one", ProviderKind.anthropic, key=SECRET)
    assert SECRET not in repr(new)
    kept = await providers.add(new)
    assert kept == Provider("one", ProviderKind.anthropic, "https://api.anthropic.com", "", True)
    upstream = await providers.open("one")
    assert SECRET in dict(upstream.headers()).values()
    assert SECRET not in repr(upstream)
    database.close()
    for file in folder.iterdir():
        assert SECRET.encode() not in file.read_bytes(), file
