"""The server's program: copied to where only root can change it, the last one kept."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

from tinyagentos.config import Settings
from tinyagentos.host.installation import (
    ensure_installed,
    is_running,
    name_of,
    of_folder,
    own_program,
    switch,
)
from tinyagentos.host.server import starts_changeable
from tinyagentos.host.units import render_act, render_server, render_units
from tinyagentos.model.errors import HostNotReady

LAUNCHER = """#!/bin/sh
set -eu
here=$(dirname -- "$(readlink -f -- "$0")")
[ "$1" = --prepare ] && [ -z "$PYTHONPATH" ]
mkdir -p "$here/.venv/bin"
ln -sf {python} "$here/.venv/bin/python"
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    (folder / "tinyagentos" / "__pycache__").mkdir(parents=True)
    (folder / "tinyagentos" / "__pycache__" / "evil.pyc").touch()
    (folder / "tinyagentos" / "code.py").write_text("x = 1\n")
    (folder / "tests").mkdir()
    (folder / "docs").mkdir()
    (folder / "docs" / "page.md").write_text("page")
    (folder / "requirements.lock").touch()
    launcher = folder / "taos"
    launcher.write_text(LAUNCHER.format(python=sys.executable))
    launcher.chmod(0o755)
    return folder


async def test_a_checkout_is_copied_and_what_it_leads_to_is_left_out(
    checkout: Path, tmp_path: Path
) -> None:
    (checkout / "tinyagentos" / "link.py").symlink_to("/home/somebody/code.py")
    (checkout / "tinyagentos" / "code.py").chmod(0o666)
    place = tmp_path / "opt"
    reports: list[str] = []
    made = await install(checkout, place, reports)
    folder = place / name_of(checkout)
    assert made == folder
    assert [line for line in reports if line.startswith("installing")] == [
        f"installing taOS into {folder} …"
    ]
    files = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and ".venv" not in path.parts and "__pycache__" not in path.parts
    }
    assert files == {"taos", "requirements.lock", "tinyagentos/code.py", "docs/page.md"}
    assert not (folder / "tinyagentos" / "__pycache__" / "evil.pyc").exists()
    assert (folder / "tinyagentos" / "code.py").stat().st_mode & 0o777 == 0o644
    assert (folder / "taos").stat().st_mode & 0o777 == 0o755
    assert not list(place.glob("*.part"))

    (checkout / "tinyagentos" / "code.py").write_text("x = 2\n")
    assert (folder / "tinyagentos" / "code.py").read_text() == "x = 1\n"
    assert name_of(checkout) != folder.name, "another content is another version"


async def install(checkout: Path, place: Path, reports: list[str]) -> Path:
    """Install, whoever runs the tests: only root's own copy passes the last look."""
    with contextlib.suppress(HostNotReady):
        await ensure_installed(reports.append, source=checkout, place=place)
    (folder,) = place.glob("[0-9]*")
    return folder


def test_current_moves_and_one_before_it_is_kept(tmp_path: Path) -> None:
    for name in ("0.1.0-a", "0.1.0-b", "0.1.0-c"):
        (tmp_path / name).mkdir()
        switch(tmp_path, name)
        switch(tmp_path, name)  # again changes nothing
    assert (tmp_path / "current").readlink() == Path("0.1.0-c")
    assert (tmp_path / "previous").readlink() == Path("0.1.0-b")
    assert not (tmp_path / "0.1.0-a").exists()


def test_a_version_that_runs_is_not_removed(tmp_path: Path) -> None:
    old = tmp_path / "0.1.0-a"
    old.mkdir()
    with subprocess.Popen(
        ["/bin/sh", "-c", "echo here; read line", str(old / "taos")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as running:  # fmt: skip
        assert running.stdout
        assert running.stdout.readline() == b"here\n"
        assert is_running(old)
        for name in ("0.1.0-b", "0.1.0-c"):
            (tmp_path / name).mkdir()
            switch(tmp_path, name)
        assert old.exists()
        running.communicate(b"\n")
    assert not is_running(old)


def test_a_wheel_has_no_launcher(tmp_path: Path) -> None:
    program = own_program(tmp_path)
    assert program.starting("serve") == (sys.executable, "-P", "-m", "tinyagentos.cli", "serve")
    assert program.prepare == ()


def test_the_units_run_the_installed_program() -> None:
    program = of_folder(Path("/opt/taos/current"))
    server = render_server(program, Settings())
    assert "ExecStart=/opt/taos/current/taos serve\n" in server
    assert "ExecStartPre=+/opt/taos/current/taos --prepare\n" in server
    assert "RuntimeDirectory=taos\n" in server
    assert "ReadWritePaths=/var/lib/taos -/var/log/incus -/var/lib/incus/logs -/home" in server
    assert "incus-startup.service" in server
    assert "/opt/taos/current/.venv/bin/python -P -m tinyagentos.acts\n" in render_act(program)
    assert len(render_units(program, Settings())) == 3


def test_a_folder_for_sockets_elsewhere_may_be_written_to(tmp_path: Path) -> None:
    server = render_server(of_folder(Path("/x")), Settings(run_dir=tmp_path))
    assert "RuntimeDirectory" not in server
    assert f"ReadWritePaths={tmp_path}\n" in server


def test_a_unit_that_starts_what_others_may_change_is_known(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    launcher = tmp_path / "open" / "taos"
    launcher.touch()
    unit = tmp_path / "taos.service"
    unit.write_text(f"[Service]\nExecStart={launcher} serve\n")
    assert starts_changeable(unit)
    unit.write_text("[Service]\nExecStart=/bin/sh serve\n")
    assert not starts_changeable(unit)
    assert not starts_changeable(tmp_path / "none.service")
