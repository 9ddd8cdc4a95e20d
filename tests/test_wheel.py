"""A wheel, really built and installed elsewhere: everything it needs is inside."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tinyagentos.cli.guide import TOPICS

ROOT = Path(__file__).parent.parent
SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "docs", "tinyagentos")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which the wheel of this project was installed, without any network."""
    folder = tmp_path_factory.mktemp("wheel")
    project = folder / "project"
    project.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, project / name, ignore=ignore)
        else:
            shutil.copy(ROOT / name, project)
    pip = (sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check")
    apart = ("--quiet", "--no-index", "--no-deps")
    subprocess.run(
        [*pip, "wheel", *apart, "--no-build-isolation", "--wheel-dir", folder, project],
        check=True, timeout=120,
    )  # fmt: skip
    (wheel,) = folder.glob("*.whl")
    site = folder / "site"
    subprocess.run([*pip, "install", *apart, "--target", site, wheel], check=True, timeout=120)
    return site


def taos(site: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """The command line of the installed package, with this environment's dependencies."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "tinyagentos.cli", *argv],
        cwd="/", env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_the_guide_is_inside(installed: Path) -> None:
    listed = taos(installed, "help")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert [line.split()[0] for line in listed.stdout.splitlines()[1:]] == list(TOPICS)
    for topic in TOPICS:
        page = installed / "tinyagentos" / "docs" / f"{topic}.md"
        assert page.read_text() == (ROOT / "docs" / f"{topic}.md").read_text()
    assert taos(installed, "help", "models").stdout.startswith("# Models\n")


def test_every_file_of_the_package_is_inside(installed: Path) -> None:
    package = ROOT / "tinyagentos"
    ours = {
        path.relative_to(ROOT)
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {path for path in ours if not (installed / path).is_file()} == set()


def test_it_has_the_command_and_no_tests(installed: Path) -> None:
    assert (installed / "bin" / "taos").is_file()
    assert not (installed / "tests").exists()
    ended = taos(installed, "test")
    assert ended.returncode == 1
    assert ended.stderr.startswith("taos: The tests are not in an installed package.\n  hint: ")
