"""Whatever stands in taos.toml ends in settings, or in one of the two errors that are worded."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from pydantic_settings import SettingsConfigDict

from tests.unit.fuzz import bounded, deep
from tinyagentos.config import Settings

Read = Callable[[bytes], Settings | None]
VALUES = [
    b"nan", b"inf", b"-inf", b"-1", b"0", b"1e308", b"9" * 30, b"9" * 5000, b'"\\u0000"', b'""',
    b'"a/../b"', b"[]", b"{}", b"true", b"1979-05-27", b'"' + b"x" * 5000 + b'"', b'"\xff"',
    b"''' '''", b"0x7fffffffffffffff", b"[[[[1]]]]", b'"~"', b'"\\U0010ffff"',
]  # fmt: skip


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Read:
    """Reads settings from the bytes of a file; None: refused in words."""
    file = tmp_path_factory.mktemp("settings") / "taos.toml"

    class Here(Settings):
        model_config = SettingsConfigDict(toml_file=file)

    def read_bytes(text: bytes) -> Settings | None:
        file.write_bytes(text)
        found, said = None, list[str]()
        for make in (Here, Here.of_host):
            try:
                found = make()
            except ValidationError as error:
                said.append(str(error.errors()[0]["loc"][0]))  # as the command line does
            except tomllib.TOMLDecodeError as error:
                said.append(str(error))
        assert all(said)
        return found

    return read_bytes


@pytest.mark.parametrize(
    "text",
    [
        b"\xff", b"x = " + b"9" * 5000, b"x = " + deep(b"[", 50_000, b"]"), b"port = 1\nport = 2",
        b"x = " + deep(b"{a=", 5000, b"}"), b"undo_hours = " + b"9" * 30, b"image_stall = inf",
        b"ready_within = nan", b'data_dir = "\\u0000"', b'host = "a\\u0000b"', b"\x00",
        b'log_level = "LOUD"', b"port = 70000", b"names = 5", b"[data_dir]\na = 1",
        b"#" * 70_000,
    ],
    ids=range(16),
)  # fmt: skip
def test_hostile_files(read: Read, text: bytes) -> None:
    assert read(text) is None


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "taos.toml"
    file.write_text("port = 1")

    class Here(Settings):
        model_config = SettingsConfigDict(toml_file=file)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root may read everything
    with pytest.raises(tomllib.TOMLDecodeError, match="Permission denied"):
        Here()


@given(st.sampled_from(sorted(Settings.model_fields)), st.sampled_from(VALUES) | st.binary())
@bounded(200)
def test_any_value_of_any_setting(read: Read, name: str, value: bytes) -> None:
    settings = read(name.encode() + b" = " + value + b"\n")
    if settings is None:
        return
    assert all(math.isfinite(one) for one in vars(settings).values() if isinstance(one, float))
    assert timedelta(hours=settings.undo_hours)
    for path in (settings.database, settings.server_socket, settings.keys_dir):
        path.exists()


@given(st.binary(max_size=80) | st.lists(st.sampled_from(VALUES), max_size=8).map(b" = ".join))
@bounded(100)
def test_any_bytes(read: Read, text: bytes) -> None:
    read(text)
