"""The checks in the order in which setup makes them pass: each may rely on those before it."""

from tinyagentos.host.check import Check
from tinyagentos.host.checks import (
    advisories,
    incus,
    limits,
    network,
    packages,
    pool,
    profile,
    project,
    token,
    walls,
)

CHECKS: tuple[Check, ...] = (
    packages.CHECK,
    incus.CHECK,
    pool.CHECK,
    network.CHECK,
    project.CHECK,
    profile.CHECK,
    token.CHECK,
    limits.CHECK,
    walls.CHECK,
    advisories.CHECK,
)
