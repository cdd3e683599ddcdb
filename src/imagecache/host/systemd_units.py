"""The systemd units of the agent, as text. ``packaging/systemd`` has them for a program in ``/usr/local/bin``. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

CONTAINERD = "containerd.service"
SERVICE, SOCKET = "imagecache-agent.service", "imagecache-agent.socket"
UNINSTALL, TIMER = "imagecache-leave.service", "imagecache-leave.timer"
WANTED = {SERVICE: "multi-user.target", SOCKET: "sockets.target"}
"""By whom each unit is started at boot."""
UNINSTALL_WANTED = {TIMER: "timers.target"}

_SERVICE = """\
# The node process. A host service and not a pod: a node whose snapshotter is a pod of its own cannot start that pod
# after a reboot.
[Unit]
Description=ImageCache agent: container layers without pulling
Documentation=man:systemd.service(5)
# Soft: containerd starts without us too, and waits on our socket for what it needs from us.
Before={containerd}
After=local-fs.target imagecache-agent.socket
Requires=imagecache-agent.socket
# However long an error lasts, such as a full disk: giving up would close the socket too, and no container could start.
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart={program} {command}
# At once after a crash: containerd gives up on a new connection after a second. Slowly after an error of our own, which
# is likely to be there again.
Restart=always
RestartSec=100ms
ExecStopPost=/bin/sh -c 'test "$SERVICE_RESULT" != exit-code || sleep 3'
# Mounts and running containers outlive us; only the process itself is ended.
KillMode=process
TimeoutStopSec=30
LimitNOFILE=1048576
LimitNPROC=infinity
TasksMax=infinity
OOMScoreAdjust=-999
StateDirectory=imagecache
StateDirectoryMode=0700
# Nothing here may give us a mount namespace of our own (PrivateTmp, ProtectSystem, PrivateMounts, ...): containerd's
# containers would not see our mounts. These do not:
NoNewPrivileges=yes
RestrictRealtime=yes
LockPersonality=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK

[Install]
WantedBy=multi-user.target
Also=imagecache-agent.socket
"""
_SOCKET = """\
# The snapshotter's socket. systemd holds it, so that containerd waits while the agent restarts, instead of failing.
[Unit]
Description=ImageCache snapshotter socket
Documentation=man:systemd.socket(5)
Before={containerd}

[Socket]
ListenStream=/run/imagecache/snapshotter.sock
SocketMode=0600
DirectoryMode=0700
RemoveOnStop=yes
Backlog=1024

[Install]
WantedBy=sockets.target
"""
_UNINSTALL = """\
# Ends what `imagecache host uninstall` began, once no container stands on our snapshots any more.
[Unit]
Description=ImageCache agent: leave this host
After={containerd} imagecache-agent.service
# Nor does this one give up, and its timer with it.
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecStart={program} host uninstall{flags}
"""
_TIMER = """\
[Unit]
Description=ImageCache agent: try to leave this host

[Timer]
OnActiveSec=10
OnUnitInactiveSec=60

[Install]
WantedBy=timers.target
"""


def agent_units(program: Path, command: str = "agent", *, containerd: str = CONTAINERD) -> Mapping[str, str]:
    """By file name. With ``snapshotter`` as the command, what is mounted stays served and nothing else happens.

    ``containerd`` is the unit that runs it: k3s and others have their own.
    """
    return {
        SERVICE: _SERVICE.format(program=program, command=command, containerd=containerd),
        SOCKET: _SOCKET.format(containerd=containerd),
    }


def uninstall_units(program: Path, flags: str = "", *, containerd: str = CONTAINERD) -> Mapping[str, str]:
    """``flags`` of ``imagecache host``, without which the host's own call would do something else."""
    flags = f" {flags}" if flags else ""
    return {UNINSTALL: _UNINSTALL.format(program=program, flags=flags, containerd=containerd), TIMER: _TIMER}
