"""Typed async client of the Incus REST API. It knows nothing of taOS.

    async with Incus.unix("/var/lib/incus/unix.socket", project="taos") as incus:
        instance = await incus.instances.create(InstanceRequest("x", alias="base"), start=True)

The nouns: `instances` (with exec and snapshots), `files`, `images` (with aliases), `storage`
(pools, volumes), `networks` (with ACLs), `profiles`, `projects`, `certificates`, `server()`,
`events()`. A method returns when Incus is done, or raises; see errors.py for the tree.
"""

from tinyagentos.incus.certificates import Certificate
from tinyagentos.incus.client import Incus
from tinyagentos.incus.errors import (
    AlreadyExists,
    Busy,
    FingerprintMismatch,
    Forbidden,
    IncusError,
    IncusTimeout,
    IncusUnreachable,
    NoSpace,
    NotFound,
    OperationCancelled,
    OperationFailed,
    OperationLost,
    PreconditionFailed,
)
from tinyagentos.incus.events import Event, Resync
from tinyagentos.incus.exec import ExecResult, Execution, Terminal
from tinyagentos.incus.files import PulledFile
from tinyagentos.incus.image import Image, ImageAlias
from tinyagentos.incus.instance import (
    Address,
    Instance,
    InstanceRequest,
    InstanceState,
    Snapshot,
)
from tinyagentos.incus.networks import Acl, AclRule, Lease, Network, NetworkState
from tinyagentos.incus.profiles import Profile
from tinyagentos.incus.projects import Project
from tinyagentos.incus.server import ServerInfo
from tinyagentos.incus.storage import PoolResources, StoragePool, Volume

__all__ = [
    "Acl",
    "AclRule",
    "Address",
    "AlreadyExists",
    "Busy",
    "Certificate",
    "Event",
    "ExecResult",
    "Execution",
    "FingerprintMismatch",
    "Forbidden",
    "Image",
    "ImageAlias",
    "Incus",
    "IncusError",
    "IncusTimeout",
    "IncusUnreachable",
    "Instance",
    "InstanceRequest",
    "InstanceState",
    "Lease",
    "Network",
    "NetworkState",
    "NoSpace",
    "NotFound",
    "OperationCancelled",
    "OperationFailed",
    "OperationLost",
    "PoolResources",
    "PreconditionFailed",
    "Profile",
    "Project",
    "PulledFile",
    "Resync",
    "ServerInfo",
    "Snapshot",
    "StoragePool",
    "Terminal",
    "Volume",
]
