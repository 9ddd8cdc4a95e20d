"""Where a channel's files are: a folder that any static HTTP server can show."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from tinyagentos.factory.candidate import Upload, hash_chunks
from tinyagentos.model.errors import Conflict, HostNotReady
from tinyagentos.model.release import WrongContent
from tinyagentos.signing.channel import TIMESTAMP_FILE, directory
from tinyagentos.signing.durable import save_file, sync_folder

NOT_WHOLE = -1


class Shelf(Protocol):
    """A flat set of files. Each method is done when it returns, whatever happens after."""

    def hold(self) -> AbstractContextManager[None]:
        """Keep other publishers away meanwhile, as far as that can be done here."""
        ...

    def files(self) -> Mapping[str, int]:
        """The names of the files with their sizes; NOT_WHOLE for what nobody can read yet."""
        ...

    def fetch(self, name: str) -> Iterator[bytes]:
        """The content of a file; NotFound when it is not there."""
        ...

    def has(self, upload: Upload) -> bool:
        """Whether the file is there with this content."""
        ...

    def add(self, upload: Upload) -> None:
        """Have the file there. No client asks for it before the timestamp leads to it."""
        ...

    def replace_timestamp(self, upload: Upload) -> None:
        """Have this as the timestamp; at every moment clients find it or the one before."""
        ...

    def remove(self, name: str) -> None:
        """Have no such file."""
        ...


class DirectoryShelf:
    """A folder. A file gets its name when all of it is on the disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fetch = directory(folder)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Lock the folder; Conflict when somebody else publishes into it."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            number = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise HostNotReady(
                f"The folder {self._folder} cannot be used: {error.strerror}.",
                hint="Give a folder that can be written.",
            ) from error
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as error:
            raise Conflict(
                f"Somebody else is publishing into {self._folder}.", hint="Wait for its end."
            ) from error
        finally:
            os.close(number)

    def files(self) -> Mapping[str, int]:
        """The names of the files with their sizes; each has its name because it is whole."""
        return {one.name: one.stat().st_size for one in self._folder.iterdir() if one.is_file()}

    def fetch(self, name: str) -> Iterator[bytes]:
        """The content of a file; NotFound when it is not there."""
        yield from self._fetch(name)

    def has(self, upload: Upload) -> bool:
        """Whether the file is there with this content; all of it is read."""
        path = self._folder / upload.name
        return path.is_file() and hash_chunks(path, 1 << 20)[0] == upload.sha256

    def add(self, upload: Upload) -> None:
        """Have the file there."""
        save_file(self._folder / upload.name, checked(upload))

    def replace_timestamp(self, upload: Upload) -> None:
        """Have this as the timestamp: a rename, so there is no moment without one."""
        save_file(self._folder / TIMESTAMP_FILE, checked(upload))

    def remove(self, name: str) -> None:
        """Have no such file."""
        (self._folder / name).unlink(missing_ok=True)
        sync_folder(self._folder)


def checked(upload: Upload) -> Iterator[bytes]:
    """The upload's pieces; WrongContent at their end when they are not what was measured."""
    digest = hashlib.sha256()
    for piece in upload.pieces():
        digest.update(piece)
        yield piece
    if digest.hexdigest() != upload.sha256:
        raise WrongContent(
            f"{upload.name} has changed since it was measured.",
            hint="Publish again when nothing writes to the file any more.",
        )
