"""Reading a channel as a client does: python-tuf decides what can be trusted.

The channel is one flat folder of static files: `N.root.json`, `N.targets.json`, `N.snapshot.json`,
`timestamp.json`, and each target under its digest and name. Where a host cannot replace a file in
one step, the timestamp that stood before is `previous.timestamp.json` for the moment: it is signed
and expires like any other, so reading it costs no trust.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from tuf.api import exceptions as tuf_errors
from tuf.api.metadata import Metadata, Root, Signed, Snapshot, Targets, Timestamp
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from tinyagentos.model.errors import HostNotReady, NotFound, Unavailable
from tinyagentos.model.release import (
    FILE_NAME,
    Document,
    Expired,
    ImageTarget,
    Index,
    Malformed,
    RolledBack,
    TooFewSignatures,
    WrongContent,
    WrongKeys,
    check_index,
    is_image,
    parse_document,
    parse_image_target,
)

TIMESTAMP_FILE = "timestamp.json"
PREVIOUS_TIMESTAMP = f"previous.{TIMESTAMP_FILE}"
ROOTS = Path(__file__).parent / "roots"
# A release of both architectures takes about 10 kB of targets; three of ten frameworks 300 kB.
LIMITS = UpdaterConfig(
    max_root_rotations=64,
    root_max_length=64 << 10,
    timestamp_max_length=16 << 10,
    snapshot_max_length=64 << 10,
    targets_max_length=4 << 20,
)
# The most any file of metadata may have; a caller's fetch need never take more.
METADATA_LIMIT = LIMITS.targets_max_length
READ_SIZE = 64 << 10
_BASE = "channel:/"

Fetch = Callable[[str], Iterable[bytes]]
"""The content of the channel's file of that name, in pieces. Reading stops at the limit.

Raises NotFound when the channel has no such file, Unavailable when it cannot be reached.
"""


class Channel:
    """A channel, and what is trusted of it, which is kept in a folder.

    root: the metadata its trust begins at. state: the folder; one Channel at a time may use it.
    Every call blocks for as long as fetch does; an asynchronous caller uses a thread.
    """

    def __init__(self, root: bytes, state: Path, fetch: Fetch) -> None:
        self._root = root
        self._state = state
        self._fetch = fetch

    def refresh(self) -> Index:
        """What the channel offers now; raises Untrusted in its kinds, or Unavailable."""
        return self._read(self._fetch)

    def remembered(self) -> Index:
        """What it offered when it was last refreshed, without asking it; Expired when too old."""
        return self._read(self._recall)

    def _read(self, fetch: Fetch) -> Index:
        with in_words():
            self._state.mkdir(parents=True, exist_ok=True)
            updater = Updater(
                str(self._state), _BASE, fetcher=_Fetcher(fetch), config=LIMITS,
                bootstrap=self._root,
            )  # fmt: skip
            updater.refresh()
            # It has just been verified and written there; the updater itself tells single targets.
            roles = (Root, Timestamp, Snapshot, Targets)
            trusted = [_load(self._state / f"{role.type}.json") for role in roles]
        return _index(cast(Targets, trusted[-1]), trusted)

    def _recall(self, name: str) -> Iterable[bytes]:
        if name == TIMESTAMP_FILE:
            return directory(self._state)(name)
        raise NotFound(f"{name} is not remembered.", hint="Refresh from the channel.")


def directory(folder: Path) -> Fetch:
    """The fetch function of a channel in a folder."""

    def fetch(name: str) -> Iterator[bytes]:
        try:
            with (folder / name).open("rb") as file:
                while piece := file.read(READ_SIZE):
                    yield piece
        except FileNotFoundError as error:
            raise NotFound(f"{folder} has no file {name}.", hint="Give a channel.") from error
        except OSError as error:
            raise Unavailable(
                f"{folder / name} cannot be read: {error.strerror}.", hint="Look at its rights."
            ) from error

    return fetch


def trusted_root(chosen: Path | None, shipped: Path = ROOTS) -> bytes:
    """The root that trust begins at: the chosen file, else the newest that taOS ships.

    Raises HostNotReady when there is neither.
    """
    roots = sorted(shipped.glob("*.root.json"), key=lambda path: int(path.name.split(".")[0]))
    path = chosen or (roots[-1] if roots else None)
    if path is None:
        raise HostNotReady(
            "There is no root to trust: taOS comes without one here.",
            hint="Name the publisher's root.json: --root FILE, or the setting `image_root`.",
        )
    try:
        return path.read_bytes()
    except OSError as error:
        raise HostNotReady(
            f"The root {path} cannot be read: {error.strerror}.",
            hint="Name the publisher's root.json.",
        ) from error


@contextmanager
def in_words() -> Iterator[None]:
    """Say what TUF refuses as our own errors."""
    hint = "Nothing of it is used; what is here already goes on working."
    try:
        yield
    except tuf_errors.ExpiredMetadataError as error:
        raise Expired(
            f"The channel has expired: {error}.",
            hint=f"Whoever publishes it has to renew it. {hint}",
        ) from error
    except tuf_errors.UnsignedMetadataError as error:
        # python-tuf counts the signatures in its sentence only: "root was signed by 0/1 keys".
        if re.search(r"\b0/\d+ keys", str(error)):
            raise WrongKeys(
                f"The channel is not signed with its own keys: {error}.", hint=hint
            ) from error
        raise TooFewSignatures(
            f"The channel is signed with too few keys: {error}.", hint=hint
        ) from error
    except tuf_errors.BadVersionNumberError as error:
        raise RolledBack(
            f"The channel shows something older than it has to be: {error}.", hint=hint
        ) from error
    except (tuf_errors.LengthOrHashMismatchError, tuf_errors.DownloadLengthMismatchError) as error:
        raise WrongContent(
            f"The channel's bytes are not the signed ones: {error}.", hint=hint
        ) from error
    except tuf_errors.DownloadError as error:
        raise Unavailable(
            f"The channel lacks a file: {error}.", hint="Try again later, or name another channel."
        ) from error
    except tuf_errors.RepositoryError as error:
        raise Malformed(f"The channel's metadata cannot be read: {error}.", hint=hint) from error
    except OSError as error:
        raise HostNotReady(
            f"The channel's trusted state cannot be kept: {error}.",
            hint="Look at the space and the rights of that folder.",
        ) from error


class _Fetcher(FetcherInterface):
    """python-tuf's door to the network, which is the caller's function."""

    def __init__(self, fetch: Fetch) -> None:
        self._take = fetch

    def _fetch(self, url: str) -> Iterator[bytes]:
        # A generator: what the caller raises then passes through python-tuf as it is.
        name = url.removeprefix(f"{_BASE}/").removeprefix(_BASE)
        if not re.fullmatch(FILE_NAME, name):
            raise tuf_errors.RepositoryError(f"a file is called {name[:80]!r}")
        try:
            yield from self._take(name)
        except NotFound as error:
            if name != TIMESTAMP_FILE:
                raise tuf_errors.DownloadHTTPError(error.message, 404) from error
            yield from self._previous()

    def _previous(self) -> Iterator[bytes]:
        try:
            yield from self._take(PREVIOUS_TIMESTAMP)
        except NotFound as error:
            raise tuf_errors.DownloadHTTPError(f"it has no {TIMESTAMP_FILE}", 404) from error


def _load(path: Path) -> Signed:
    return cast(Signed, Metadata.from_file(str(path)).signed)


def _index(targets: Targets, trusted: list[Signed]) -> Index:
    images: list[ImageTarget] = []
    documents: list[Document] = []
    for name, target in targets.targets.items():
        digest = target.hashes.get("sha256", "")
        if not isinstance(target.custom, dict):
            documents.append(parse_document(name, digest, target.length))
        elif is_image(target.custom):
            images.append(_image(name, digest, target.length, target.custom))
        # Else a later taOS published something that this one knows nothing of.
    check_index(tuple(images), tuple(documents))
    return Index(
        version=targets.version,
        expires=min(one.expires for one in trusted),
        images=tuple(images),
        documents=tuple(documents),
    )


def _image(name: str, digest: str, size_bytes: int, custom: object) -> ImageTarget:
    image = parse_image_target(custom)
    said = (image.name, image.fingerprint, image.size_bytes)
    if said != (name, digest, size_bytes):
        raise Malformed(
            f"The channel says two things about the image {name}.",
            hint="Nothing of it is used. Whoever publishes the channel has to mend it.",
        )
    return image
