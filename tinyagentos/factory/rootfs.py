"""A Debian root in a folder, by mmdebstrap, from the mirror that the host already uses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tinyagentos import proc
from tinyagentos.factory.isolation import isolated
from tinyagentos.host.facts import read_os_release
from tinyagentos.model.errors import BuildFailed, CommandFailed
from tinyagentos.model.image import DEBIAN_ARCH
from tinyagentos.model.recipe import DebianPart

MAKE_WITHIN = 1800.0
# Parts of an archive beside the release itself that a fresh system needs.
SUITES = ("", "-updates", "-security")


def plan_sources(targets: str, codename: str, suite: str) -> tuple[str, ...]:
    """apt source lines of the suite at the places the host's own release comes from.

    targets: apt's index targets, one `uri|release` a line. Empty when the host's release is not
    there: mmdebstrap then uses its own default.
    """
    places = {
        release: uri for uri, _, release in (line.partition("|") for line in targets.splitlines())
    }
    if codename not in places:
        return ()
    return tuple(
        f"deb {places[codename + part]} {suite}{part} main"
        for part in SUITES
        if codename + part in places
    )


def plan_command(
    part: DebianPart, arch: str, root: Path, sources: Sequence[str]
) -> tuple[str, ...]:
    """What mmdebstrap is asked to do. What the path rules exclude is never unpacked."""
    rules = [
        f"path-include={rule[1:]}" if rule.startswith("!") else f"path-exclude={rule}"
        for rule in part.path_rules
    ]
    return (
        "mmdebstrap", "--quiet", "--mode=root", "--variant=minbase",
        f"--architectures={DEBIAN_ARCH[arch]}", "--format=directory",
        f"--include={','.join(part.packages)}",
        '--aptopt=Acquire::Languages "none"',
        '--aptopt=APT::Install-Recommends "false"',
        *(f"--dpkgopt={rule}" for rule in rules),
        part.suite, str(root), *sources,
    )  # fmt: skip


async def make_rootfs(part: DebianPart, arch: str, root: Path) -> None:
    """Have the Debian system in the folder; BuildFailed with mmdebstrap's words."""
    release = read_os_release(Path("/etc/os-release").read_text())
    targets = ""
    if release.get("ID") == "debian":
        targets = await proc.run(
            "apt-get", "indextargets", "--format", "$(REPO_URI)|$(RELEASE)",
            "Created-By: Packages", within=30,
        )  # fmt: skip
    sources = plan_sources(targets, release.get("VERSION_CODENAME", ""), part.suite)
    try:
        await proc.run(
            *isolated(*plan_command(part, arch, root, sources)),
            env={"TMPDIR": str(root.parent)},
            within=MAKE_WITHIN,
        )
    except CommandFailed as error:
        raise BuildFailed(
            f"The Debian base could not be made: {error.message}",
            hint="Check the network and apt's sources on this host.",
        ) from error
    for left in ("etc/resolv.conf", "etc/hostname"):
        (root / left).unlink(missing_ok=True)
