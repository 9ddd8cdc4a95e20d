"""Signing what a channel offers: reading what is published, and making the next version of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar, cast

from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import (
    Metadata,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from tinyagentos.model.errors import Conflict, NotFound
from tinyagentos.model.release import Malformed, RolledBack, WrongContent, WrongKeys
from tinyagentos.signing.channel import (
    LIMITS,
    PREVIOUS_TIMESTAMP,
    TIMESTAMP_FILE,
    Fetch,
    in_words,
)
from tinyagentos.signing.keys import (
    LIFETIME,
    ONLINE_ROLES,
    Passphrase,
    RootFile,
    SignedFile,
    check_root_age,
    load_signer,
)

T = TypeVar("T", Timestamp, Snapshot, Targets)
OnlineMetadata = Metadata[Timestamp] | Metadata[Snapshot] | Metadata[Targets]


@dataclass(frozen=True)
class Target:
    """A file that the channel offers. custom: what is signed about it beside size and digest."""

    name: str
    sha256: str
    size_bytes: int
    custom: Mapping[str, object] | None = None


@dataclass(frozen=True)
class Published:
    """What a channel shows now. version: 0 when it shows nothing. roots: how many it has."""

    version: int = 0
    roots: int = 0
    targets: tuple[Target, ...] = ()
    metadata: tuple[SignedFile, ...] = ()
    signed: tuple[OnlineMetadata, ...] = field(default=(), repr=False)

    def is_good_under(self, root: Root) -> bool:
        """Whether clients that follow this root can use what is shown."""
        try:
            for metadata in self.signed:
                root.verify_delegate(
                    metadata.signed.type, metadata.signed_bytes, metadata.signatures
                )
        except UnsignedMetadataError:
            return False
        return True


@dataclass(frozen=True)
class SignedRelease:
    """The files of the next version, in the order in which they may appear.

    Roots come before the timestamp up to the last under which what is published is good, the others
    after it: at every moment a client can use the old version or the new one.
    """

    version: int
    roots_before: tuple[SignedFile, ...]
    metadata: tuple[SignedFile, ...]
    timestamp: SignedFile
    roots_after: tuple[SignedFile, ...]

    @property
    def files(self) -> tuple[SignedFile, ...]:
        """All of them in order."""
        return (*self.roots_before, *self.metadata, self.timestamp, *self.roots_after)


def read_published(fetch: Fetch, roots: tuple[RootFile, ...]) -> Published:
    """What the channel shows, verified with our roots; that it has expired is no matter here.

    Raises Conflict when the channel has roots that we lack, WrongKeys when it is not ours.
    """
    count = _count_roots(fetch, roots)
    try:
        timestamp_file = _first_of(fetch, TIMESTAMP_FILE, PREVIOUS_TIMESTAMP)
    except NotFound:
        return Published(roots=count)
    if not count:
        raise WrongKeys(
            "The channel has metadata, but no root of ours.", hint="Use the keys it is signed with."
        )
    with in_words():
        timestamp = _parsed(Timestamp, timestamp_file.content)
        snapshot_file = _versioned(fetch, Snapshot.type, timestamp.signed.snapshot_meta)
        snapshot = _parsed(Snapshot, snapshot_file.content)
        targets_file = _versioned(fetch, Targets.type, _targets_meta(snapshot.signed))
        targets = _parsed(Targets, targets_file.content)
    _check_version(snapshot.signed, timestamp.signed.snapshot_meta)
    _check_version(targets.signed, _targets_meta(snapshot.signed))
    published = Published(
        version=max(one.signed.version for one in (timestamp, snapshot, targets)),
        roots=count,
        targets=tuple(_target(one) for one in targets.signed.targets.values()),
        metadata=(targets_file, snapshot_file, timestamp_file),
        signed=(targets, snapshot, timestamp),
    )
    # A later root of ours counts: it may be what an interrupted publication did not come to.
    if not any(published.is_good_under(one.root) for one in roots[count - 1 :]):
        raise WrongKeys(
            "What the channel shows is not signed with its keys.",
            hint="Somebody else has written to it. Empty the place and publish anew.",
        )
    return published


def sign_release(
    keys: Path,
    roots: tuple[RootFile, ...],
    published: Published,
    targets: tuple[Target, ...],
    *,
    version: int,
    ask: Passphrase,
    now: datetime,
    lifetime: Mapping[str, timedelta] = LIFETIME,
) -> SignedRelease:
    """Sign that the channel offers these targets, under the newest root and this version.

    Raises Expired when the root is too old, WrongKeys or HostNotReady when a key does not do.
    """
    root = roots[-1].root
    check_root_age(root, now)
    signers = {role: load_signer(keys, role, root, ask) for role in ONLINE_ROLES}

    def sign(signed: T, limit: int, name: str) -> SignedFile:
        signed.version = version
        signed.expires = (now + lifetime[signed.type]).replace(microsecond=0)
        metadata = Metadata(signed)
        metadata.sign(signers[signed.type])
        content = metadata.to_bytes()
        if len(content) > limit:
            raise Malformed(
                f"{name} would have {len(content)} bytes; clients take {limit}.",
                hint="Keep fewer releases.",
            )
        return SignedFile(name, content)

    targets_file = sign(
        Targets(targets={one.name: _target_file(one) for one in targets}),
        LIMITS.targets_max_length,
        f"{version}.{Targets.type}.json",
    )
    snapshot_file = sign(
        Snapshot(meta={f"{Targets.type}.json": _meta(version, targets_file)}),
        LIMITS.snapshot_max_length,
        f"{version}.{Snapshot.type}.json",
    )
    timestamp_file = sign(
        Timestamp(snapshot_meta=_meta(version, snapshot_file)),
        LIMITS.timestamp_max_length,
        TIMESTAMP_FILE,
    )
    new = roots[published.roots :]
    late = max((i for i, one in enumerate(new, 1) if published.is_good_under(one.root)), default=0)
    return SignedRelease(
        version=version,
        roots_before=tuple(one.file for one in new[:late]),
        metadata=(targets_file, snapshot_file),
        timestamp=timestamp_file,
        roots_after=tuple(one.file for one in new[late:]),
    )


def _count_roots(fetch: Fetch, roots: tuple[RootFile, ...]) -> int:
    for count, ours in enumerate(roots):
        try:
            theirs = _read(fetch, ours.file.name, LIMITS.root_max_length)
        except NotFound:
            return count
        if theirs != ours.content:
            raise WrongKeys(
                f"The channel has another {ours.file.name} than the folder of keys.",
                hint="Publish with the keys and roots that the channel was begun with.",
            )
    following = f"{len(roots) + 1}.root.json"
    try:
        _read(fetch, following, LIMITS.root_max_length)
    except NotFound:
        return len(roots)
    raise Conflict(
        f"The channel has {following}, which the folder of keys lacks.",
        hint="The keys were changed elsewhere: copy the newest keys and roots here.",
    )


def _read(fetch: Fetch, name: str, limit: int) -> bytes:
    content = bytearray()
    for piece in fetch(name):
        content += piece
        if len(content) > limit:
            raise WrongContent(f"{name} is longer than {limit} bytes.", hint="Mend the channel.")
    return bytes(content)


def _first_of(fetch: Fetch, *names: str) -> SignedFile:
    for name in names[:-1]:
        try:
            return SignedFile(name, _read(fetch, name, LIMITS.timestamp_max_length))
        except NotFound:
            continue
    return SignedFile(names[-1], _read(fetch, names[-1], LIMITS.timestamp_max_length))


def _versioned(fetch: Fetch, role: str, meta: MetaFile) -> SignedFile:
    name = f"{meta.version}.{role}.json"
    content = _read(fetch, name, LIMITS.targets_max_length)
    meta.verify_length_and_hashes(content)
    return SignedFile(name, content)


def _parsed(role: type[T], content: bytes) -> Metadata[T]:
    metadata = cast(Metadata[T], Metadata.from_bytes(content))
    if not isinstance(metadata.signed, role):
        raise Malformed(f"A file is not {role.type} metadata.", hint="Mend the channel.")
    return metadata


def _targets_meta(snapshot: Snapshot) -> MetaFile:
    try:
        return snapshot.meta[f"{Targets.type}.json"]
    except KeyError as error:
        raise Malformed("The snapshot names no targets.", hint="Mend the channel.") from error


def _check_version(signed: Signed, meta: MetaFile) -> None:
    if signed.version != meta.version:
        raise RolledBack(
            f"The channel's {signed.type} has version {signed.version}, not {meta.version}.",
            hint="Mend the channel.",
        )


def _meta(version: int, file: SignedFile) -> MetaFile:
    digest = hashlib.sha256(file.content).hexdigest()
    return MetaFile(version, len(file.content), {"sha256": digest})


def _target(target: TargetFile) -> Target:
    return Target(target.path, target.hashes.get("sha256", ""), target.length, target.custom)


def _target_file(target: Target) -> TargetFile:
    custom = {"custom": dict(target.custom)} if target.custom else {}
    return TargetFile(target.size_bytes, {"sha256": target.sha256}, target.name, custom)
