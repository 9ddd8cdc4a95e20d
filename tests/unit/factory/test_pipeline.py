"""The end of a build: the budget is kept or there is no file; documents are beside the image."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tinyagentos.factory.inventory import Inventory
from tinyagentos.factory.lock import read_lock, resolve_lock
from tinyagentos.factory.pack import PackedImage
from tinyagentos.factory.pipeline import BuiltImage, pack_within_budget, write_documents
from tinyagentos.factory.recipe import load_recipe
from tinyagentos.factory.trim import Saving
from tinyagentos.model.errors import BuildFailed
from tinyagentos.model.recipe import Budget

RECIPE, BASE = load_recipe("openclaw"), load_recipe("debian-13")
NODE = 5000


@pytest.fixture
def work(tmp_path: Path) -> Path:
    node = tmp_path / "work" / "rootfs" / "opt" / "node" / "bin" / "node"
    node.parent.mkdir(parents=True)
    node.write_bytes(b"n" * NODE)
    return tmp_path / "work"


async def pack_with(budget: Budget, work: Path, level: str) -> PackedImage:
    out = work.parent / "openclaw-1-x64.tar.zst"
    return await pack_within_budget(work, replace(RECIPE, budget=budget), "x64", out, level=level)


@pytest.mark.parametrize(
    ("budget", "level", "said"),
    [
        (Budget(unpacked_bytes=NODE - 1), "fast", "unpacked; its budget"),
        (Budget(components={"node": NODE - 1}), "fast", "Over budget: node"),
        (Budget(unpacked_bytes=NODE - 1), "release", "unpacked; its budget"),
        (Budget(packed_bytes=10), "release", "largest: node"),
    ],
)
async def test_over_budget_there_is_no_file(
    budget: Budget, level: str, said: str, work: Path
) -> None:
    with pytest.raises(BuildFailed, match=said):
        await pack_with(budget, work, level)
    assert [path.name for path in work.parent.iterdir()] == ["work"]


async def test_the_packed_budget_is_for_release_compression(work: Path) -> None:
    image = await pack_with(Budget(packed_bytes=10, unpacked_bytes=NODE), work, "fast")
    assert image.path.stat().st_size == image.size_bytes > 10


async def test_the_documents_are_beside_the_image(work: Path) -> None:
    packed = await pack_with(Budget(), work, "fast")
    image = BuiltImage(
        **asdict(packed), before_bytes=9, unpacked_bytes=7, seconds=1.0,
        savings=(Saving("maps", 1, 2),),
    )  # fmt: skip
    lock = resolve_lock(RECIPE, BASE, "x64", Inventory())
    write_documents(image, RECIPE, BASE, Inventory(), lock)
    assert {path.name for path in work.parent.iterdir()} == {
        "work", "openclaw-1-x64.tar.zst", "openclaw-1-x64.lock.json", "openclaw-1-x64.cdx.json",
        "openclaw-1-x64.build.json",
    }  # fmt: skip
    report = json.loads((work.parent / "openclaw-1-x64.build.json").read_text())
    assert report["path"] == "openclaw-1-x64.tar.zst"
    assert report["savings"] == [{"rule": "maps", "files": 1, "before_bytes": 2, "after_bytes": 0}]
    assert read_lock(work.parent / "openclaw-1-x64.lock.json") == lock
    assert image.fingerprint in (work.parent / "openclaw-1-x64.cdx.json").read_text()
