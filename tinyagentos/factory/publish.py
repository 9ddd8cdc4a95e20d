"""Publishing: images become the next version of a signed channel.

First what nobody asks for yet (images, roots, targets, snapshot), then the timestamp, by which
clients find it, then away with what nobody asks for any more. Cut off anywhere, the channel is the
old version or the new one, and publishing again finishes it.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from tinyagentos.factory.candidate import Candidate, Upload, read_candidate, upload_of
from tinyagentos.factory.shelf import Shelf
from tinyagentos.model.errors import InvalidInput, NotFound
from tinyagentos.model.release import (
    ImageTarget,
    Index,
    channel_file_name,
    image_history,
    is_image,
    parse_image_target,
)
from tinyagentos.signing.channel import PREVIOUS_TIMESTAMP, TIMESTAMP_FILE, Channel, Fetch
from tinyagentos.signing.keys import Passphrase, SignedFile, check_root_age, load_roots
from tinyagentos.signing.repository import (
    Published,
    SignedRelease,
    Target,
    read_published,
    sign_release,
)

KEEP = 3
# What a publication may take away; other files in the place are somebody else's.
OURS = re.compile(
    r"\d+\.(targets|snapshot)\.json|[0-9a-f]{64}\..+|next\.timestamp\.json|\..+\.part"
)
NUMBERED = re.compile(r"(\d+)\.(?:targets|snapshot)\.json")

Report = Callable[[str], None]


@dataclass(frozen=True)
class Publication:
    """What was published: the channel as clients see it now, and the files that went."""

    index: Index
    uploaded: tuple[str, ...]
    removed: tuple[str, ...]


def publish(
    files: Sequence[Path],
    shelf: Shelf,
    keys: Path,
    *,
    ask: Passphrase,
    now: datetime,
    keep: int = KEEP,
    report: Report = lambda _: None,
) -> Publication:
    """Have the image files in the channel as its newest release; no file renews its signatures.

    The newest `keep` releases of each framework and architecture stay. Raises InvalidInput for a
    file that is no image of taOS, Expired or WrongKeys for keys that do not do, and then nothing
    has been written.
    """
    roots = load_roots(keys)
    check_root_age(roots[-1].root, now)
    candidates = [read_candidate(path, now.replace(microsecond=0)) for path in files]
    with shelf.hold():
        published = read_published(shelf.fetch, roots)
        there = shelf.files()
        targets = plan_targets(published, there, candidates, keep=keep)
        release = sign_release(
            keys, roots, published, targets,
            version=next_version(published, there), ask=ask, now=now,
        )  # fmt: skip
        index = read_as_client(release, roots[0].content, shelf.fetch)
        uploaded = list(_upload(shelf, plan_uploads(candidates, release), report))
        shelf.replace_timestamp(_metadata(release.timestamp))
        report(f"{TIMESTAMP_FILE}: version {release.version} is what clients see")
        uploaded += _upload(shelf, [_metadata(one) for one in release.roots_after], report)
        removed = plan_removals(shelf.files(), published, release, targets)
        for name in removed:
            shelf.remove(name)
            report(f"removed {name}")
    return Publication(index, tuple(uploaded), removed)


def plan_targets(
    published: Published,
    there: Mapping[str, int],
    candidates: Sequence[Candidate],
    *,
    keep: int,
) -> tuple[Target, ...]:
    """What the channel offers next: the candidates, and of what it has the newest that are whole.

    Raises InvalidInput when two candidates are of one framework and architecture.
    """
    whole = {
        one.name: one
        for one in published.targets
        if there.get(channel_file_name(one.name, one.sha256)) == one.size_bytes
    }
    have = [parse_image_target(one.custom) for one in whole.values() if is_image(one.custom)]
    new = _numbered(candidates, have)
    images = {one.fingerprint: one for one in (*have, *new)}.values()
    kinds = sorted({(one.framework, one.arch) for one in images})
    documents = whole | {doc.name: _target(doc) for one in candidates for doc in one.documents}
    kept = [
        replace(
            one,
            lock=one.lock if one.lock in documents else "",
            sbom=one.sbom if one.sbom in documents else "",
        )
        for kind in kinds
        for one in image_history(images, *kind)[:keep]
    ]
    named = (name for one in kept for name in (one.lock, one.sbom) if name)
    return (*map(_image_target, kept), *(documents[name] for name in named))


def next_version(published: Published, there: Mapping[str, int]) -> int:
    """A version that no file of the place has, so that none is ever written over."""
    numbers = (int(found[1]) for name in there if (found := NUMBERED.fullmatch(name)))
    return max([published.version, *numbers]) + 1


def plan_uploads(candidates: Sequence[Candidate], release: SignedRelease) -> list[Upload]:
    """What has to be there before the timestamp is replaced, in order."""
    content = (file for one in candidates for file in (one.file, *one.documents))
    return [
        *(_metadata(one) for one in release.roots_before),
        *(replace(one, name=channel_file_name(one.name, one.sha256)) for one in content),
        *(_metadata(one) for one in release.metadata),
    ]


def plan_removals(
    there: Mapping[str, int],
    published: Published,
    release: SignedRelease,
    targets: Sequence[Target],
) -> tuple[str, ...]:
    """The files that neither the version shown now nor the one before it leads to.

    A client that took the timestamp a moment ago still finds all of what it led to.
    """
    wanted = {file.name for file in (*release.metadata, *published.metadata)}
    wanted |= {channel_file_name(one.name, one.sha256) for one in (*targets, *published.targets)}
    return tuple(sorted(name for name in there if OURS.fullmatch(name) and name not in wanted))


def read_as_client(release: SignedRelease, root: bytes, fetch: Fetch) -> Index:
    """What a client will read that begins at the first root; raises what it would raise.

    The new files are laid over the place before one of them is there, so what clients could not
    use is not published.
    """
    new = {file.name: file.content for file in release.files}

    def overlaid(name: str) -> Iterator[bytes]:
        if name == PREVIOUS_TIMESTAMP:
            raise NotFound(f"{name} is not asked for.", hint="")
        if name in new:
            yield new[name]
        else:
            yield from fetch(name)

    with tempfile.TemporaryDirectory(prefix="taos-publish-") as state:
        return Channel(root, Path(state), overlaid).refresh()


def _numbered(candidates: Sequence[Candidate], have: Sequence[ImageTarget]) -> list[ImageTarget]:
    """The candidates as the newest images: all of one publication have one sequence."""
    kinds = [(one.image.framework, one.image.arch) for one in candidates]
    if twice := next((one for one in kinds if kinds.count(one) > 1), None):
        raise InvalidInput(
            f"There are two images of {twice[0]} for {twice[1]}.",
            hint="Publish one after the other; the last one is the newest.",
        )
    highest = max((one.sequence for one in have), default=0)
    numbered = []
    for candidate in candidates:
        image = candidate.image
        newest = image_history(have, image.framework, image.arch)[:1]
        if [one.fingerprint for one in newest] == [image.fingerprint]:
            # It is the newest already: publishing it once more does not make it newer.
            image = replace(image, sequence=newest[0].sequence, released=newest[0].released)
        else:
            number = max(int(image.released.timestamp()), highest + 1)
            image = replace(image, sequence=number)
        numbered.append(image)
    return numbered


def _upload(shelf: Shelf, uploads: Sequence[Upload], report: Report) -> Iterator[str]:
    for upload in uploads:
        if shelf.has(upload):
            report(f"{upload.name}: there already")
            continue
        shelf.add(upload)
        report(f"{upload.name}: {upload.size_bytes} bytes")
        yield upload.name


def _metadata(file: SignedFile) -> Upload:
    return upload_of(file.name, file.content)


def _target(upload: Upload) -> Target:
    return Target(upload.name, upload.sha256, upload.size_bytes)


def _image_target(image: ImageTarget) -> Target:
    return Target(image.name, image.fingerprint, image.size_bytes, image.dump())
