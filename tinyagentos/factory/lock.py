"""The lock of a build: the recipe resolved. Beside the image, and to hold another build to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from tinyagentos.factory.inventory import DebianPackage, Inventory, PythonPackage
from tinyagentos.model.errors import BuildFailed, InvalidInput
from tinyagentos.model.recipe import Recipe

# Goes up when taOS makes other bytes of the same inputs.
LAYOUT = 1
SHOWN = 5
SUM = 20  # characters of a checksum that tell two apart
IMAGE_SUFFIX = ".tar.zst"


@dataclass(frozen=True)
class LockedWheel:
    """A program that came as a Python package; tool: it was only needed while building."""

    name: str
    package: str
    version: str
    sha256: str
    tool: bool


@dataclass(frozen=True)
class LockedNpm:
    """An npm package; integrity is empty when it came inside another one."""

    name: str
    version: str
    integrity: str


@dataclass(frozen=True)
class Lock:
    """All that decides what is in an image. recipe, base: SHA-256 of their folders."""

    name: str
    version: str
    arch: str
    layout: int
    recipe: str
    base: str
    debian: tuple[DebianPackage, ...] = ()
    wheels: tuple[LockedWheel, ...] = ()
    npm: tuple[LockedNpm, ...] = ()
    python: tuple[PythonPackage, ...] = ()

    def render(self) -> str:
        """As a file: the same lock is the same text."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"

    @property
    def digest(self) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self.render().encode()).hexdigest()


@dataclass(frozen=True)
class Difference:
    """One thing that is not as locked."""

    name: str
    locked: str
    resolved: str

    def __str__(self) -> str:
        return f"{self.name}: locked {self.locked}, resolved {self.resolved}"


def beside(image: Path, kind: str) -> Path:
    """Where the image's file of that kind is, such as `lock.json`."""
    return image.with_name(f"{image.name.removesuffix(IMAGE_SUFFIX)}.{kind}")


def resolve_lock(recipe: Recipe, base: Recipe, arch: str, found: Inventory) -> Lock:
    """The lock of a build that had these packages in it."""
    npm = {(one.name, one.version, one.integrity) for one in found.npm}
    return Lock(
        name=recipe.name,
        version=recipe.version,
        arch=arch,
        layout=LAYOUT,
        recipe=recipe.digest,
        base=base.digest,
        debian=found.debian,
        wheels=tuple(
            LockedWheel(one.name, one.package, one.version, one.sha256[arch], one.tool)
            for one in sorted(recipe.wheels, key=lambda wheel: wheel.name)
        ),
        npm=tuple(LockedNpm(*one) for one in sorted(npm)),
        python=found.python,
    )


def read_lock(path: Path) -> Lock:
    """The lock in the file; InvalidInput when it is none."""
    try:
        return TypeAdapter(Lock).validate_json(path.read_bytes())
    except OSError as error:
        raise InvalidInput(
            f"The lock {path} cannot be read: {error.strerror}.", hint="Give a file `*.lock.json`."
        ) from error
    except ValidationError as error:
        raise InvalidInput(
            f"{path.name} is not a lock of an image.", hint="Give a file `*.lock.json`."
        ) from error


def check_lock(locked: Lock, resolved: Lock) -> None:
    """Return when a build is the locked one; else BuildFailed names what differs."""
    found = differences(locked, resolved)
    if not found:
        return
    more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    raise BuildFailed(
        f"The build is not the locked one: {'; '.join(map(str, found[:SHOWN]))}{more}.",
        hint="Build from what the lock was made of, or build without --lock for a new lock.",
    )


def check_lock_early(locked: Lock, recipe: Recipe, base: Recipe, arch: str) -> None:
    """As check_lock(), by what is known before anything is built."""
    own = resolve_lock(recipe, base, arch, Inventory(locked.debian))
    check_lock(locked, replace(own, npm=locked.npm, python=locked.python))


def differences(locked: Lock, resolved: Lock) -> tuple[Difference, ...]:
    """What is not as locked; nothing when the same image comes out."""
    return (*_single(locked, resolved), *_packages(locked, resolved))


def _single(locked: Lock, resolved: Lock) -> Iterator[Difference]:
    for key in ("name", "version", "arch", "layout", "recipe", "base"):
        before, now = str(getattr(locked, key)), str(getattr(resolved, key))
        if before != now:
            yield Difference(key, before[:12], now[:12])


def _packages(locked: Lock, resolved: Lock) -> Iterator[Difference]:
    before, now = _by_name(locked), _by_name(resolved)
    for name in sorted({*before, *now}):
        was, is_now = before.get(name, {}), now.get(name, {})
        if was.keys() != is_now.keys():
            yield Difference(name, ", ".join(was) or "nothing", ", ".join(is_now) or "nothing")
        elif was != is_now:
            version = next(one for one in was if was[one] != is_now[one])
            before_sum, now_sum = (one[version][:SUM] or "no checksum" for one in (was, is_now))
            yield Difference(f"{name} {version}", before_sum, now_sum)


def _by_name(lock: Lock) -> Mapping[str, Mapping[str, str]]:
    """What each package is locked to, by kind and name: its checksum by its version."""
    found: dict[str, dict[str, str]] = {}
    for deb in lock.debian:
        found.setdefault(f"debian:{deb.name}", {})[f"{deb.version} {deb.architecture}"] = ""
    for wheel in lock.wheels:
        found.setdefault(f"wheel:{wheel.package}", {})[wheel.version] = wheel.sha256
    for npm in lock.npm:
        found.setdefault(f"npm:{npm.name}", {})[npm.version] = npm.integrity
    for python in lock.python:
        found.setdefault(f"python:{python.name}", {})[python.version] = ""
    return found
