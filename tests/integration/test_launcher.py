"""The launcher at the root: first use, interrupted use, changed locks, two at once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parent.parent.parent
SAYS = "import os, sys; print(sys.argv[1:], os.path.basename(sys.prefix))\n"


class Checkout:
    """A checkout with the real launcher, locks that need no network, and a small command line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.launcher = folder / "taos"
        self.venv = folder / ".venv"
        shutil.copy(ROOT / "taos", self.launcher)
        (folder / "requirements.lock").touch()
        (folder / "requirements-dev.lock").touch()
        cli = folder / "tinyagentos" / "cli"
        cli.mkdir(parents=True)
        (folder / "tinyagentos" / "__init__.py").touch()
        (cli / "__init__.py").touch()
        (cli / "__main__.py").write_text(SAYS)

    def start(self, *argv: str, cwd: Path | None = None) -> subprocess.Popen[str]:
        """Start the launcher; this test's Python is the host's."""
        path = f"{Path(sys.executable).resolve().parent}:{os.environ['PATH']}"
        return subprocess.Popen(
            [self.launcher, *argv],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd or "/",
            env={**os.environ, "PATH": path},
        )  # fmt: skip

    def run(self, *argv: str, cwd: Path | None = None) -> tuple[str, str]:
        """Output and messages of the launcher."""
        process = self.start(*argv, cwd=cwd)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        return out.strip(), err.strip()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """One for the tests of this file, which run in order: making .venv takes seconds."""
    return Checkout(tmp_path_factory.mktemp("checkout"))


def test_two_first_uses_at_once_make_one_venv(checkout: Checkout) -> None:
    both = [checkout.start("a b", "c"), checkout.start("a b", "c")]
    said = [process.communicate(timeout=120) for process in both]
    assert [out for out, _ in said] == ["['a b', 'c'] .venv\n"] * 2
    assert sorted(err.count("first use") for _, err in said) == [0, 1]


def test_later_uses_say_nothing_and_import_nothing_from_where_they_are(
    checkout: Checkout, tmp_path: Path
) -> None:
    (tmp_path / "os.py").write_text("raise SystemExit('from here')")
    (tmp_path / "tinyagentos").mkdir()
    (tmp_path / "link").symlink_to(checkout.launcher)
    assert checkout.run("x", cwd=tmp_path) == ("['x'] .venv", "")
    checkout.launcher = tmp_path / "link"
    assert checkout.run("x", cwd=tmp_path) == ("['x'] .venv", "")
    checkout.launcher = checkout.folder / "taos"


def test_it_passes_on_how_it_was_called(checkout: Checkout, tmp_path: Path) -> None:
    main = checkout.folder / "tinyagentos" / "cli" / "__main__.py"
    (tmp_path / "taos").symlink_to(checkout.folder / "taos")
    main.write_text("import os; print(os.environ['TAOS_PROGRAM'])\n")
    try:
        for program, path in (("./taos", "/usr/bin:/bin"), ("taos", f"{tmp_path}:/usr/bin:/bin")):
            said = subprocess.run(
                [program], cwd=checkout.folder, env={**os.environ, "PATH": path},
                capture_output=True, text=True, timeout=60, check=True,
            )  # fmt: skip
            assert said.stdout == f"{program}\n"
    finally:
        main.write_text(SAYS)


def test_a_changed_lock_is_installed(checkout: Checkout) -> None:
    (checkout.folder / "requirements.lock").write_text("# changed\n")
    assert checkout.run()[1] == "installing the Python packages that changed"
    assert checkout.run()[1] == ""


def test_testing_installs_the_developers_lock_and_keeps_the_other(checkout: Checkout) -> None:
    (checkout.folder / "requirements-dev.lock").write_text("# more\n")
    assert "installing" in checkout.run("test")[1]
    assert checkout.run("test")[1] == ""
    assert checkout.run("up")[1] == ""


def test_a_half_made_venv_is_made_again(checkout: Checkout) -> None:
    (checkout.venv / "complete").unlink()
    (checkout.venv / "made").unlink()
    rubbish = checkout.venv / "rubbish"
    rubbish.touch()
    assert "first use" in checkout.run()[1]
    assert not rubbish.exists()


def test_a_lock_that_cannot_be_installed_is_a_sentence_and_leaves_no_mark(
    checkout: Checkout,
) -> None:
    (checkout.folder / "requirements.lock").write_text("no-hash==1\n")
    process = checkout.start()
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (1, "")
    assert "taos: The Python packages cannot be installed.\n  hint: " in err
    assert not (checkout.venv / "complete").exists()
