"""The ports of agents' own interfaces.

Browsers keep storage and scripts by port, so one that was an agent's is never another's.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

_log = logging.getLogger(__name__)
# With those of agents that were; far more than a host has.
MOST = 5000


class Ports:
    """Whose each port is, kept in a file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._owners = _read(file)

    def of(self, instance: str) -> int:
        """The port that the instance had last; 0 when it had none."""
        return next((port for port, one in reversed(self._owners.items()) if one == instance), 0)

    def is_anothers(self, port: int, instance: str) -> bool:
        """Whether a browser may have kept something of another agent's for the port."""
        return self._owners.get(port, instance) != instance

    def keep(self, instance: str, port: int) -> None:
        """Remember whose port it is."""
        if self.of(instance) == port:
            return
        others = [(one, owner) for one, owner in self._owners.items() if one != port]
        self._owners = dict([*others[1 - MOST :], (port, instance)])
        part = self._file.with_name(f"{self._file.name}.part")
        part.write_text(json.dumps(self._owners))
        part.replace(self._file)


def _read(file: Path) -> dict[int, str]:
    """What the file says; nothing when it is not there, or somebody broke it."""
    try:
        return {int(port): str(owner) for port, owner in json.loads(file.read_text()).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        _log.warning("%s is not used: %s", file, error)
        return {}
