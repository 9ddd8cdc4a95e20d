"""Keys of a terminal."""

from __future__ import annotations

import pytest

from tinyagentos.web.terminal import with_control


@pytest.mark.parametrize(
    ("typed", "sent"),
    [("c", "\x03"), ("C", "\x03"), ("[", "\x1b"), ("d", "\x04"), ("1", "1"), ("\x1b[A", "\x1b[A")],
)
def test_a_key_with_control(typed: str, sent: str) -> None:
    assert with_control(typed) == sent
