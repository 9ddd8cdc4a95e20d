"""Reading recipes: a folder of data becomes a Recipe, or a sentence that says what is wrong."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tinyagentos.model.errors import InvalidInput, NotFound
from tinyagentos.model.recipe import (
    AgentChat,
    AgentDefaults,
    AgentInterface,
    Budget,
    DebianPart,
    NpmPart,
    PypiPart,
    Recipe,
    RecipeFile,
    RecipeKind,
    SmokeCommand,
    SmokeLoad,
    SmokePart,
    TrimRule,
    Wheel,
    folder_digest,
)

RECIPES = Path(__file__).parent.parent / "recipes"


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


# Incus takes sizes up to 2**63 - 1.
_Size = Annotated[int, Field(ge=0, le=2**62)]
MOST_CPUS = 1024
FIRST_YEAR, LAST_YEAR = 1971, 2200  # files in an image carry that date, in seconds since 1970
# Reading takes time that grows with the square of the length of a key.
LARGEST = 64 * 1024


class _Debian(_Table):
    suite: str = ""
    packages: tuple[str, ...] = ()
    path_rules: tuple[str, ...] = ()


class _Wheel(_Table):
    name: str
    package: str
    version: str
    into: str
    member_root: str
    keep: tuple[str, ...]
    executable: tuple[str, ...] = ()
    sha256: Mapping[str, str]
    links: Mapping[str, str] = {}
    tool: bool = False


class _Npm(_Table):
    into: str
    rebuild: tuple[str, ...] = ()


class _Pypi(_Table):
    into: str = Field(pattern="^/")
    python: str = Field(pattern=r"^3\.[0-9]+$")


class _Files(_Table):
    executable: tuple[str, ...] = ()


class _Trim(_Table):
    name: str
    why: str
    paths: tuple[str, ...]
    keep: tuple[str, ...] = ()
    optional: bool = False
    only_arch: str = ""


class _Budget(_Table):
    packed_bytes: int = 0
    unpacked_bytes: int = 0
    components: Mapping[str, int] = {}


class _SmokeCommand(_Table):
    name: str
    argv: tuple[str, ...] = Field(min_length=1)


class _SmokeLoad(_Table):
    name: str
    paths: tuple[str, ...] = Field(min_length=1)
    argv: tuple[str, ...] = Field(min_length=1)


class _Smoke(_Table):
    privileged: tuple[str, ...] = ()
    command: tuple[_SmokeCommand, ...] = ()
    load: tuple[_SmokeLoad, ...] = ()


class _Chat(_Table):
    path: str = Field(pattern="^/")
    model: str
    headers: Mapping[str, str] = {}


class _Interface(_Table):
    path: str = Field(pattern="^/")
    fragment: str = ""


class _Agent(_Table):
    port: int = Field(ge=1, le=65535)
    ready_path: str = Field(pattern="^/")
    ready_within: float = Field(gt=0)
    state_dir: str
    memory_need_bytes: _Size
    memory_limit_bytes: _Size
    cpus: int = Field(0, ge=0, le=MOST_CPUS)
    processes: int = Field(ge=1, le=2**22)
    disk_bytes: _Size
    state_bytes: _Size
    image_disk_bytes: _Size
    build_disk_bytes: _Size
    chat: _Chat | None = None
    interface: _Interface | None = None


class _RecipeFile(_Table):
    """recipe.toml as it is written."""

    name: str
    kind: RecipeKind
    version: str
    title: str
    description: str
    homepage: str
    license: Literal["MIT"] | str
    released: datetime
    build_seconds: float = Field(gt=0)
    base: str = ""
    units: tuple[str, ...] = ()
    strip: tuple[str, ...] = ()
    store: tuple[str, ...] = ()
    debian: _Debian = _Debian()
    wheel: tuple[_Wheel, ...] = ()
    npm: _Npm | None = None
    pypi: _Pypi | None = None
    files: _Files = _Files()
    links: Mapping[str, str] = {}
    trim: tuple[_Trim, ...] = ()
    budget: _Budget = _Budget()
    smoke: _Smoke = _Smoke()
    agent: _Agent | None = None


def list_recipes(folder: Path = RECIPES) -> tuple[str, ...]:
    """The names of the recipes."""
    return tuple(sorted(path.parent.name for path in folder.glob("*/recipe.toml")))


def load_recipe(name: str, folder: Path = RECIPES) -> Recipe:
    """The recipe of that name; NotFound, or InvalidInput that names the key that is wrong."""
    home = folder / name
    if name not in list_recipes(folder):
        raise NotFound(
            f"There is no recipe {name[:60]!r}.",
            hint=f"There are: {', '.join(list_recipes(folder))}.",
        )
    content = {
        path.relative_to(home).as_posix(): path.read_bytes()
        for path in sorted(home.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    return parse_recipe(name, content)


def parse_recipe(name: str, content: Mapping[str, bytes]) -> Recipe:
    """The recipe in a folder's content (bytes by relative path)."""
    where = f"{name}/recipe.toml"
    try:
        read = _RecipeFile.model_validate(_read_toml(where, content.get("recipe.toml")))
        digest = folder_digest(content)
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"{name}: a file's name cannot be read.", hint="Use names in UTF-8."
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(f"{where}: `{key}`: {first['msg']}.", hint="Mend that key.") from error
    if read.name != name:
        raise InvalidInput(f"{where}: `name` is {read.name!r}.", hint="Name it like its folder.")
    if not FIRST_YEAR <= read.released.year <= LAST_YEAR:
        raise InvalidInput(
            f"{where}: `released` is in the year {read.released.year}.", hint="Mend that date."
        )
    if read.kind is RecipeKind.agent and (read.agent is None or not read.base):
        raise InvalidInput(
            f"{where}: an agent needs `base` and a table `agent`.", hint="Add what is missing."
        )
    return Recipe(
        name=read.name,
        kind=read.kind,
        version=read.version,
        title=read.title,
        description=read.description,
        homepage=read.homepage,
        license=read.license,
        released=read.released,
        digest=digest,
        build_seconds=read.build_seconds,
        base=read.base,
        debian=DebianPart(**read.debian.model_dump()),
        wheels=tuple(Wheel(**wheel.model_dump()) for wheel in read.wheel),
        npm=_npm_part(read.npm, where, content),
        pypi=_pypi_part(read.pypi, where, content),
        files=_files(content, read.files.executable),
        links=read.links,
        units=read.units,
        strip=read.strip,
        store=read.store,
        trim=tuple(TrimRule(**rule.model_dump()) for rule in read.trim),
        budget=Budget(**read.budget.model_dump()),
        smoke=_smoke_part(read.smoke),
        defaults=_agent(read.agent) if read.agent else None,
    )


def _read_toml(where: str, text: bytes | None) -> Mapping[str, object]:
    if text is None:
        raise InvalidInput(f"{where} is missing.", hint="Write one.")
    if len(text) > LARGEST:
        raise InvalidInput(f"{where} is too large.", hint=f"It has at most {LARGEST} bytes.")
    try:
        return tomllib.loads(text.decode())
    except (ValueError, RecursionError) as error:
        # Bytes that are no UTF-8 and numbers of too many digits are ValueErrors, too.
        said = "too deep" if isinstance(error, RecursionError) else str(error)
        raise InvalidInput(f"{where} is not TOML: {said}.", hint="Mend the file.") from error


def _npm_part(npm: _Npm | None, where: str, content: Mapping[str, bytes]) -> NpmPart | None:
    if npm is None:
        return None
    try:
        package, lock = content["npm/package.json"], content["npm/package-lock.json"]
    except KeyError as error:
        raise InvalidInput(
            f"{where}: the file {error} is missing.", hint="Make it with npm install."
        ) from error
    return NpmPart(npm.into, npm.rebuild, package, lock)


def _pypi_part(pypi: _Pypi | None, where: str, content: Mapping[str, bytes]) -> PypiPart | None:
    if pypi is None:
        return None
    if (requirements := content.get("pypi/requirements.txt")) is None:
        raise InvalidInput(
            f"{where}: the file 'pypi/requirements.txt' is missing.",
            hint="Make it with a tool that pins every package by its hashes.",
        )
    return PypiPart(pypi.into, pypi.python, requirements)


def _agent(agent: _Agent) -> AgentDefaults:
    chat = AgentChat(**agent.chat.model_dump()) if agent.chat else None
    given = agent.interface
    interface = AgentInterface(given.path, given.fragment) if given else None
    plain = agent.model_dump(exclude={"chat", "interface"})
    return AgentDefaults(**plain, chat=chat, interface=interface)


def _smoke_part(smoke: _Smoke) -> SmokePart:
    return SmokePart(
        privileged=smoke.privileged,
        commands=tuple(SmokeCommand(one.name, one.argv) for one in smoke.command),
        loads=tuple(SmokeLoad(one.name, one.paths, one.argv) for one in smoke.load),
    )


def _files(content: Mapping[str, bytes], executable: tuple[str, ...]) -> tuple[RecipeFile, ...]:
    paths = {path.removeprefix("files"): path for path in content if path.startswith("files/")}
    return tuple(
        RecipeFile(path, content[key], path in executable) for path, key in sorted(paths.items())
    )
