"""What a person may type as a limit or a model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyagentos.model.errors import InvalidInput
from tinyagentos.web.limits import read_cpus, read_disk, read_memory, read_model

GIB = 1 << 30


def read_root(text: str) -> int | None:
    return read_disk(text, GIB)


@pytest.mark.parametrize("read", [read_memory, read_root, read_cpus])
@pytest.mark.parametrize("text", ["", "  "])
def test_nothing_means_as_usual(read: Callable[[str], int | None], text: str) -> None:
    assert read(text) is None


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (read_memory, "2.0 GiB", 2 * GIB),
        (read_memory, " 512MiB ", GIB // 2),
        (read_root, "10G", 10 * GIB),
        (read_cpus, "2", 2),
        (read_cpus, " 1024 ", 1024),
    ],
)
def test_what_is_read(read: Callable[[str], int | None], text: str, value: int) -> None:
    assert read(text) == value


@pytest.mark.parametrize(
    ("read", "text", "said"),
    [
        (read_memory, "a lot", "no size. Give one such as"),
        (read_memory, "0", "too little. The least is 64 MiB"),
        (read_memory, "2", "too little. The least is 64 MiB"),
        (read_memory, "9 TiB", "too much. The most is 1024.0 GiB"),
        (read_root, "1 MiB", "too little. The least is 1.0 GiB"),
        (read_root, "99999999999 TiB", "too much"),
        (read_cpus, "0", "whole number from 1 to 1024"),
        (read_cpus, "1025", "whole number"),
        (read_cpus, "9" * 5000, "whole number"),
        (read_cpus, "²", "whole number"),
        (read_cpus, "-1", "whole number"),
        (read_cpus, "1.5", "whole number"),
    ],
)
def test_what_is_refused_in_a_sentence(
    read: Callable[[str], int | None], text: str, said: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        read(text)
    assert said in f"{refused.value.message} {refused.value.hint}"


def test_a_model_is_of_a_provider_that_is_here() -> None:
    assert read_model("", ()) == ""
    assert read_model(" one/meta/llama ", ("one",)) == "one/meta/llama"
    with pytest.raises(InvalidInput, match="no provider 'two'") as refused:
        read_model("two/x", ("one", "three"))
    assert "one, three" in refused.value.hint
    with pytest.raises(InvalidInput) as alone:
        read_model("two/x", ())
    assert "page Models" in alone.value.hint
    for text in ("x", "one/", "one/" + "x" * 300):
        with pytest.raises(InvalidInput, match="names no model"):
            read_model(text, ("one",))


@given(st.text())
def test_whatever_is_typed_is_read_or_refused(text: str) -> None:
    for read in (read_memory, read_root, read_cpus, lambda one: read_model(one, ("one",))):
        with contextlib.suppress(InvalidInput):
            read(text)
