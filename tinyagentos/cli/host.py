"""taos setup, doctor and test: the host itself."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from tinyagentos.cli.common import Json, need_root
from tinyagentos.cli.render import print_json, print_line
from tinyagentos.config import Settings
from tinyagentos.host.check import Verdict
from tinyagentos.host.setup import examine_host, set_up_host
from tinyagentos.model.errors import HostNotReady, NotFound

ROOT = Path(__file__).parent.parent.parent
MARKS = {Verdict.ok: "✓", Verdict.warn: "!", Verdict.fail: "✗"}
TEST_PACKAGES = ("busybox-static", "chromium", "fonts-dejavu-core", "systemd-container")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(setup)
    app.command()(doctor)
    app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(test)


def setup(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the plan.")] = False,
    as_json: Json = False,
) -> None:
    """Install and configure Incus: daemon, pool, bridge, project, profile; only what is missing."""
    if not dry_run:
        need_root("Setting this host up")
    report = (lambda _: None) if as_json else print_line
    plans = asyncio.run(set_up_host(Settings(), report=report, dry_run=dry_run))
    if as_json:
        print_json({"plans": list(plans), "dry_run": dry_run})
    elif not plans:
        print_line("This host is set up; nothing to do.")


def doctor(as_json: Json = False) -> None:
    """What is wrong with this host, why it matters, and the fix."""
    results = asyncio.run(examine_host(Settings()))
    failed = any(result.finding.verdict is Verdict.fail for result in results)
    if as_json:
        rows = [
            {"name": r.check.name, "verdict": r.finding.verdict, "said": r.finding.said,
             "why": r.check.why, "plan": r.finding.plan, "hint": r.finding.hint}
            for r in results
        ]  # fmt: skip
        print_json({"checks": rows})
    else:
        for result in results:
            found = result.finding
            print_line(f"{MARKS[found.verdict]} {result.check.name:10} {found.said}")
            if found.verdict is not Verdict.ok:
                print_line(f"  {'':10} why: {result.check.why}")
                print_line(f"  {'':10} fix: {found.plan or found.hint}")
    if failed:
        raise HostNotReady("This host is not ready for agents.", hint="Run `taos setup`.")


def test(context: typer.Context) -> None:
    """Install what the tests need and run all of them, real Incus included."""
    from tinyagentos.host.testing import testing_host

    if not (ROOT / "tests").is_dir():
        raise NotFound(
            "The tests are not in an installed package.",
            hint="Run `./taos test` in a checkout of the project.",
        )
    need_root("Testing with real Incus")
    os.chdir(ROOT)
    argv = [
        sys.executable, "-m", "pytest", "-o", "addopts=--strict-markers --strict-config",
        *context.args,
    ]  # fmt: skip
    with testing_host(Settings(), TEST_PACKAGES, report=print_line):
        status = subprocess.call(argv)
    sys.exit(status)
