"""Image formats side by side: bytes to download against import and first launch.

`.venv/bin/python -m bench.pack FILE`: FILE is an image made by `taos image build`.
"""

from __future__ import annotations

import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.common import incus, keep, remove_project

RUNS = 3
LINKS_MBIT = (5, 20, 50, 200)
FORMATS = {
    "squashfs zstd": ("-comp", "zstd", "-Xcompression-level", "15"),
    "squashfs xz": ("-comp", "xz", "-Xdict-size", "100%"),
}


def make_files(image: Path, folder: Path) -> dict[str, tuple[Path, ...]]:
    """The image as it is, and as split images with a squashfs of 1 MiB blocks."""
    unpacked = folder / "unpacked"
    unpacked.mkdir()
    subprocess.run(
        ["tar", "--extract", "--numeric-owner", "--xattrs", f"--directory={unpacked}",
         f"--file={image}"], check=True,
    )  # fmt: skip
    metadata = folder / "metadata.tar"
    subprocess.run(
        ["tar", "--create", f"--directory={unpacked}", f"--file={metadata}", "metadata.yaml",
         "templates"], check=True,
    )  # fmt: skip
    files: dict[str, tuple[Path, ...]] = {"tar.zst": (image,)}
    for name, options in FORMATS.items():
        out = folder / f"{name.replace(' ', '-')}.squashfs"
        subprocess.run(
            ["mksquashfs", unpacked / "rootfs", out, "-quiet", "-no-progress", "-b", "1M",
             *options], check=True,
        )  # fmt: skip
        files[name] = (metadata, out)
    shutil.rmtree(unpacked)
    return files


def measure(files: tuple[Path, ...], pool: str, project: str) -> tuple[float, float]:
    """Seconds of the import, and of the first launch."""
    begun = time.monotonic()
    incus("image", "import", *map(str, files), "--alias", "measured", "--quiet", project=project)
    imported = time.monotonic()
    incus("launch", "measured", "first", "--storage", pool, "--quiet", project=project)
    launched = time.monotonic()
    incus("delete", "--force", "first", project=project)
    incus("image", "delete", "measured", project=project)
    return round(imported - begun, 2), round(launched - imported, 2)


def main() -> None:
    """Some runs of each format on the btrfs pool and on a `dir` pool made for it."""
    suffix = secrets.token_hex(3)
    project, pool = f"taos-pack-{suffix}", f"pack-{suffix}"
    folder = Path(tempfile.mkdtemp(prefix="taos-pack-"))
    incus("storage", "create", pool, "dir")
    incus("project", "create", project, "-c", "features.images=true",
          "-c", "features.profiles=true")  # fmt: skip
    rows = []
    try:
        profile = incus("profile", "show", "default", project="taos")
        incus("profile", "edit", "default", project=project, stdin=profile.encode())
        made = make_files(Path(sys.argv[1]), folder)
        for name, files in made.items():
            size = sum(path.stat().st_size for path in files)
            for place in ("taos", pool):
                runs = sorted((measure(files, place, project) for _ in range(RUNS)), key=sum)
                middle = runs[len(runs) // 2]
                rows.append({
                    "format": name, "pool": "dir" if place == pool else "btrfs",
                    "size_mb": round(size / 1e6, 1), "import_s": middle[0], "launch_s": middle[1],
                    "ready_s_by_mbit": {
                        str(link): round(size * 8 / link / 1e6 + sum(middle), 1)
                        for link in LINKS_MBIT
                    },
                })  # fmt: skip
    finally:
        remove_project(project)
        incus("storage", "delete", pool)
        shutil.rmtree(folder)
    keep("pack", {"rows": rows})


if __name__ == "__main__":
    main()
