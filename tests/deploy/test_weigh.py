"""Weighing an image of this host: read out, counted by a process of its own, kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.deploy.world import Taos
from tests.fakes.fake_incus import FakeIncus
from tests.fakes.tiny_image import build_unified
from tinyagentos.images.weigh import STEPS
from tinyagentos.model.job import JobState


async def held(taos: Taos, tmp_path: Path) -> str:
    """The fingerprint of an image that Incus has."""
    properties = {"taos.framework": "openclaw", "taos.version": "9"}
    tiny = build_unified(tmp_path / "tiny.tar", properties=properties)
    await taos.incus.images.add(tiny.path, expect=tiny.fingerprint)
    return tiny.fingerprint


def left(folder: Path) -> list[str]:
    return sorted(path.suffix for path in (folder / "cache" / "weights").glob("*"))


async def test_it_is_known_then_and_not_counted_again(
    taos: Taos, folder: Path, tmp_path: Path
) -> None:
    fingerprint = await held(taos, tmp_path)
    assert taos.images.find_weight(fingerprint) is None
    job = taos.images.start_weighing(fingerprint)
    assert taos.images.start_weighing(fingerprint).id == job.id
    ended = await taos.runner.wait_job(job.id)
    assert ended.state is JobState.succeeded, ended.error
    weight = taos.images.find_weight(fingerprint)
    assert weight
    assert json.loads(weight.report.read_text())["version"] == "9"
    assert weight.picture.read_text().startswith("<svg")
    assert left(folder) == [".json", ".svg"]
    again = await taos.runner.wait_job(taos.images.start_weighing(fingerprint).id)
    assert again.state is JobState.succeeded
    assert [step.name for step in again.steps] == []


@pytest.mark.parametrize("step", STEPS)
async def test_a_crash_in_each_step(
    step: str, folder: Path, fake: FakeIncus, tmp_path: Path
) -> None:
    first = Taos(folder, fake).start()
    fingerprint = await held(first, tmp_path)
    job = first.images.start_weighing(fingerprint)
    await first.until(job.id, step)
    await first.die()
    second = Taos(folder, fake).start()
    assert (await second.runner.wait_job(job.id)).state is JobState.succeeded
    assert left(folder) == [".json", ".svg"]
    await second.close()


async def test_an_image_that_is_gone_leaves_nothing(taos: Taos, folder: Path) -> None:
    job = await taos.runner.wait_job(taos.images.start_weighing("a" * 64).id)
    assert job.state is JobState.failed
    assert left(folder) == []
