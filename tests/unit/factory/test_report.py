"""Whose the bytes of an image are, what they cost, what changed, and the picture of it."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.tiny_image import build_unified
from tests.unit.factory.images import Member, write_image
from tinyagentos.factory.budget import check_packed, check_unpacked
from tinyagentos.factory.components import Owners, measure_root
from tinyagentos.factory.report import (
    Component,
    ImageReport,
    compare,
    component_rows,
    measure_image,
    read_against,
    render_markdown,
)
from tinyagentos.factory.treemap import Box, render_html, render_svg, squarify
from tinyagentos.model.errors import BuildFailed, InvalidInput
from tinyagentos.model.recipe import Budget

OWNERS = Owners(
    {
        "git": "/.\n/usr/bin/git\n",
        "libc6": "/lib/x86_64-linux-gnu/libc.so.6\n",
        "python3-x": "/usr/lib/python3/dist-packages/x.py\n",
    }
)
NOISE = Random(1).randbytes(60_000)


@pytest.mark.parametrize(
    ("path", "component"),
    [
        ("/usr/bin/git", "debian:git"),
        ("/usr/lib/x86_64-linux-gnu/libc.so.6", "debian:libc6"),
        ("/usr/lib/python3/dist-packages/x.py", "debian:python3-x"),
        ("/usr/lib/python3/dist-packages/__pycache__/x.cpython-313.pyc", "debian:python3-x"),
        ("/usr/local/lib/python3.13/dist-packages/rich/a.py", "python:rich"),
        ("/var/lib/dpkg/status", "debian:(database)"),
        ("/usr/lib/udev/hwdb.bin", "debian:udev"),
        ("/opt/openclaw/node_modules/openclaw/dist/a.js", "npm:openclaw"),
        ("/opt/openclaw/node_modules/@a/b/node_modules/c/x.js", "npm:@a/b"),
        ("/opt/openclaw/node_modules/.bin/openclaw", "npm:(index)"),
        ("/opt/node/lib/node_modules/npm/node_modules/c/x.js", "npm:npm"),
        ("/opt/node/bin/node", "node"),
        ("/var/cache/agent/node/x", "caches"),
        ("/usr/lib/taos/prepare", "taos"),
        ("/etc/systemd/system/agent.service", "taos"),
        ("/usr/lib/sysusers.d/taos-agent.conf", "taos"),
        ("/etc/systemd/network/50-taos.network", "taos"),
        ("/etc/passwd", "other"),
    ],
)
def test_every_path_belongs_to_a_component(path: str, component: str) -> None:
    assert OWNERS.find(path) == component


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write_image(
        tmp_path / "openclaw-1.0-x64.tar.zst",
        [
            Member("/opt/openclaw/node_modules/openclaw/a.js", NOISE),
            Member("/opt/openclaw/node_modules/openclaw/again.js", NOISE),
            Member("/usr/bin/git", b"g" * 50_000),
            Member("/var/lib/dpkg/info/git:amd64.list", b"/.\n/usr/bin/git\n"),
        ],
    )


def test_an_image_is_weighed(image: Path) -> None:
    weighed = measure_image(image)
    assert (weighed.name, weighed.version, weighed.arch) == ("openclaw", "1.0", "x64")
    assert weighed.unpacked_bytes == 2 * len(NOISE) + 50_000 + len("/.\n/usr/bin/git\n")
    assert weighed.packed_bytes == image.stat().st_size
    assert sum(one.packed_bytes for one in weighed.components) == weighed.packed_bytes
    sizes = {one.name: one for one in weighed.components}
    assert sizes["npm:openclaw"].files == 2
    # Twice the same and one letter many times: neither costs what it has.
    assert sizes["npm:openclaw"].packed_bytes < len(NOISE) * 1.1
    assert sizes["debian:git"].unpacked_bytes == 50_000
    assert sizes["debian:git"].packed_bytes < sizes["npm:openclaw"].packed_bytes / 10


def test_an_image_of_another_compression_is_weighed_too(tmp_path: Path) -> None:
    tiny = build_unified(tmp_path / "t.tar.gz", properties={"taos.framework": "tiny"})
    weighed = measure_image(tiny.path)
    assert weighed.name == "tiny"
    assert {one.name for one in weighed.components} == {"other"}


@pytest.mark.parametrize("content", [b"", b"no image", b"\x28\xb5\x2f\xfdbroken"])
def test_what_is_no_image_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(InvalidInput, match="x is not a whole image file"):
        measure_image(tmp_path / "x")


def test_half_an_image_is_refused(image: Path) -> None:
    image.write_bytes(image.read_bytes()[:20_000])
    with pytest.raises(InvalidInput, match="not a whole image file"):
        measure_image(image)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read: No such file"):
        measure_image(tmp_path / "none")


BEFORE = ImageReport(
    "openclaw", "1", "x64", 130, 1310,
    (
        Component("npm:openclaw", 3, 1000, 100),
        Component("debian:git", 1, 200, 20),
        Component("debian:gone", 1, 100, 9),
        Component("node", 1, 10, 1),
    ),
)  # fmt: skip
AFTER = replace(
    BEFORE,
    version="2",
    components=(
        Component("npm:openclaw", 3, 1500, 150),
        Component("debian:git", 1, 150, 20),
        Component("debian:new", 1, 7, 7),
        Component("node", 1, 10, 2),
    ),
)


def test_what_grew_shrank_came_and_went() -> None:
    changes = [(one.name, one.word) for one in compare(BEFORE, AFTER)]
    assert changes == [
        ("npm:openclaw", "grew"),
        ("debian:gone", "gone"),
        ("debian:git", "shrank"),
        ("debian:new", "new"),
    ]


def test_it_is_compared_with_an_image_a_saved_report_or_a_folder_of_them(
    image: Path, tmp_path: Path
) -> None:
    like = measure_image(image)
    assert read_against(image, like) == like
    folder = tmp_path / "release"
    folder.mkdir()
    with pytest.raises(InvalidInput, match="no image or report of openclaw for x64"):
        read_against(folder, like)
    saved = folder / "openclaw-0.9-x64.report.json"
    saved.write_text(BEFORE.render())
    (folder / "openclaw-0.9-arm64.report.json").write_text(AFTER.render())
    assert read_against(saved, like) == BEFORE
    assert read_against(folder, like) == BEFORE
    (folder / "openclaw-0.8-x64.report.json").write_text(BEFORE.render())
    with pytest.raises(InvalidInput, match="has 2 images"):
        read_against(folder, like)
    saved.write_text("{}")
    with pytest.raises(InvalidInput, match="is not a report"):
        read_against(saved, like)


def test_the_table_has_groups_the_heaviest_the_rest_and_all() -> None:
    rows = component_rows(BEFORE, 2)
    assert [row[0] for row in rows] == [
        "npm packages", "Debian packages", "Node.js",
        "npm:openclaw", "debian:git", "2 smaller ones", "all",
    ]  # fmt: skip
    assert rows[-1][1] == "6"


def test_markdown_has_both_tables() -> None:
    text = render_markdown(AFTER, BEFORE, 10)
    assert "| npm:openclaw | grew | +0.00 | +0.00 |" in text
    assert text.count("|---|") == 2


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=60))
def test_the_rectangles_fill_the_picture_in_proportion(weights: list[int]) -> None:
    weights = sorted(weights, reverse=True)
    box = Box(10, 20, 600, 400)
    boxes = squarify([float(one) for one in weights], box)
    for weight, one in zip(weights, boxes, strict=True):
        area = box.width * box.height * weight / sum(weights)
        assert one.width * one.height == pytest.approx(area, rel=1e-6)
        assert one.x >= box.x - 1e-6
        assert one.y >= box.y - 1e-6
        assert one.x + one.width <= box.x + box.width + 1e-6
        assert one.y + one.height <= box.y + box.height + 1e-6


def test_equal_weights_are_near_to_squares() -> None:
    for one in squarify([1.0] * 12, Box(0, 0, 400, 300)):
        assert 0.5 <= one.width / one.height <= 2


def test_the_picture_stands_alone_and_names_what_is_large() -> None:
    odd = replace(AFTER, components=(*AFTER.components, Component("npm:<&>", 1, 90, 90)))
    svg, page = render_svg(odd), render_html(odd)
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    texts = [one.text for one in root.iter() if one.tag.endswith("text")]
    assert {"openclaw", "<&>", "git"} <= set(texts)
    assert "prefers-color-scheme:dark" in svg
    assert not re.search(r"(src|href|url\(|@import)", svg.replace("http://www.w3.org/2000/svg", ""))
    assert not re.search(r"(src=|href=|url\(|@import)", page)
    assert "npm:&lt;&amp;&gt;" in page


SIZES = {
    "npm:openclaw": 250_000_000,
    "debian:git": 30_000_000,
    "debian:perl": 50_000_000,
    "node": 5,
}
ROWS = {"npm:openclaw": 200_000_000, "debian:*": 79_000_000, "node": 10}


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        (
            Budget(unpacked_bytes=300_000_000, components=ROWS),
            "The image has 330.0 MB unpacked; its budget is 300.0 MB. Grown most: npm:openclaw "
            "250.0 MB (50.0 MB over its 200.0 MB), debian:* 80.0 MB (1.0 MB over its 79.0 MB).",
        ),
        (
            Budget(components=ROWS),
            "Over budget: npm:openclaw 250.0 MB (50.0 MB over its 200.0 MB), "
            "debian:* 80.0 MB (1.0 MB over its 79.0 MB).",
        ),
        (
            Budget(unpacked_bytes=1),
            "The image has 330.0 MB unpacked; its budget is 0.0 MB. No component exceeds a budget "
            "of its own; the largest: npm:openclaw 250.0 MB, "
            "debian:perl 50.0 MB, debian:git 30.0 MB.",
        ),
    ],
)
def test_over_budget_names_what_grew(budget: Budget, said: str) -> None:
    with pytest.raises(BuildFailed) as failed:
        check_unpacked(budget, SIZES)
    assert failed.value.message == said


def test_a_file_over_its_budget_names_what_grew() -> None:
    with pytest.raises(BuildFailed, match=r"has 121.0 MB; its budget is 120.0 MB. Grown most: npm"):
        check_packed(Budget(packed_bytes=120_000_000, components=ROWS), 121_000_000, SIZES)


def test_within_budget_nothing_is_said() -> None:
    check_unpacked(Budget(unpacked_bytes=340_000_000, components={"debian:*": 80_000_000}), SIZES)
    check_unpacked(Budget(), SIZES)
    check_packed(Budget(packed_bytes=120), 120, SIZES)
    check_packed(Budget(), 10**12, SIZES)


def test_a_root_is_measured_as_its_image_will_be(tmp_path: Path) -> None:
    files = {
        "usr/bin/git": b"12345",
        "var/lib/dpkg/info/git.list": b"/usr/bin/git\n",
        "etc/x": b"1",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "usr/bin/git-again").hardlink_to(tmp_path / "usr/bin/git")
    (tmp_path / "usr/bin/link").symlink_to("git")
    assert measure_root(tmp_path) == {"debian:git": 5, "debian:(database)": 13, "other": 1}
