"""What the daemon is and can do."""

from __future__ import annotations

from dataclasses import dataclass

from tinyagentos.incus.parse import Object, as_objects, child, flag, integer, text, texts


@dataclass(frozen=True)
class ServerInfo:
    """The daemon; is_trusted tells whether it takes this client's calls at all."""

    version: str
    api_extensions: frozenset[str]
    architectures: tuple[str, ...]
    storage_drivers: tuple[str, ...]
    kernel_version: str
    os_name: str
    os_version: str
    server_name: str
    is_clustered: bool
    pid: int
    is_trusted: bool
    addresses: tuple[str, ...]
    certificate_fingerprint: str
    firewall: str

    def has_extension(self, name: str) -> bool:
        """Whether the API has the extension; gate on this, never on the version."""
        return name in self.api_extensions

    @classmethod
    def parse(cls, seen: Object) -> ServerInfo:
        """Read Incus's JSON."""
        env = child(seen, "environment")
        return cls(
            version=text(env, "server_version"),
            api_extensions=frozenset(texts(seen, "api_extensions")),
            architectures=texts(env, "architectures"),
            storage_drivers=tuple(
                text(driver, "Name") for driver in as_objects(env.get("storage_supported_drivers"))
            ),
            kernel_version=text(env, "kernel_version"),
            os_name=text(env, "os_name"),
            os_version=text(env, "os_version"),
            server_name=text(env, "server_name"),
            is_clustered=flag(env, "server_clustered"),
            pid=integer(env, "server_pid"),
            is_trusted=text(seen, "auth") == "trusted",
            addresses=texts(env, "addresses"),
            certificate_fingerprint=text(env, "certificate_fingerprint"),
            firewall=text(env, "firewall"),
        )
