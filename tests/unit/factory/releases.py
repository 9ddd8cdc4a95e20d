"""Image files to publish, and a client that is python-tuf's own and nothing of ours."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface, Updater

from tests.unit.factory.images import Member, write_image
from tinyagentos.factory.candidate import Upload
from tinyagentos.factory.shelf import Shelf
from tinyagentos.model.errors import NotFound
from tinyagentos.model.release import CHUNK_BYTES, Index
from tinyagentos.signing.channel import Channel, Fetch

METADATA = """architecture: "{machine}"
properties:
  taos.framework: "{framework}"
  taos.version: "{version}"
  taos.recipe: "{recipe}"
"""
MACHINES = {"x64": "x86_64", "arm64": "aarch64"}


def make_image(
    folder: Path,
    *,
    framework: str = "openclaw",
    version: str = "1.0",
    arch: str = "x64",
    size_bytes: int = 1000,
    documents: bool = True,
) -> Path:
    """An image file as a build leaves it, its lock and SBOM beside it; no two are the same."""
    folder.mkdir(parents=True, exist_ok=True)
    metadata = METADATA.format(
        framework=framework, version=version, recipe="d" * 64, machine=MACHINES[arch]
    )
    path = folder / f"{framework}-{version}-{arch}.tar.zst"
    write_image(path, [Member("/x", os.urandom(size_bytes))], metadata)
    if documents:
        stem = f"{framework}-{version}-{arch}"
        (folder / f"{stem}.lock.json").write_bytes(os.urandom(20))
        (folder / f"{stem}.cdx.json").write_bytes(os.urandom(20))
    return path


def make_large_image(folder: Path) -> Path:
    """An image of several chunks."""
    return make_image(folder, size_bytes=2 * CHUNK_BYTES + 5)


class TufClient(FetcherInterface):
    """python-tuf's client with its own settings, over a fetch function."""

    def __init__(self, fetch: Fetch, root: bytes, folder: Path) -> None:
        self._take, self._root, self._folder = fetch, root, folder

    def _fetch(self, url: str) -> Iterator[bytes]:
        try:
            return iter(list(self._take(url.rpartition("/")[2])))
        except NotFound as error:
            raise DownloadHTTPError(str(error), 404) from error

    def download_all(self, names: list[str]) -> dict[str, bytes]:
        """The content of these targets, as python-tuf verified it."""
        metadata, files = self._folder / "metadata", self._folder / "files"
        metadata.mkdir(parents=True, exist_ok=True)
        files.mkdir(exist_ok=True)
        updater = Updater(
            str(metadata), "https://channel/", str(files), "https://channel/", self,
            bootstrap=self._root,
        )  # fmt: skip
        updater.refresh()
        found = {}
        for name in names:
            target = updater.get_targetinfo(name)
            assert target is not None, name
            found[name] = Path(updater.download_target(target)).read_bytes()
        return found


def check_whole(fetch: Fetch, root: bytes, folder: Path) -> Index:
    """What our client reads, every file of which python-tuf's own client could download."""
    index = Channel(root, folder / "ours", fetch).refresh()
    names = [one.name for one in (*index.images, *index.documents)]
    TufClient(fetch, root, folder / "theirs").download_all(names)
    return index


class Cut(Exception):
    """The publisher is cut off here."""


@dataclass
class CutShelf:
    """A shelf whose publisher is cut off before or after its so-manieth change."""

    shelf: Shelf
    after_changes: int = 1_000_000
    is_done_first: bool = False
    changes: list[str] = field(default_factory=list)

    @contextmanager
    def hold(self) -> Iterator[None]:
        with self.shelf.hold():
            yield

    def files(self) -> Mapping[str, int]:
        return self.shelf.files()

    def fetch(self, name: str) -> Iterator[bytes]:
        yield from self.shelf.fetch(name)

    def has(self, upload: Upload) -> bool:
        return self.shelf.has(upload)

    def add(self, upload: Upload) -> None:
        self._change(upload.name, lambda: self.shelf.add(upload))

    def replace_timestamp(self, upload: Upload) -> None:
        self._change(upload.name, lambda: self.shelf.replace_timestamp(upload))

    def remove(self, name: str) -> None:
        self._change(f"-{name}", lambda: self.shelf.remove(name))

    def _change(self, what: str, do: Callable[[], None]) -> None:
        self.changes.append(what)
        is_last = len(self.changes) > self.after_changes
        if is_last and not self.is_done_first:
            raise Cut(what)
        do()
        if is_last:
            raise Cut(what)
