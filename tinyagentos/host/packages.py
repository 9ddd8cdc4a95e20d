"""The Debian packages that agents need on the host, and where Incus comes from on Debian 12."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from tinyagentos import proc
from tinyagentos.host.facts import HostFacts
from tinyagentos.model.errors import CommandFailed, HostNotReady

Report = Callable[[str], None]

INCUS = "incus-base"
TOOLS = (
    "arch-test", "binutils", "btrfs-progs", "ca-certificates", "debian-archive-keyring",
    "dnsmasq-base", "iproute2", "lxcfs", "mmdebstrap", "nftables", "squashfs-tools", "uidmap",
    "zstd",
)  # fmt: skip
APT = ("apt-get", "--yes", "--quiet", "-o", "DPkg::Lock::Timeout=120")
QUIET = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
APT_WITHIN = 900.0
SOURCES = Path("/etc/apt/sources.list.d/taos-backports.sources")
# Debian releases whose own archive has no Incus: it is in their backports.
NEEDS_BACKPORTS = frozenset({"bookworm"})


TARGET_FIELDS = ("REPO_URI", "RELEASE", "CODENAME", "ORIGIN", "SIGNED_BY")
ORIGINS = ("Debian", "Debian Backports")
TARGET_FORMAT = "|".join(f"$({field})" for field in TARGET_FIELDS)


@dataclass(frozen=True)
class Archive:
    """Where the host gets its distribution's packages from."""

    uri: str
    signed_by: str


@dataclass(frozen=True)
class PackagePlan:
    """What apt is asked to install. release: the one it is taken from, if not the host's own."""

    install: tuple[str, ...]
    release: str = ""


def plan_packages(installed: Collection[str], codename: str) -> PackagePlan:
    """What is missing, and where it comes from."""
    missing = tuple(name for name in TOOLS if name not in installed)
    if INCUS in installed or "incus" in installed:
        return PackagePlan(missing)
    release = f"{codename}-backports" if codename in NEEDS_BACKPORTS else ""
    return PackagePlan((INCUS, "incus-client", *missing), release)


def render_sources(archive: Archive, release: str) -> str:
    """A deb822 sources file (sources.list(5)) for the release from the host's own archive."""
    lines = ["Types: deb", f"URIs: {archive.uri}", f"Suites: {release}", "Components: main"]
    if archive.signed_by:
        lines.append(f"Signed-By: {archive.signed_by}")
    return "\n".join(lines) + "\n"


def read_archive(targets: str, release: str) -> Archive | None:
    """Debian's archive of the release among apt's index targets, a line of TARGET_FORMAT each.

    Other vendors name their releases after Debian's too: what the archive says of itself decides.
    """
    for line in targets.splitlines():
        # apt leaves the variable's name where it has no value.
        words = ["" if word.startswith("$(") else word for word in line.split("|")]
        if len(words) == len(TARGET_FIELDS) and release in words[1:3] and words[3] in ORIGINS:
            # A key written into the source itself has no name; apt knows Debian's keys anyway.
            return Archive(words[0], words[4] if words[4].startswith("/") else "")
    return None


async def read_installed() -> frozenset[str]:
    """The names of the installed packages."""
    shown = await proc.run(
        "dpkg-query", "--show", "--showformat=${db:Status-Abbrev}|${Package}\n", within=30
    )
    rows = (line.split("|", 1) for line in shown.splitlines())
    return frozenset(name for state, name in rows if state.startswith("ii"))


async def find_archive(release: str) -> Archive | None:
    """Where the host's own configuration gets the release from, as far as apt has read it."""
    shown = await proc.run(
        "apt-get", "indextargets", "--format", TARGET_FORMAT, "Created-By: Packages", within=30
    )
    return read_archive(shown, release)


async def make_plan(facts: HostFacts) -> PackagePlan:
    """What apt would be asked to do on this host now."""
    if facts.distribution not in ("debian", "ubuntu"):
        raise HostNotReady(
            f"taOS cannot install packages on {facts.distribution or 'this distribution'}.",
            hint="Install Incus and mmdebstrap yourself, or use Debian 12, 13 or Ubuntu 24.04.",
        )
    return plan_packages(await read_installed(), facts.codename)


async def install(plan: PackagePlan, report: Report) -> None:
    """Do what the plan says; nothing when it is empty."""
    if not plan.install:
        return
    refused = await _refresh()
    if plan.release and await _ensure_source(plan.release):
        refused = await _refresh() or refused
    names = await _known_names(plan.install)
    target = ("--target-release", plan.release) if plan.release else ()
    try:
        await _apt("install", "--no-install-recommends", *target, *names, report=report)
    except CommandFailed as error:
        raise HostNotReady(
            f"apt could not do its work. {(refused or error).message}",
            hint="Check the network and apt's sources, then run this again.",
        ) from error


async def _ensure_source(release: str) -> bool:
    """Whether apt had to be told where the backports are; its lists must be read again then."""
    if await find_archive(release):
        return False
    archive = await find_archive(release.removesuffix("-backports"))
    if archive is None:
        raise HostNotReady(
            "The host's package sources do not show where Debian's archive is.",
            hint=f"Check the network, or add {release} to apt's sources yourself.",
        )
    SOURCES.write_text(render_sources(archive, release))
    return True


async def _refresh() -> CommandFailed | None:
    """Fetch the package lists. A source of somebody else's that fails is no reason to stop."""
    try:
        await proc.run(*APT, "update", within=APT_WITHIN, env=QUIET)
    except CommandFailed as error:
        return error
    return None


async def _known_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names, with `incus` for `incus-base` where the archive has Incus in one piece."""
    if INCUS not in names:
        return tuple(names)
    has_base = has_candidate(await proc.run("apt-cache", "policy", INCUS, within=60, env=QUIET))
    return tuple("incus" if name == INCUS and not has_base else name for name in names)


def has_candidate(policy: str) -> bool:
    """Whether `apt-cache policy PACKAGE` shows a version that can be installed."""
    rows = (line.partition("Candidate:") for line in policy.splitlines())
    return any(word and rest.strip() != "(none)" for _, word, rest in rows)


async def _apt(*words: str, report: Report) -> None:
    try:
        await proc.run(*APT, *words, within=APT_WITHIN, env=QUIET)
    except CommandFailed as error:
        if "dpkg --configure -a" not in error.message:
            raise
        report("an earlier installation was interrupted: finishing it")
        await proc.run("dpkg", "--configure", "-a", within=APT_WITHIN, env=QUIET)
        await proc.run(*APT, *words, within=APT_WITHIN, env=QUIET)
