"""What agents took: measured, kept for a day, and drawn."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from tinyagentos.incus import Instance
from tinyagentos.web.chart import HEIGHT, MOST, WIDTH, render_usage_lines, thin
from tinyagentos.web.history import (
    EVERY,
    KEPT,
    History,
    Meter,
    Taken,
    Usage,
    pause_after,
)

MIB = 1 << 20
LITTLE, MUCH = Usage(MIB, 0.1, None), Usage(9 * MIB, 1.5, None)


def instance(name: str, cpu_seconds: float, *, runs: bool = True) -> Instance:
    return Instance.parse({
        "name": name, "status": "Running" if runs else "Stopped",
        "state": {
            "memory": {"usage": MIB}, "cpu": {"usage": int(cpu_seconds * 1e9)},
            "disk": {"root": {"usage": 7}},
        },
    })  # fmt: skip


def test_a_processors_share_is_known_from_the_second_look_on() -> None:
    meter = Meter()
    stopped = instance("b", 5, runs=False)
    assert meter.measure([instance("a", 10), stopped], 0.0) == {"a": Usage(MIB, None, 7)}
    assert meter.measure([instance("a", 15)], 10.0)["a"].cpu == 0.5
    assert meter.measure([instance("a", 99)], 10.5)["a"].cpu == 0.5  # too soon to say
    assert meter.measure([instance("a", 0)], 20.0)["a"].cpu == 0.0  # it was started again
    assert meter.measure([], 30.0) == {}
    assert meter.measure([instance("a", 10)], 40.0)["a"].cpu is None
    assert meter.measure([replace(instance("a", 1), state=None)], 50.0) == {}


def test_a_day_is_kept_minute_by_minute() -> None:
    history = History()
    history.note({"a", "b"}, {"a": LITTLE}, 0.0)
    assert history.find("b") is None
    history.note({"a", "b"}, {"a": MUCH, "b": LITTLE}, EVERY)
    history.note({"a", "b"}, {"b": LITTLE}, 2 * EVERY + 3)  # a was stopped
    taken = history.find("a")
    assert taken
    assert list(taken.memory_kib) == [1024, 9 * 1024, 0]
    assert [round(one, 2) for one in taken.cpu] == [0.1, 1.5, 0.0]
    history.note({"a"}, {"a": LITTLE}, 7 * EVERY)  # nobody could look for five minutes
    assert list(taken.memory_kib)[3:] == [1024] * 5
    assert history.find("b") is None
    history.note({"a"}, {"a": LITTLE}, 9e9)
    assert len(taken.cpu) == len(taken.memory_kib) == KEPT
    assert taken.cpu.itemsize + taken.memory_kib.itemsize == 8


def test_looking_rests_the_longer_the_longer_it_takes() -> None:
    assert pause_after(0.01) == EVERY
    assert pause_after(1.5) == 450.0


def took(*usages: Usage) -> Taken:
    taken = Taken()
    for one in usages:
        taken.add(one, 1)
    return taken


def test_usage_lines_stay_inside_and_say_the_most() -> None:
    few = [Usage(1 << 30, None, None)] * 2
    assert render_usage_lines(None, 2 << 30) is None
    assert render_usage_lines(took(*few), 2 << 30) is None
    html = render_usage_lines(took(*few, Usage(3 << 30, 1.5, None)), 2 << 30)
    assert html
    assert "Memory in the last 2 min 00 s: most 3.0 GiB" in html
    assert "most 150 %" in html
    for points in re.findall(r'points="([^"]+)"', html):
        for pair in points.split():
            x, y = map(float, pair.split(","))
            assert 0 <= x <= WIDTH
            assert 0 <= y <= HEIGHT


@pytest.mark.parametrize("count", [3, MOST, MOST + 1, KEPT])
def test_a_day_is_drawn_with_few_points_and_its_peak(count: int) -> None:
    values = [0.0] * count
    values[count // 2] = 7.0
    shown = thin(values, MOST)
    assert 3 <= len(shown) <= MOST
    assert max(shown) == 7.0
