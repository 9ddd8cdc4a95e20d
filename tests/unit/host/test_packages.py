"""Which packages are asked for, and where Incus comes from on a host whose archive lacks it."""

from __future__ import annotations

import dataclasses

import pytest

from tinyagentos.host.facts import HostFacts
from tinyagentos.host.packages import (
    TOOLS,
    Archive,
    PackagePlan,
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


@pytest.mark.parametrize(
    ("targets", "found"),
    [
        (
            "http://a.test/|bookworm-updates|\nhttp://b.test/|bookworm|/k",
            Archive("http://b.test/", "/k"),
        ),
        ("http://b.test/|bookworm|$(SIGNED_BY)", Archive("http://b.test/", "")),
        ("http://b.test/|trixie|", None),
        ("", None),
    ],
    ids=["the release itself counts", "no keyring named", "another release", "no sources"],
)
def test_the_archive_is_read_from_apts_targets(targets: str, found: Archive | None) -> None:
    assert read_archive(targets, "bookworm") == found


def test_a_source_without_keyring_names_none() -> None:
    assert "Signed-By" not in render_sources(Archive("http://b.test/", ""), "x")
