"""Every file of metadata in a channel's folder, those of the version before included."""

from __future__ import annotations

import re
from pathlib import Path

from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, Timestamp

from tinyagentos.model.release import Malformed, WrongKeys
from tinyagentos.signing.channel import PREVIOUS_TIMESTAMP, TIMESTAMP_FILE, in_words
from tinyagentos.signing.keys import RootFile, check_roots

ROOT_FILE = re.compile(r"(\d+)\.root\.json")
NUMBERED = re.compile(r"(\d+)\.(targets|snapshot)\.json")
HINT = "Do not use the channel; get all of its files again."


def check_metadata_folder(folder: Path, root: bytes) -> tuple[str, ...]:
    """The names of the folder's metadata, each of which has been verified.

    The roots are followed from the first to the newest, and `root` has to be one of them. Other
    metadata has to be signed with keys that one of the roots names; whether it is what clients are
    shown now, and in time, a Channel decides. Raises WrongKeys or Malformed.
    """
    numbers = sorted(
        int(found[1]) for name in _names(folder) if (found := ROOT_FILE.fullmatch(name))
    )
    if not numbers or numbers != list(range(1, len(numbers) + 1)):
        raise Malformed(f"{folder} lacks a root: it has {numbers or 'none'}.", hint=HINT)
    roots = check_roots([(folder / f"{number}.root.json").read_bytes() for number in numbers])
    if root not in {one.content for one in roots}:
        raise WrongKeys(
            f"The root to trust is none of those in {folder}.",
            hint="Give the root.json of this channel's publisher.",
        )
    others = [name for name in _names(folder) if _kind(name)]
    for name in others:
        _check(name, (folder / name).read_bytes(), roots)
    return (*(one.file.name for one in roots), *others)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def _kind(name: str) -> str:
    """What metadata a file of that name has to be; empty when it is none."""
    if name in {TIMESTAMP_FILE, PREVIOUS_TIMESTAMP}:
        return Timestamp.type
    found = NUMBERED.fullmatch(name)
    return found[2] if found else ""


def _check(name: str, content: bytes, roots: tuple[RootFile, ...]) -> None:
    with in_words():
        metadata = Metadata.from_bytes(content)
    signed, found = metadata.signed, NUMBERED.fullmatch(name)
    if signed.type != _kind(name) or (found and signed.version != int(found[1])):
        raise Malformed(f"{name} is not what its name says.", hint=HINT)
    for one in roots:
        try:
            one.root.verify_delegate(signed.type, metadata.signed_bytes, metadata.signatures)
        except UnsignedMetadataError:
            continue
        return
    raise WrongKeys(f"{name} is signed with none of the channel's keys.", hint=HINT)
