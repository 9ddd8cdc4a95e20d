"""What commands print besides jobs."""

from __future__ import annotations

import pytest

from tinyagentos.cli.render import print_table


def test_a_row_is_a_line_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("A", "B"), [("x" * 300, "[bold]no markup")], "Nothing.")
    _, row = capsys.readouterr().out.splitlines()
    assert row.rstrip() == "x" * 300 + "  [bold]no markup"
    print_table(("A",), [], "Nothing.")
    assert capsys.readouterr().out == "Nothing.\n"
