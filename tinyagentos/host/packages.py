"""The Debian packages that agents need on the host, and where Incus comes from on Debian 12."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from tinyagentos import proc
from tinyagentos.host.facts import HostFacts
from tinyagentos.model.errors import CommandFailed, HostNotReady

Report = Callable[[str], None]

INCUS = "incus-base"
TOOLS = (
    "arch-test", "btrfs-progs", "ca-certificates", "debian-archive-keyring", "dnsmasq-base",
    "iproute2", "lxcfs", "mmdebstrap", "nftables", "squashfs-tools", "uidmap", "zstd",
)  # fmt: skip
APT_WITHIN = 900.0
SOURCES = Path("/etc/apt/sources.list.d/taos-backports.sources")
# Debian releases whose own archive has no Incus: it is in their backports.
NEEDS_BACKPORTS = frozenset({"bookworm"})


@dataclass(frozen=True)
class Archive:
    """Where the host gets its distribution's packages from."""

    uri: str
    signed_by: str


@dataclass(frozen=True)
class PackagePlan:
    """What apt is asked to do. sources: the text of our sources file, if one is needed."""

    install: tuple[str, ...]
    release: str = ""
    sources: str = ""


def plan_packages(
    installed: Collection[str], facts: HostFacts, archive: Archive | None
) -> PackagePlan:
    """What is missing, and where it comes from; HostNotReady when that cannot be known."""
    has_incus = INCUS in installed or "incus" in installed
    missing = tuple(name for name in TOOLS if name not in installed)
    if has_incus:
        return PackagePlan(missing)
    install = (INCUS, "incus-client", *missing)
    if facts.codename not in NEEDS_BACKPORTS:
        return PackagePlan(install)
    if archive is None:
        raise HostNotReady(
            "The host's package sources do not show where Debian's archive is.",
            hint="Add the backports of your release to apt, then run this again.",
        )
    release = f"{facts.codename}-backports"
    return PackagePlan(install, release, render_sources(archive, release))


def render_sources(archive: Archive, release: str) -> str:
    """A deb822 sources file (sources.list(5)) for the release from the host's own archive."""
    lines = ["Types: deb", f"URIs: {archive.uri}", f"Suites: {release}", "Components: main"]
    if archive.signed_by:
        lines.append(f"Signed-By: {archive.signed_by}")
    return "\n".join(lines) + "\n"


def read_archive(targets: str, codename: str) -> Archive | None:
    """The archive of the release among apt's index targets, one `uri|release|signed-by` a line."""
    for line in targets.splitlines():
        uri, _, rest = line.partition("|")
        release, _, signed_by = rest.partition("|")
        if release == codename:
            # apt leaves the variable's name where a source has no value for it.
            return Archive(uri, "" if signed_by.startswith("$") else signed_by)
    return None


async def read_installed() -> frozenset[str]:
    """The names of the installed packages."""
    shown = await proc.run(
        "dpkg-query", "--show", "--showformat=${db:Status-Abbrev}|${Package}\n", within=30
    )
    rows = (line.split("|", 1) for line in shown.splitlines())
    return frozenset(name for state, name in rows if state.startswith("ii"))


async def find_archive(facts: HostFacts) -> Archive | None:
    """Where the host's own configuration gets its release from."""
    if facts.codename not in NEEDS_BACKPORTS:
        return None
    shown = await proc.run(
        "apt-get", "indextargets", "--format", "$(REPO_URI)|$(RELEASE)|$(SIGNED_BY)",
        "Created-By: Packages", within=30,
    )  # fmt: skip
    return read_archive(shown, facts.codename)


async def make_plan(facts: HostFacts) -> PackagePlan:
    """What apt would be asked to do on this host now."""
    if facts.distribution not in ("debian", "ubuntu"):
        raise HostNotReady(
            f"taOS cannot install packages on {facts.distribution or 'this distribution'}.",
            hint="Install Incus and mmdebstrap yourself, or use Debian 12, 13 or Ubuntu 24.04.",
        )
    return plan_packages(await read_installed(), facts, await find_archive(facts))


async def install(plan: PackagePlan, report: Report) -> None:
    """Do what the plan says; nothing when it is empty."""
    if not plan.install:
        return
    if plan.sources:
        SOURCES.write_text(plan.sources)
    await _apt("update", report=report)
    target = ("--target-release", plan.release) if plan.release else ()
    await _apt("install", "--no-install-recommends", *target, *plan.install, report=report)


async def _apt(*words: str, report: Report) -> None:
    argv = ("apt-get", "--yes", "--quiet", "-o", "DPkg::Lock::Timeout=120", *words)
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        await proc.run(*argv, within=APT_WITHIN, env=environment)
    except CommandFailed as error:
        if "dpkg --configure -a" not in error.message:
            raise HostNotReady(
                f"apt could not do its work. {error.message}",
                hint="Check the network and apt's sources, then run this again.",
            ) from error
        report("an earlier installation was interrupted: finishing it")
        await proc.run("dpkg", "--configure", "-a", within=APT_WITHIN, env=environment)
        await proc.run(*argv, within=APT_WITHIN, env=environment)
