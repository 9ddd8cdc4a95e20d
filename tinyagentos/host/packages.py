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
    "arch-test", "btrfs-progs", "ca-certificates", "debian-archive-keyring", "dnsmasq-base",
    "iproute2", "lxcfs", "mmdebstrap", "nftables", "squashfs-tools", "uidmap", "zstd",
)  # fmt: skip
APT = ("apt-get", "--yes", "--quiet", "-o", "DPkg::Lock::Timeout=120")
QUIET = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
APT_WITHIN = 900.0
SOURCES = Path("/etc/apt/sources.list.d/taos-backports.sources")
# Debian releases whose own archive has no Incus: it is in their backports.
NEEDS_BACKPORTS = frozenset({"bookworm"})


TARGET_FIELDS = ("REPO_URI", "RELEASE", "CODENAME", "ORIGIN", "SIGNED_BY")
TARGET_FORMAT = "|".join(f"$({field})" for field in TARGET_FIELDS)


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
    """Debian's archive of the release among apt's index targets, a line of TARGET_FORMAT each.

    Other vendors name their releases after Debian's too. What the archive says of itself decides;
    before the first `apt-get update` that is not known, and its keyring does.
    """
    unsure = None
    for line in targets.splitlines():
        # apt leaves the variable's name where it has no value.
        words = ["" if word.startswith("$(") else word for word in line.split("|")]
        if len(words) != len(TARGET_FIELDS) or codename not in words[1:3]:
            continue
        uri, _, _, origin, signed_by = words
        # A key written into the source itself has no name; Debian's keys are known to apt anyway.
        found = Archive(uri, signed_by if signed_by.startswith("/") else "")
        if origin == "Debian":
            return found
        if not origin and (not signed_by or "debian-archive" in signed_by):
            unsure = unsure or found
    return unsure


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
        "apt-get", "indextargets", "--format", TARGET_FORMAT, "Created-By: Packages", within=30
    )
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
    refused = await _refresh()
    names = await _known_names(plan.install)
    target = ("--target-release", plan.release) if plan.release else ()
    try:
        await _apt("install", "--no-install-recommends", *target, *names, report=report)
    except CommandFailed as error:
        raise HostNotReady(
            f"apt could not do its work. {(refused or error).message}",
            hint="Check the network and apt's sources, then run this again.",
        ) from error


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
