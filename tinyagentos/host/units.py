"""The server's systemd units: hardened as far as it works, and helpers for what needs root.

docs/adr/0078 says what each line is for, and what those that are not here would break.
"""

from __future__ import annotations

from pathlib import Path

from tinyagentos.config import Settings
from tinyagentos.host.daemon_logs import FOLDERS as DAEMON_LOGS
from tinyagentos.host.files import PLACES
from tinyagentos.host.installation import Program

UNITS = Path("/etc/systemd/system")
SERVER = UNITS / "taos.service"
ACT_SOCKET = UNITS / "taos-act.socket"
ACT = UNITS / "taos-act@.service"
# Where the server asks for what it may not do itself.
ACT_LISTENS = Path("/run/taos-act.sock")
# Every question of an agent has two, every open page some; systems give 1024.
MOST_FILES = 65536
RUN = Path("/run")


def render_units(program: Program, settings: Settings) -> dict[Path, str]:
    """The unit files of the host's server, by their paths."""
    return {
        SERVER: render_server(program, settings),
        ACT_SOCKET: ACT_SOCKET_UNIT,
        ACT: render_act(program),
    }


def render_server(program: Program, settings: Settings) -> str:
    """The unit of the server.

    Two capabilities are kept: to read and write the files of people, whose folders are their own;
    and to watch the firewall rules of agents' bridges and put them back. Python packages are mended
    before the server starts, because it cannot write to them.
    """
    mend = f"ExecStartPre=+{' '.join(program.prepare)}\n" if program.prepare else ""
    folders = " ".join((str(settings.data_dir), *(f"-{path}" for path in (*DAEMON_LOGS, *PLACES))))
    run = settings.run_dir
    if run.is_relative_to(RUN):
        run_dir = f"RuntimeDirectory={run.relative_to(RUN)}\nRuntimeDirectoryMode=0700\n"
        run_dir += (
            "RuntimeDirectoryPreserve=yes\n"  # what is known of the firewall outlives a restart
        )
    else:
        run_dir = f"ReadWritePaths={run}\n"
    return f"""[Unit]
Description=taOS server
After=network.target incus.service incus-startup.service {ACT_SOCKET.name}
Wants=incus.service
Requires={ACT_SOCKET.name}

[Service]
{mend}ExecStart={" ".join(program.starting("serve"))}
WorkingDirectory=/
Restart=always
RestartSec=2
TimeoutStartSec=15min
LimitNOFILE={MOST_FILES}
LogRateLimitIntervalSec=30s
LogRateLimitBurst=1000
MemoryMax=2G
TasksMax=1024
UMask=0077
{run_dir}ReadWritePaths={folders}
ProtectSystem=strict
NoNewPrivileges=yes
CapabilityBoundingSet=CAP_DAC_OVERRIDE CAP_NET_ADMIN
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""


ACT_SOCKET_UNIT = f"""[Unit]
Description=taOS acts that need root

[Socket]
ListenStream={ACT_LISTENS}
SocketMode=0600
Accept=yes
MaxConnections=16

[Install]
WantedBy=sockets.target
"""


def render_act(program: Program) -> str:
    """The unit of one act: a process for each, which ends with it."""
    return f"""[Unit]
Description=taOS act
CollectMode=inactive-or-failed

[Service]
ExecStart={program.python} -P -m tinyagentos.acts
Environment=PYTHONPATH={program.folder}
WorkingDirectory=/
StandardInput=socket
StandardOutput=socket
StandardError=journal
TimeoutStartSec=15min
UMask=0022
"""
