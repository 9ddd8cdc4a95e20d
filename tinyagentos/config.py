"""Settings: defaults < taos.toml < TAOS_* environment < command line flags. One row per setting."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

SETTINGS_FILE = Path("/etc/taos/taos.toml")
LARGEST = 64 * 1024
MOST_HOURS = 10 * 366 * 24
# No settings: said anew with each command, the first by the launcher, the second by a script.
PROGRAM_VARIABLE = "TAOS_PROGRAM"
PROVIDER_KEY_VARIABLE = "TAOS_PROVIDER_KEY"


class SettingsFile(TomlConfigSettingsSource):
    """The file of settings; whatever keeps it from being read is a TOMLDecodeError."""

    def _read_file(self, file_path: Path | Traversable) -> dict[str, Any]:
        try:
            with file_path.open("rb") as file:
                text = file.read(LARGEST + 1)
            if len(text) > LARGEST:
                raise tomllib.TOMLDecodeError(f"it has more than {LARGEST} bytes")
            return tomllib.loads(text.decode())
        except tomllib.TOMLDecodeError:
            raise
        except OSError as error:
            raise tomllib.TOMLDecodeError(error.strerror or "no such file") from error
        except RecursionError as error:
            raise tomllib.TOMLDecodeError("it is too deep") from error
        except ValueError as error:
            # Bytes that are no UTF-8, numbers of too many digits.
            raise tomllib.TOMLDecodeError(str(error)) from error


class Settings(BaseSettings):
    """Every setting of taOS. Times in seconds, sizes in the unit that the name says."""

    model_config = SettingsConfigDict(
        env_prefix="TAOS_",
        toml_file=SETTINGS_FILE,
        frozen=True,
        extra="ignore",
        allow_inf_nan=False,
    )

    data_dir: Path = Field(Path("/var/lib/taos"), description="Database, token, keys and caches")
    run_dir: Path = Field(Path("/run/taos"), description="Sockets of the server and of agents")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="DEBUG, INFO, WARNING or ERROR"
    )
    host: str = Field("127.0.0.1", description="Address the server listens on")
    port: int = Field(8420, ge=0, le=65535, description="Port the server listens on")
    names: str = Field(
        "",
        description="Names, separated by commas, that the server is asked for by besides its own",
    )
    tls_cert: Path | None = Field(
        None, description="Certificate chain (PEM) to serve HTTPS with; empty: plain HTTP"
    )
    tls_key: Path | None = Field(None, description="Private key of that certificate (PEM)")
    incus_socket: Path = Field(
        Path("/var/lib/incus/unix.socket"), description="Where the Incus API listens"
    )
    incus_project: str = Field("taos", description="Incus project that holds the agents")
    pool: str = Field("", description="Storage pool; empty: chosen at setup")
    bridge: str = Field("taosbr0", description="Bridge that `taos setup` makes for agents")
    image_server: str = Field(
        "", description="Server of base images; empty: the `images` remote of the Incus client"
    )
    max_jobs: int = Field(4, ge=1, description="Jobs that run at the same time")
    memory_reserve_mb: int = Field(
        256, ge=0, description="Host memory in MiB that deploys leave free"
    )
    image_channel: str = Field(
        "", description="Where released images are: a web address or a folder; empty: nowhere"
    )
    image_policy: Literal["lazy", "background", "manual", "off"] = Field(
        "lazy",
        description="When images are fetched: lazy (the first deploy begins it), background "
        "(at startup), manual (when asked), off",
    )
    image_rate: int = Field(
        0, ge=0, description="Most bytes a second an image is fetched with; 0: no limit"
    )
    image_stall: float = Field(
        30, gt=0, description="Seconds without a byte after which fetching tries again"
    )
    image_root: Path | None = Field(
        None, description="Root metadata that images are trusted by; empty: what taOS ships"
    )
    signing_keys: Path | None = Field(
        None, description="Folder of the keys that images are published with; empty: in data_dir"
    )
    signing_passphrase: SecretStr = Field(
        SecretStr(""), description="Passphrase of those keys; a terminal is asked when it is needed"
    )
    github_api: str = Field("https://api.github.com", description="API that images are uploaded to")
    github_token: SecretStr = Field(
        SecretStr(""), description="Token that may write the releases of that repository"
    )
    ready_within: float = Field(
        0, ge=0, description="Seconds an agent may take to be ready; 0: what its recipe says"
    )

    undo_hours: int = Field(
        72,
        ge=1,
        le=MOST_HOURS,
        description="Hours that an upgraded agent's old root is kept to return to",
    )

    @field_validator("*", mode="before")
    @classmethod
    def _without_nul(cls, value: object) -> object:
        """A text that the system can be given: no path, name or address has a NUL in it."""
        if isinstance(value, str) and "\0" in value:
            raise ValueError("a NUL cannot be in it")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags before environment before the file."""
        return init_settings, env_settings, SettingsFile(settings_cls)

    @classmethod
    def of_host(cls) -> Settings:
        """The host's own settings: those of a server that a TAOS_* variable does not reach."""
        defaults = {name: field.default for name, field in cls.model_fields.items()}
        return cls(**{**defaults, **SettingsFile(cls)()})

    @property
    def token_file(self) -> Path:
        """The bearer token of the API, mode 0600."""
        return self.data_dir / "token"

    @property
    def database(self) -> Path:
        """The SQLite file with jobs, settings and timings."""
        return self.data_dir / "taos.db"

    @property
    def cache_dir(self) -> Path:
        """What can be fetched or made again."""
        return self.data_dir / "cache"

    @property
    def server_socket(self) -> Path:
        """The server's Unix socket: who may open it needs no token."""
        return self.run_dir / "taos.sock"

    @property
    def gateway_socket(self) -> Path:
        """Where agents' questions to models come in."""
        return self.data_dir / "gateway.sock"

    @property
    def keys_dir(self) -> Path:
        """The keys that images are published with, by default beside the database."""
        return self.signing_keys or self.data_dir / "image-keys"

    @property
    def agent_sockets(self) -> Path:
        """Folder with one socket per agent. Not below /run: Incus needs it before we start."""
        return self.data_dir / "agents"


def read_program(environ: Mapping[str, str] = os.environ) -> str:
    """How the person runs the command line: `taos`, `./taos`, or either with sudo."""
    name = environ.get(PROGRAM_VARIABLE) or "taos"
    return f"sudo {name}" if environ.get("SUDO_UID") else name


def read_provider_key(environ: Mapping[str, str] = os.environ) -> str | None:
    """The key of a provider that a script gives; None when it gives none."""
    given = environ.get(PROVIDER_KEY_VARIABLE)
    return None if given is None else given.strip()
