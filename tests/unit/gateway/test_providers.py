"""Providers: added, changed, tested, found."""

from __future__ import annotations

import json

import pytest

from tests.fakes.provider import KEY, fake_provider
from tests.unit.gateway.conftest import Asking
from tinyagentos.gateway import providers as module
from tinyagentos.model.errors import InvalidInput, NotFound, Unavailable
from tinyagentos.model.provider import (
    ModelRef,
    NewProvider,
    ProviderKind,
    checked,
    parse_model,
)

KINDS = list(ProviderKind)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_test_lists_the_models_and_the_first_becomes_the_default(
    ask: Asking, kind: ProviderKind
) -> None:
    await ask.add("one", kind)
    tested = await ask.providers.test("one")
    assert tested.models == ("small", "large")
    assert await ask.providers.default_model() == ModelRef("one", "small")


async def test_a_key_stays_when_only_the_model_changes(ask: Asking) -> None:
    fake = await ask.add("one")
    changed = await ask.providers.add(
        NewProvider("one", ProviderKind.openai, fake.url, model="large")
    )
    assert changed.has_key
    assert (await ask.providers.test("one")).models


async def test_a_key_never_goes_to_another_address(ask: Asking) -> None:
    await ask.add("one")
    async with fake_provider() as other:
        moved = await ask.providers.add(NewProvider("one", ProviderKind.openai, other.url))
        assert not moved.has_key
        with pytest.raises(Unavailable):
            await ask.providers.test("one")
        assert KEY not in str(other.headers)


async def test_what_a_failing_test_says(ask: Asking) -> None:
    fake = await ask.add("one", key="another")
    with pytest.raises(Unavailable, match="does not take the key") as refused:
        await ask.providers.test("one")
    assert KEY not in refused.value.message
    fake.key = KEY
    deep, many = b"[" * 100_000, b'{"data": [' + b"{}," * 200_000 + b"{}]}"
    for raw in (b"{}", b"[1]", b"x", b'{"data": [{"id": "a"}, 5]}', deep, many):
        fake.status, fake.raw = 200, raw
        with pytest.raises(Unavailable, match="list of models"):
            await ask.providers.test("one")
    fake.status = 500
    with pytest.raises(Unavailable, match="500"):
        await ask.providers.test("one")
    with pytest.raises(NotFound):
        await ask.providers.test("nobody")


async def test_a_local_ollama_is_found_and_gives_way_to_an_added_one(
    ask: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fake_provider(key="") as local:
        monkeypatch.setitem(module.USUAL_URL, ProviderKind.ollama, local.root)
        [found] = await ask.providers.list_providers()
        assert (found.name, found.found, found.model) == ("ollama", True, "small")
        assert await ask.providers.default_model() == ModelRef("ollama", "small")
        assert ModelRef("ollama", "large") in ask.providers.known_models()
        status, _ = await ask.chat()
        assert status == 200
        await ask.add("mine", ProviderKind.ollama)
        assert [one.name for one in await ask.providers.list_providers()] == ["mine"]


async def test_models_are_known_from_the_last_test_without_asking_anybody(ask: Asking) -> None:
    fake = await ask.add("one")
    assert ask.providers.known_models() == ()
    assert ask.providers.known_default() is None
    await ask.providers.test("one")
    await ask.add("two")
    asked = len(fake.calls)
    assert ask.providers.known_models() == (ModelRef("one", "small"), ModelRef("one", "large"))
    assert ask.providers.known_default() == ModelRef("one", "small")
    assert [one.models for one in ask.providers.list_known()] == [("small", "large"), ()]
    assert len(fake.calls) == asked
    fake.status = 500
    with pytest.raises(Unavailable):
        await ask.providers.test("one")
    assert ask.providers.known_models(), "what it told before is still worth showing"


async def test_the_chosen_default_is_known_first_and_another_address_has_other_models(
    ask: Asking,
) -> None:
    fake = await ask.add("one")
    await ask.providers.test("one")
    await ask.providers.add(NewProvider("one", ProviderKind.openai, fake.url, model="large"))
    assert [str(one) for one in ask.providers.known_models()] == ["one/large", "one/small"]
    await ask.providers.add(NewProvider("one", ProviderKind.openai, "http://127.0.0.1:1/v1"))
    assert ask.providers.known_models() == ()


async def test_what_cannot_be_chosen_is_not_offered(ask: Asking) -> None:
    names = ["", "a b", "a,b", "x" * 300, "<b>bold</b>"]
    raw = json.dumps({"data": [{"id": name} for name in names]}).encode()
    await ask.add("one", raw=raw)
    await ask.providers.test("one")
    assert [str(one) for one in ask.providers.known_models()] == ["one/<b>bold</b>"]


async def test_a_removed_provider_is_gone(ask: Asking) -> None:
    await ask.add("one")
    ask.providers.remove("one")
    with pytest.raises(NotFound):
        ask.providers.remove("one")
    assert "one" not in [one.name for one in await ask.providers.list_providers()]


@pytest.mark.parametrize(
    "new",
    [
        NewProvider("", ProviderKind.openai),
        NewProvider("A b", ProviderKind.openai),
        NewProvider("a/b", ProviderKind.openai),
        NewProvider("x" * 41, ProviderKind.openai),
        NewProvider("x", ProviderKind.openai, "ftp://host/"),
        NewProvider("x", ProviderKind.openai, "http://user:secret@host/"),
        NewProvider("x", ProviderKind.openai, "http://host/?a=b"),
        NewProvider("x", ProviderKind.openai, "http://host:99999/"),
        NewProvider("x", ProviderKind.openai, "http://[::1/"),
        NewProvider("x", ProviderKind.openai, "file:///etc/passwd"),
        NewProvider("x", ProviderKind.openai, key="a\nX-Evil: 1"),
        NewProvider("x", ProviderKind.openai, key="schlüssel"),
        NewProvider("x", ProviderKind.openai, model="a\x00b"),
    ],
)
def test_what_cannot_be_a_provider(new: NewProvider) -> None:
    with pytest.raises(InvalidInput):
        checked(new)


@pytest.mark.parametrize("text", ["", "a", "/b", "a/", "A/b", "a/b c", "a/b,c", "a/" + "x" * 300])
def test_what_names_no_model(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_model(text)


def test_a_models_own_name_may_hold_slashes() -> None:
    assert parse_model("one/meta/llama:8b") == ModelRef("one", "meta/llama:8b")
