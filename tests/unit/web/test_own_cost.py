"""What taOS itself costs."""

from __future__ import annotations

from pathlib import Path

from tinyagentos.web.own_cost import OwnCost, disk_bytes, measure_folder, read_own_cost


def test_this_process_costs_something() -> None:
    own = read_own_cost()
    assert own.memory_bytes > 10 << 20
    assert own.cpu_seconds > 0
    assert 0 < own.running_seconds < 10 * 24 * 3600
    assert OwnCost(1, 5.0, 100.0).cpu_share == 0.05
    assert OwnCost(1, 5.0, 0.0).cpu_share == 0


async def test_a_folder_is_measured_by_what_it_takes_on_the_disk(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(b"x" * 100_000)
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "up").symlink_to("/")
    assert 100_000 <= await measure_folder(tmp_path) < 200_000
    assert disk_bytes(tmp_path / "none") == 0
