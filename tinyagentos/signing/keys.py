"""The keys of a channel: one per role, in a folder that only its owner reads.

    KEYS/1.root.json ...       the root metadata, public: who signs what, until when
    KEYS/targets.pem           signs which files there are        } these three sign a release,
    KEYS/snapshot.pem          signs which metadata belongs together } and are where it is
    KEYS/timestamp.pem         signs that this is the newest      } published from
    KEYS/offline/root.pem      signs the root; kept away from any network, needed to rotate

A role's key is changed by two roots: the first names old and new key, the second only the new one.
So there is no moment at which what is published is signed by a key that the root does not name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import cast

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner, Signer
from tuf.api.metadata import Key, Metadata, Root, Snapshot, Targets, Timestamp

from tinyagentos.model.errors import Conflict, HostNotReady, InvalidInput
from tinyagentos.model.release import Expired, Malformed, WrongKeys
from tinyagentos.signing.channel import LIMITS, in_words
from tinyagentos.signing.durable import save_file

ONLINE_ROLES = (Targets.type, Snapshot.type, Timestamp.type)
ROLES = (Root.type, *ONLINE_ROLES)
# Published weekly: a timestamp outlives one week that was missed, and no more, because its age is
# how long somebody could keep an old channel in front of a client. The rest needs a person sooner.
LIFETIME = {
    Root.type: timedelta(days=365),
    Targets.type: timedelta(days=90),
    Snapshot.type: timedelta(days=30),
    Timestamp.type: timedelta(days=14),
}
OFFLINE = "offline"

Passphrase = Callable[[str], str]
"""The passphrase of the key of that name; empty means that it is not encrypted."""


@dataclass(frozen=True)
class SignedFile:
    """A file of metadata as it is published."""

    name: str
    content: bytes


@dataclass(frozen=True)
class RootFile:
    """One version of the root."""

    version: int
    content: bytes
    metadata: Metadata[Root]

    @property
    def root(self) -> Root:
        """Who signs what."""
        return self.metadata.signed

    @property
    def file(self) -> SignedFile:
        """As it is published."""
        return SignedFile(f"{self.version}.root.json", self.content)


def key_path(keys: Path, role: str) -> Path:
    """Where the role's private key is."""
    return (keys / OFFLINE if role == Root.type else keys) / f"{role}.pem"


def init_keys(keys: Path, ask: Passphrase, now: datetime) -> RootFile:
    """Make a key for every role and the first root; Conflict when the folder has some."""
    if there := [path.name for path in _key_files(keys) if path.exists()]:
        raise Conflict(
            f"{keys} has keys already: {', '.join(there)}.",
            hint="Give another folder, or change a key with `taos image keys rotate ROLE`.",
        )
    for folder in (keys, keys / OFFLINE):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    signers = {role: CryptoSigner.generate_ed25519() for role in ROLES}
    root = Root(version=1, consistent_snapshot=True)
    for role, signer in signers.items():
        root.add_key(signer.public_key, role)
    made = _sign_root(root, (signers[Root.type],), now)
    for role, signer in signers.items():
        _save_key(key_path(keys, role), signer, ask(role))
    save_file(keys / made.file.name, [made.content])
    return made


def rotate_key(keys: Path, role: str, ask: Passphrase, now: datetime) -> tuple[RootFile, ...]:
    """Give the role a new key; the new roots, which the next publication brings out.

    The root's own key is changed by one root that the old and the new key sign.
    """
    if role not in ROLES:
        raise InvalidInput(f"There is no role {role[:20]!r}.", hint=f"Say {', '.join(ROLES)}.")
    newest = load_roots(keys)[-1]
    old = load_signer(keys, Root.type, newest.root, ask)
    new = CryptoSigner.generate_ed25519()
    before = newest.root.roles[role].keyids
    if role == Root.type:
        swapped = _changed(newest, role, remove=before, add=new.public_key)
        made: tuple[RootFile, ...] = (_sign_root(swapped, (old, new), now),)
    else:
        both = _sign_root(_changed(newest, role, add=new.public_key), (old,), now)
        made = (both, _sign_root(_changed(both, role, remove=before), (old,), now))
    # Until its root is written the new key lies beside the old one, which is needed up to then;
    # load_signer() takes whichever of the two the root names, so a crash loses neither.
    _save_key(_next_key_path(keys, role), new, ask(role))
    for one in made:
        save_file(keys / one.file.name, [one.content])
    _next_key_path(keys, role).replace(key_path(keys, role))
    return made


def load_roots(keys: Path) -> tuple[RootFile, ...]:
    """Every root in the folder from the first to the newest, each signed by the one before."""
    found = {_version(path): path for path in keys.glob("*.root.json")}
    if not found:
        raise HostNotReady(
            f"{keys} has no root.json of a channel.",
            hint="Make keys with `taos image keys init`, or name their folder with --keys.",
        )
    if sorted(found) != list(range(1, len(found) + 1)):
        raise HostNotReady(
            f"{keys} lacks a root: it has {', '.join(map(str, sorted(found)))}.",
            hint="Copy every N.root.json, from 1 on.",
        )
    return check_roots([found[version].read_bytes() for version in sorted(found)])


def check_roots(contents: list[bytes]) -> tuple[RootFile, ...]:
    """The roots of these files, in order from version 1; Untrusted when one is not the next."""
    roots: list[RootFile] = []
    for version, content in enumerate(contents, 1):
        with in_words():
            metadata = cast(Metadata[Root], Metadata.from_bytes(content))
            if not isinstance(metadata.signed, Root) or metadata.signed.version != version:
                raise Malformed(f"{version}.root.json is not that.", hint="Copy the right file.")
            for signer in (metadata.signed, *(one.root for one in roots[-1:])):
                signer.verify_delegate(Root.type, metadata.signed_bytes, metadata.signatures)
        roots.append(RootFile(version, content, metadata))
    return tuple(roots)


def load_signer(keys: Path, role: str, root: Root, ask: Passphrase) -> Signer:
    """What signs for the role; WrongKeys when its key is not the one that the root names."""
    path, waiting = key_path(keys, role), _next_key_path(keys, role)
    for candidate in (path, waiting):
        if candidate == waiting and not waiting.exists():
            break
        signer = CryptoSigner(_read_key(candidate, role, ask))
        if signer.public_key.keyid in root.roles[role].keyids:
            if candidate == waiting:  # left by a rotation that was cut off after its root
                waiting.replace(path)
            return signer
    raise WrongKeys(
        f"{path} is not the {role} key that {root.version}.root.json names.",
        hint="Use the newest keys and roots of the channel.",
    )


def check_root_age(root: Root, now: datetime) -> None:
    """Raise Expired when nothing may be signed under the root any more."""
    if root.is_expired(now):
        raise Expired(
            f"The keys have expired: {root.version}.root.json was good until "
            f"{root.expires:%Y-%m-%d}.",
            hint="Renew them with `taos image keys rotate root`, then publish.",
        )


def _key_files(keys: Path) -> list[Path]:
    return [*(key_path(keys, role) for role in ROLES), *sorted(keys.glob("*.root.json"))]


def _version(path: Path) -> int:
    number = path.name.partition(".")[0]
    return int(number) if number.isdecimal() else 0


def _changed(
    newest: RootFile, role: str, *, remove: list[str] | None = None, add: Key | None = None
) -> Root:
    root = Root.from_dict(newest.metadata.to_dict()["signed"])
    root.version += 1
    for keyid in remove or []:
        root.revoke_key(keyid, role)
    if add:
        root.add_key(add, role)
    return root


def _sign_root(root: Root, signers: tuple[Signer, ...], now: datetime) -> RootFile:
    root.expires = (now + LIFETIME[Root.type]).replace(microsecond=0)
    metadata = Metadata(root)
    for signer in signers:
        metadata.sign(signer, append=True)
    content = metadata.to_bytes()
    if len(content) > LIMITS.root_max_length:
        raise Malformed("The root is too long for clients.", hint="Use fewer keys.")
    return RootFile(root.version, content, metadata)


def _save_key(path: Path, signer: CryptoSigner, passphrase: str) -> None:
    content = signer.private_bytes
    if passphrase:
        key = serialization.load_pem_private_key(content, None)
        content = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(passphrase.encode()),
        )
    save_file(path, [content], mode=0o600)


def _next_key_path(keys: Path, role: str) -> Path:
    return key_path(keys, role).with_name(f"{role}.next.pem")


def _read_key(path: Path, role: str, ask: Passphrase) -> Ed25519PrivateKey:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise HostNotReady(
            f"The {role} key {path} cannot be read: {error.strerror}.",
            hint="Bring the offline key back to change keys."
            if role == Root.type
            else "Publishing needs the keys of targets, snapshot and timestamp.",
        ) from error
    encrypted = b"ENCRYPTED" in content
    passphrase = ask(role).encode() if encrypted else b""
    try:
        key = serialization.load_pem_private_key(content, passphrase or None)
    except (ValueError, TypeError) as error:
        raise WrongKeys(
            f"The {role} key {path} cannot be opened"
            + (": the passphrase is missing or wrong." if encrypted else "."),
            hint="Give the passphrase in TAOS_SIGNING_PASSPHRASE, or run it in a terminal.",
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise WrongKeys(f"{path} is not an ed25519 key.", hint="Use keys made by taOS.")
    return key
