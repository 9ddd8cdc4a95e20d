"""Which packages are asked for, and where Incus comes from on a host whose archive lacks it."""

from __future__ import annotations

import pytest

from tinyagentos.host.packages import (
    TOOLS,
    Archive,
    PackagePlan,
    has_candidate,
    plan_packages,
    read_archive,
    render_sources,
)


def test_nothing_is_installed_when_all_is_there() -> None:
    assert plan_packages({"incus-base", *TOOLS}, "bookworm") == PackagePlan(())


def test_an_incus_from_elsewhere_is_kept() -> None:
    assert plan_packages({"incus", *TOOLS}, "bookworm") == PackagePlan(())


def test_only_what_is_missing_is_installed() -> None:
    assert plan_packages({"incus", *TOOLS} - {"zstd"}, "bookworm") == PackagePlan(("zstd",))


@pytest.mark.parametrize(
    ("codename", "release"), [("bookworm", "bookworm-backports"), ("trixie", ""), ("noble", "")]
)
def test_incus_comes_from_backports_only_where_it_is_nowhere_else(
    codename: str, release: str
) -> None:
    assert plan_packages(TOOLS, codename) == PackagePlan(("incus-base", "incus-client"), release)


def test_the_backports_are_taken_from_the_hosts_own_mirror() -> None:
    archive = Archive("http://mirror.test/debian/", "/usr/share/keyrings/k.gpg")
    assert render_sources(archive, "bookworm-backports") == (
        "Types: deb\nURIs: http://mirror.test/debian/\nSuites: bookworm-backports\n"
        "Components: main\nSigned-By: /usr/share/keyrings/k.gpg\n"
    )


def target(uri: str, release: str, origin: str = "", signed_by: str = "", code: str = "") -> str:
    """A line as apt prints it: the variable's name where there is no value."""
    return "|".join(
        (uri, release, code or "$(CODENAME)", origin or "$(ORIGIN)", signed_by or "$(SIGNED_BY)")
    )


MIRROR = "http://mirror.test/"
VENDOR = target("http://v.test/", "bookworm", "Vendor", "/v.gpg")


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
        (
            [target(MIRROR, "bookworm", "Debian", "-----BEGIN PGP PUBLIC KEY BLOCK-----"), "mQ="],
            Archive(MIRROR, ""),
        ),
        ([VENDOR], None),
        ([target(MIRROR, "bookworm")], None),
        ([target(MIRROR, "trixie", "Debian")], None),
        ([], None),
    ],
    ids=[
        "the release itself counts",
        "another vendor's archive does not",
        "a release by its role",
        "a key inside the source",
        "nothing but vendors",
        "an archive that says nothing of itself",
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
