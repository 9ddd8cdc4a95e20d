"""What taOS keeps is closed to others, however it was made."""

from __future__ import annotations

from pathlib import Path

from tinyagentos.app import ensure_folders
from tinyagentos.config import Settings


def test_folders_and_files_that_were_open_are_closed(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data", run_dir=tmp_path / "run")
    settings.data_dir.mkdir(mode=0o755)
    for name in ("taos.db", "taos.db-wal", "server.log", "interface_ports.json"):
        (settings.data_dir / name).touch(0o644)
    (settings.data_dir / "link").symlink_to("/etc/passwd")
    ensure_folders(settings)
    for path in (settings.data_dir, *settings.data_dir.iterdir(), settings.run_dir):
        if not path.is_symlink():
            assert path.stat().st_mode & 0o077 == 0, path
    assert Path("/etc/passwd").stat().st_mode & 0o044


def test_the_root_of_a_build_keeps_its_modes(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, run_dir=tmp_path / "run")
    program = tmp_path / "cache" / "build-x" / "rootfs" / "sh"
    program.parent.mkdir(parents=True)
    program.touch(0o755)
    mode = program.stat().st_mode
    ensure_folders(settings)
    assert program.stat().st_mode == mode
