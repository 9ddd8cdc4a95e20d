"""Carrying a recipe out: plan the steps, then do them; what does not depend overlaps."""

from __future__ import annotations

import asyncio
import io
import tarfile
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tinyagentos.factory.inputs import (
    CA_IN_TARGET,
    NEWEST_TIME,
    build_environment,
    fetch_python,
    fetch_wheel,
    host_ca_bundle,
)
from tinyagentos.factory.target import Target
from tinyagentos.model.errors import BuildFailed
from tinyagentos.model.recipe import NpmPart, Recipe, RecipeFile

Report = Callable[[str], None]
APT_WITHIN = 900.0
NPM_WITHIN = 1200.0
SHORT = 120.0
NPM = "/opt/node/bin/npm"
NPM_FLAGS = ("--no-audit", "--no-fund", "--no-progress", "--no-update-notifier",
             "--cache=/run/taos-build/npm")  # fmt: skip
# Programs of the build. On the root's own file system: bun links its packages from here.
TOOLS = "/opt/taos-build"
BUN = f"{TOOLS}/bun"


@dataclass(frozen=True)
class BuildPlan:
    """What is done to a target to make it the recipe's system; it can be printed and compared."""

    packages: tuple[str, ...]
    files: tuple[RecipeFile, ...]
    links: Mapping[str, str]
    archives: tuple[str, ...]
    npm: NpmPart | None
    units: tuple[str, ...]
    run_tool: tuple[str, ...] = ()
    npm_arch: str = ""


def plan_build(
    recipe: Recipe, base: Recipe, *, run_tool: tuple[str, ...] = (), npm_arch: str = ""
) -> BuildPlan:
    """The recipe on top of its base; what the base has already costs next to nothing again.

    For a target of another processor, run_tool: the words that run a tool of the host's in it;
    npm_arch: the target's architecture.
    """
    return BuildPlan(
        packages=tuple(sorted({*base.debian.packages, *recipe.debian.packages})),
        files=(*base.files, *recipe.files),
        links={**base.links, **recipe.links},
        archives=(*(wheel.name for wheel in recipe.wheels), *(("python",) if recipe.pypi else ())),
        npm=recipe.npm,
        units=(*base.units, *recipe.units),
        run_tool=run_tool,
        npm_arch=npm_arch,
    )


async def fetch_inputs(
    recipe: Recipe, arch: str, cache: Path, *, tool_arch: str = ""
) -> tuple[Path, ...]:
    """The recipe's archives, from the cache or from where they are published.

    tool_arch: what tools of the build run on, where that is not the target's architecture.
    """
    return tuple(
        await asyncio.gather(
            *(
                fetch_wheel(wheel, tool_arch if wheel.tool and tool_arch else arch, cache)
                for wheel in recipe.wheels
            ),
            *((fetch_python(recipe.pypi, arch, cache),) if recipe.pypi else ()),
        )
    )


async def carry_out(
    plan: BuildPlan, target: Target, archives: Sequence[Path], report: Report
) -> None:
    """Make the target what the plan says.

    Raises BuildFailed with what the failing command said. The host's certificates are in the
    target only while it runs; one whose build failed or was cancelled is thrown away as a whole.
    """
    env = build_environment()
    await ensure_files(plan, target, env)
    await together(
        ensure_packages(plan, target, env, report),
        ensure_framework(plan, target, archives, env, report),
    )
    await remove_traces(target, env)
    await ensure_units(plan, target, env)


async def together(*parts: Coroutine[object, object, None]) -> None:
    """Do all parts at once. The first that fails ends the others, and is raised as itself."""
    try:
        async with asyncio.TaskGroup() as group:
            for part in parts:
                group.create_task(part)
    except ExceptionGroup as failed:
        # Not `except*`: what that raises comes out in a group again.
        raise failed.exceptions[0] from None


async def ensure_files(plan: BuildPlan, target: Target, env: Mapping[str, str]) -> None:
    """The recipe's files and links, the host's certificates, and the agent's user."""
    files = list(plan.files)
    if bundle := host_ca_bundle():
        files.append(RecipeFile(CA_IN_TARGET, bundle.read_bytes()))
    if plan.npm:
        files.append(RecipeFile(f"{plan.npm.into}/package.json", plan.npm.package_json))
        files.append(RecipeFile(f"{plan.npm.into}/package-lock.json", plan.npm.package_lock))
    with tempfile.NamedTemporaryFile(prefix="taos-files-") as archive:
        archive.write(await asyncio.to_thread(make_archive, files, plan.links))
        archive.flush()
        await target.unpack(Path(archive.name))
    await target.run("systemd-sysusers", env=env, within=SHORT)


async def ensure_packages(
    plan: BuildPlan, target: Target, env: Mapping[str, str], report: Report
) -> None:
    """Install the Debian packages that are not there."""
    shown = await target.run(
        "dpkg-query", "--show", "--showformat=${db:Status-Abbrev}|${Package}\\n",
        env=env, within=SHORT,
    )  # fmt: skip
    installed = {line.partition("|")[2] for line in shown.splitlines() if line.startswith("ii")}
    missing = [name for name in plan.packages if name not in installed]
    if not missing:
        return
    report(f"installing {len(missing)} Debian packages")
    apt = ("apt-get", "--yes", "--quiet", "-o", "DPkg::Lock::Timeout=120")
    await target.run(*apt, "update", env=env, within=APT_WITHIN)
    await target.run(
        *apt, "install", "--no-install-recommends", *missing, env=env, within=APT_WITHIN
    )


async def ensure_framework(
    plan: BuildPlan,
    target: Target,
    archives: Sequence[Path],
    env: Mapping[str, str],
    report: Report,
) -> None:
    """Unpack the recipe's archives, then install its npm packages by their lock."""
    await together(*(target.unpack(archive) for archive in archives))
    if plan.npm is None:
        return
    report("installing npm packages")
    await target.run(*await choose_installer(plan, target, env), env=env, within=NPM_WITHIN,
                     cwd=plan.npm.into)  # fmt: skip
    # What took so many files to make is removed while the scripts run.
    await together(remove_tools(target, env), run_scripts(plan.npm, target, env))


async def choose_installer(
    plan: BuildPlan, target: Target, env: Mapping[str, str]
) -> tuple[str, ...]:
    """What installs npm packages by package-lock.json, running no script of theirs.

    Both check every package against the lock. npm, which is slower, where bun is not in the recipe
    or does not run on this processor.
    """
    try:
        await target.run(*plan.run_tool, BUN, "--version", env=env, within=SHORT)
    except BuildFailed:
        return (NPM, "ci", *NPM_FLAGS, "--ignore-scripts")
    return (
        *plan.run_tool, BUN, "install", "--frozen-lockfile", "--ignore-scripts", "--linker=hoisted",
        "--no-progress", "--no-summary", f"--cache-dir={TOOLS}/cache",
        *((f"--cpu={plan.npm_arch}", "--os=linux") if plan.npm_arch else ()),
    )  # fmt: skip


async def run_scripts(npm: NpmPart, target: Target, env: Mapping[str, str]) -> None:
    """Run the install scripts of the packages that the recipe names, and of no other."""
    if npm.rebuild:
        await target.run(
            NPM, "rebuild", *NPM_FLAGS, *npm.rebuild, env=env, within=NPM_WITHIN, cwd=npm.into
        )


async def remove_tools(target: Target, env: Mapping[str, str]) -> None:
    """Remove what was needed for installing only."""
    await target.run("rm", "-rf", TOOLS, env=env, within=SHORT)


async def remove_traces(target: Target, env: Mapping[str, str]) -> None:
    """Take away what only the build needed, the host's certificates first."""
    await target.run(
        "rm", "-rf", "/run/taos-build", TOOLS, "/root/.npm", "/root/.bun", env=env, within=SHORT
    )


async def ensure_units(plan: BuildPlan, target: Target, env: Mapping[str, str]) -> None:
    """Have the units start with the system; leave no caches of the installation."""
    await target.run("systemctl", "enable", *plan.units, env=env, within=SHORT)
    await target.run(
        "sh", "-c",
        "apt-get clean; rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log",
        env=env, within=SHORT,
    )  # fmt: skip


HIDE = (
    ": > /etc/machine-id; rm -f /var/lib/dbus/machine-id /var/lib/systemd/random-seed; "
    "journalctl --rotate --vacuum-size=1K >/dev/null 2>&1 || true"
)


async def remove_identity(target: Target) -> None:
    """Leave no machine-id and no log; an empty machine-id(5) is filled at the first boot."""
    await target.run("sh", "-c", HIDE, env=build_environment(), within=SHORT)


@asynccontextmanager
async def without_identity(target: Target) -> AsyncIterator[None]:
    """While inside, the running target has no machine-id and no log: a copy of it is nobody's.

    It gets its own back, because its journal is found by it.
    """
    own = (await target.run("cat", "/etc/machine-id", env={}, within=SHORT)).strip()
    await remove_identity(target)
    try:
        yield
    finally:
        await target.run("sh", "-c", f"echo {own} > /etc/machine-id", env={}, within=SHORT)


def make_archive(files: Sequence[RecipeFile], links: Mapping[str, str]) -> bytes:
    """A tar of the files and links, owned by root, times fixed."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for file in files:
            member = tarfile.TarInfo(file.path.lstrip("/"))
            member.size, member.mtime = len(file.content), NEWEST_TIME
            member.mode = 0o755 if file.executable else 0o644
            tar.addfile(member, io.BytesIO(file.content))
        for path, to in sorted(links.items()):
            link = tarfile.TarInfo(path.lstrip("/"))
            link.type, link.linkname, link.mtime = tarfile.SYMTYPE, to, NEWEST_TIME
            tar.addfile(link)
    return out.getvalue()
