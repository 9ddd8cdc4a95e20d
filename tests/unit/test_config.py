"""What the environment tells besides settings."""

from __future__ import annotations

import pytest

from tinyagentos.config import read_program, read_provider_key


@pytest.mark.parametrize(
    ("environ", "program"),
    [
        ({}, "taos"),
        ({"TAOS_PROGRAM": "./taos"}, "./taos"),
        ({"TAOS_PROGRAM": "./taos", "SUDO_UID": "1000"}, "sudo ./taos"),
        ({"SUDO_UID": "1000"}, "sudo taos"),
    ],
)
def test_the_command_line_is_called_as_the_person_did(
    environ: dict[str, str], program: str
) -> None:
    assert read_program(environ) == program


def test_a_key_may_be_empty_but_given() -> None:
    assert read_provider_key({}) is None
    assert read_provider_key({"TAOS_PROVIDER_KEY": ""}) == ""
    assert read_provider_key({"TAOS_PROVIDER_KEY": " secret\n"}) == "secret"
