"""taos image report and smoke as commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Taos
from tests.unit.factory.images import Member, write_image
from tinyagentos.cli.errors import DONE, USAGE
from tinyagentos.cli.image_proof import line
from tinyagentos.model.smoke import Check, CheckState


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write_image(
        tmp_path / "openclaw-1.0-x64.tar.zst",
        [Member("/opt/node/bin/node", b"n" * 9000), Member("/etc/x", b"x")],
    )


def test_a_report_in_words_markdown_and_json(taos: Taos, image: Path, tmp_path: Path) -> None:
    ended = taos("image", "report", str(image), "--treemap", str(tmp_path / "t.svg"))
    assert (ended.status, ended.err) == (DONE, "")
    assert ended.out.startswith("openclaw 1.0 for x64: ")
    assert "Node.js" in ended.out
    assert (tmp_path / "t.svg").read_text().startswith("<svg")
    assert "### openclaw 1.0" in taos("image", "report", str(image), "--markdown").out
    document = json.loads(taos("image", "report", str(image), "--json").out)
    assert {one["name"]: one["unpacked_bytes"] for one in document["components"]}["node"] == 9000


def test_a_picture_that_cannot_be_written_is_said(taos: Taos, image: Path) -> None:
    ended = taos("image", "report", str(image), "--treemap", "/nowhere/t.svg")
    assert ended.status == USAGE
    assert "/nowhere/t.svg cannot be written: No such file" in ended.err


def test_a_report_against_an_earlier_one(taos: Taos, image: Path, tmp_path: Path) -> None:
    saved = tmp_path / "openclaw-0.9-x64.report.json"
    saved.write_text(taos("image", "report", str(image), "--json").out)
    write_image(image, [Member("/opt/node/bin/node", b"n" * 1_009_000), Member("/etc/x", b"x")])
    out = taos("image", "report", str(image), "--against", str(saved)).out
    assert [row.split()[:3] for row in out.splitlines()[-1:]] == [["node", "grew", "+1.00"]]
    as_json = taos("image", "report", str(image), "--against", str(saved), "--json").out
    assert [one["name"] for one in json.loads(as_json)["changes"]] == ["node"]


def test_a_picture_of_another_kind_is_refused_before_reading(taos: Taos, tmp_path: Path) -> None:
    ended = taos("image", "report", str(tmp_path / "none"), "--treemap", "t.png")
    assert ended.status == USAGE
    assert "neither .svg nor .html" in ended.err


def test_a_check_is_a_row() -> None:
    ran = Check("git", CheckState.passed, 0.24, "git version 2")
    assert line(ran).split() == ["git", "ok", "0.2", "s", "git", "version", "2"]
    skipped = Check("two turns", CheckState.not_run, 0.0, "no emulator")
    assert line(skipped).split() == ["two", "turns", "not", "run", "no", "emulator"]
