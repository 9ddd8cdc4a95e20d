"""A real image of OpenClaw: built, looked into, imported, deployed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from bench.common import server
from tinyagentos.factory.inputs import host_ca_bundle

pytestmark = [pytest.mark.incus, pytest.mark.build]


def run(*argv: str, environment: dict[str, str]) -> str:
    ended = subprocess.run(
        argv, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def read_image(path: Path, folder: Path) -> tarfile.TarFile:
    plain = folder / "plain.tar"
    subprocess.run(["zstd", "-dq", "--long=27", path, "-o", plain], check=True)
    return tarfile.open(plain)


def test_an_image_is_built_imported_and_deployed(tmp_path: Path) -> None:
    with server() as taos:
        taos.start()
        taos_command = (sys.executable, "-m", "tinyagentos.cli")
        out = run(
            *taos_command, "image", "build", "openclaw", "--fast", "--out", str(tmp_path),
            environment=taos.environment,
        )  # fmt: skip
        assert "trimmed" in out
        [image] = tmp_path.glob("openclaw-*-x64.tar.zst")
        assert list((taos.folder / "data" / "cache").glob("build-*")) == []
        with read_image(image, tmp_path) as tar:
            check_content(tar)
        run(*taos_command, "image", "import", str(image), environment=taos.environment)
        job = taos.wait(taos.deploy("imported")["id"])
        assert (job["state"], job["source"]) == ("succeeded", "image"), job["error"]
        taos.delete("imported")


def test_two_builds_in_different_places_give_the_same_bytes(tmp_path: Path) -> None:
    fingerprints = []
    for place in ("one", "two"):
        out = run(
            sys.executable, "-m", "tinyagentos.cli", "image", "build", "openclaw", "--fast",
            "--json", "--out", str(tmp_path / place / "out"),
            environment={**os.environ, "TAOS_DATA_DIR": str(tmp_path / place)},
        )  # fmt: skip
        built = json.loads(out)
        assert built["unpacked_bytes"] < built["before_bytes"]
        fingerprints.append(built["fingerprint"])
    assert fingerprints[0] == fingerprints[1]


def check_content(tar: tarfile.TarFile) -> None:
    """Nothing of the host is inside, and what an agent needs is."""
    members = {member.name: member for member in tar}
    names = set(members)
    assert members["rootfs/etc/machine-id"].size == 0
    assert members["rootfs/etc/resolv.conf"].issym()
    assert "rootfs/etc/systemd/system/multi-user.target.wants/agent.service" in names
    assert [m.name for m in tar if m.name.startswith("rootfs/run/") and not m.isdir()] == []
    assert not any(name.startswith("rootfs/etc/ssh/ssh_host") for name in names)
    assert not any(name.endswith((".map", ".d.ts")) for name in names if "/opt/openclaw/" in name)
    assert max(member.mtime for member in members.values()) == members["metadata.yaml"].mtime
    assert not any(name.startswith("rootfs/opt/taos-build") for name in names)
    assert members["rootfs/usr/local/bin/node"].issym()
    passwd = tar.extractfile("rootfs/etc/passwd")
    assert passwd
    assert b"agent:x:1000:" in passwd.read()
    bundle = host_ca_bundle()
    inside = members.get("rootfs/etc/ssl/certs/ca-certificates.crt")
    if bundle and inside:
        content = tar.extractfile(inside)
        assert content
        assert content.read() != bundle.read_bytes()
