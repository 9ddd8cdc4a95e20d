"""Which packages are asked for, and where Incus comes from on a host whose archive lacks it."""

from __future__ import annotations

import dataclasses

import pytest

from tinyagentos.host.facts import HostFacts
from tinyagentos.host.packages import (
    TOOLS,
    Archive,
    PackagePlan,
    has_candidate,
    plan_packages,
    read_archive,
    render_sources,
)
from tinyagentos.model.errors import HostNotReady

DEBIAN_12 = HostFacts("debian", "bookworm", "x64", False, True, 8 << 30, 50 << 30, "ext4")
DEBIAN_13 = dataclasses.replace(DEBIAN_12, codename="trixie")
ARCHIVE = Archive("http://mirror.test/debian/", "/usr/share/keyrings/k.gpg")


def test_nothing_is_installed_when_all_is_there() -> None:
    assert plan_packages({"incus-base", *TOOLS}, DEBIAN_12, None) == PackagePlan(())


def test_an_incus_from_elsewhere_is_kept() -> None:
    assert plan_packages({"incus", *TOOLS}, DEBIAN_12, None) == PackagePlan(())


def test_debian_13_has_incus_itself() -> None:
    plan = plan_packages(set(TOOLS), DEBIAN_13, None)
    assert plan == PackagePlan(("incus-base", "incus-client"))


def test_debian_12_takes_incus_from_the_backports_of_the_hosts_own_mirror() -> None:
    plan = plan_packages(set(TOOLS), DEBIAN_12, ARCHIVE)
    assert plan.release == "bookworm-backports"
    assert plan.sources == (
        "Types: deb\nURIs: http://mirror.test/debian/\nSuites: bookworm-backports\n"
        "Components: main\nSigned-By: /usr/share/keyrings/k.gpg\n"
    )


def test_debian_12_without_a_known_mirror_is_a_sentence() -> None:
    with pytest.raises(HostNotReady, match="do not show where"):
        plan_packages(set(), DEBIAN_12, None)


def target(uri: str, release: str, origin: str = "", signed_by: str = "", code: str = "") -> str:
    """A line as apt prints it: the variable's name where there is no value."""
    return "|".join(
        (uri, release, code or "$(CODENAME)", origin or "$(ORIGIN)", signed_by or "$(SIGNED_BY)")
    )


MIRROR = "http://mirror.test/"
VENDOR = target("http://v.test/", "bookworm", "Vendor", "/v.gpg")
UNREAD_VENDOR = target("http://v.test/", "bookworm", "", "/v.gpg")


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (
            [
                target("http://u/", "bookworm-updates", "Debian"),
                target(MIRROR, "bookworm", "Debian"),
            ],
            Archive(MIRROR, ""),
        ),
        ([VENDOR, target(MIRROR, "bookworm", "Debian", "/k.gpg")], Archive(MIRROR, "/k.gpg")),
        ([target(MIRROR, "stable", "Debian", code="bookworm")], Archive(MIRROR, "")),
        ([UNREAD_VENDOR, target(MIRROR, "bookworm")], Archive(MIRROR, "")),
        (
            [UNREAD_VENDOR, target(MIRROR, "bookworm", "", "/k/debian-archive-keyring.gpg")],
            Archive(MIRROR, "/k/debian-archive-keyring.gpg"),
        ),
        (
            [target(MIRROR, "bookworm", "Debian", "-----BEGIN PGP PUBLIC KEY BLOCK-----"), "mQ="],
            Archive(MIRROR, ""),
        ),
        ([VENDOR], None),
        ([target(MIRROR, "trixie", "Debian")], None),
        ([], None),
    ],
    ids=[
        "the release itself counts",
        "another vendor's archive does not",
        "a release by its role",
        "before the first update: Debian's has no keyring of its own",
        "before the first update: or Debian's keyring",
        "a key inside the source",
        "nothing but vendors",
        "another release",
        "no sources",
    ],
)
def test_the_archive_is_read_from_apts_targets(lines: list[str], found: Archive | None) -> None:
    assert read_archive("\n".join(lines), "bookworm") == found


@pytest.mark.parametrize(
    ("policy", "is_there"),
    [
        ("incus-base:\n  Installed: (none)\n  Candidate: 6.0.4-2\n", True),
        ("incus-base:\n  Installed: (none)\n  Candidate: (none)\n", False),
        ("", False),
    ],
    ids=["has a version", "named by another package only", "unknown"],
)
def test_a_package_can_be_installed_when_it_has_a_candidate(policy: str, is_there: bool) -> None:
    assert has_candidate(policy) is is_there


def test_a_source_without_keyring_names_none() -> None:
    assert "Signed-By" not in render_sources(Archive("http://b.test/", ""), "x")
