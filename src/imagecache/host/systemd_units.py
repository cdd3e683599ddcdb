"""The agent's systemd units, as text. ``packaging/systemd`` has them for a program in ``/usr/local/bin``. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

CONTAINERD = "containerd.service"
SERVICE, SOCKET = "imagecache-agent.service", "imagecache-agent.socket"
UNINSTALL, TIMER = "imagecache-leave.service", "imagecache-leave.timer"
"""The service that uninstalls, and what starts it until that is done."""
MOUNT = "run-imagecache-pod.mount"
"""Of ``pod_directory.POD``, whose name it has (systemd-escape(1))."""
WANTED = {SERVICE: "multi-user.target", SOCKET: "sockets.target"}
"""The target that starts each unit at boot."""
UNINSTALL_WANTED = {TIMER: "timers.target"}
PARENTS = ("k3s.service", "k3s-agent.service", "rke2-server.service", "rke2-agent.service")
"""Units that write containerd's configuration, then start it as their child: nothing of ours can run in between."""
USER_NAMESPACE = Path("/run/imagecache/user-namespace")
"""Where the service finds a user namespace, while it runs."""
GUARD = "50-imagecache-repair.conf"
"""Name of our drop-in for containerd's unit. An uninstall deletes it wherever it is, so nobody else may have it."""

_SERVICE = """\
# The node process. A host service and not a pod: a snapshotter that runs as a pod could not start after a reboot,
# because containerd needs the snapshotter to start that pod.
[Unit]
Description=ImageCache agent: container layers without pulling
Documentation=man:systemd.service(5)
# An order only: containerd starts without us too, and waits at our socket for what it needs from us.
Before={containerd}
After=local-fs.target imagecache-agent.socket
Requires=imagecache-agent.socket
# Restarts never stop, however long an error such as a full disk lasts: systemd would close the socket too, and no
# container could start.
StartLimitIntervalSec=0

[Service]
Type=notify
# The agent may make no namespaces. To try whether this kernel maps ids, as containerd's user namespaces need it, it has
# this one, in which it is user 666: of a process that says its number, and is ended when the namespace has a name.
ExecStartPre=-+/bin/sh -c ': >{namespace}; unshare --user --map-user=666 --map-group=666 sh -c "$$1" | \\
    (read -r pid; mount --bind "/proc/$$pid/ns/user" {namespace}; kill "$$pid")' sh 'echo $$$$; exec sleep 9'
ExecStopPost=-+/bin/umount --lazy {namespace}
ExecStart={program} {command}
# At once after a crash: containerd waits one second for a new connection. After an error of our own 3 s later, since it
# is likely to happen again.
Restart=always
RestartSec=100ms
ExecStopPost=/bin/sh -c 'test "$SERVICE_RESULT" != exit-code || sleep 3'
# Mounts and running containers outlive us: systemd ends only the process itself.
KillMode=process
TimeoutStopSec=30
LimitNOFILE=1048576
LimitNPROC=infinity
TasksMax=infinity
OOMScoreAdjust=-999
# For the workers that read layers: they share three quarters of it, and are what the kernel ends first (score 1000).
# systemd must not end the agent for that.
MemoryMax=50%
OOMPolicy=continue
StateDirectory=imagecache
StateDirectoryMode=0700
# Nothing here may give the process a mount namespace of its own (PrivateTmp, ProtectSystem, PrivateMounts, ...):
# containers would not see its mounts. Nor anything that has devices controlled (DevicePolicy, ProtectClock): with
# cgroup v1 systemd then moves processes of other units between cgroups, and containerd was seen to lose its containers.
NoNewPrivileges=yes
RestrictRealtime=yes
LockPersonality=yes
ProtectHostname=yes
MemoryDenyWriteExecute=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
# For mounts; for files of containers, which have any owner; for workers, which become nobody and may be killed.
CapabilityBoundingSet=CAP_SYS_ADMIN CAP_DAC_OVERRIDE CAP_FOWNER CAP_CHOWN CAP_FSETID CAP_SETUID CAP_SETGID CAP_KILL
# A list of what is refused: an older systemd does not know all that mounts and the workers' sandbox need.
SystemCallFilter=~@clock @cpu-emulation @debug @module @obsolete @raw-io @reboot @resources @swap
SystemCallErrorNumber=EPERM
SystemCallArchitectures=native

[Install]
WantedBy=multi-user.target
Also=imagecache-agent.socket
"""
_SOCKET = """\
# The snapshotter's socket. systemd keeps it open, so that containerd waits while the agent restarts instead of failing.
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
# Begins `imagecache host uninstall` when a Pod asks for it, and finishes it when no container uses our snapshots.
[Unit]
Description=ImageCache agent: uninstall
After={containerd} imagecache-agent.service
# Never stop retrying: systemd would stop the timer too.
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecStart={program} host uninstall{flags}
"""
_MOUNT = """\
# What the DaemonSet's Pod writes: a filesystem of its own, so that it has bounds, and is emptied at once whatever is in
# it.
[Unit]
Description=ImageCache agent: what the Pod hands over

[Mount]
What=tmpfs
Where={path}
Type=tmpfs
Options=size=4m,nr_inodes=64,mode=0700,uid={owner},gid={owner},nosuid,nodev,noexec
LazyUnmount=yes
"""
_GUARD = """\
# containerd's configuration may have been written anew: our part is imported again before containerd reads it.
[Service]
ExecStartPre=-{program} host repair --containerd-unit {containerd}
"""
_TIMER = """\
[Unit]
Description=ImageCache agent: retry the uninstall

[Timer]
OnActiveSec=10
OnUnitInactiveSec=60

[Install]
WantedBy=timers.target
"""


def agent_units(program: Path, command: str = "agent", *, containerd: str = CONTAINERD) -> Mapping[str, str]:
    """Texts by file name. With the command ``snapshotter``, the service serves existing containers and nothing else.

    ``containerd`` is the unit that runs containerd: k3s and others have their own.
    """
    return {
        SERVICE: _SERVICE.format(program=program, command=command, containerd=containerd, namespace=USER_NAMESPACE),
        SOCKET: _SOCKET.format(containerd=containerd),
    }


def guard_units(program: Path, containerd: str) -> Mapping[str, str]:
    """The drop-in for containerd's unit, by file name; none for the units in ``PARENTS``. Its failure stops nothing."""
    return (
        {}
        if containerd in {"", *PARENTS}
        else {f"{containerd}.d/{GUARD}": _GUARD.format(program=program, containerd=containerd)}
    )


def leave_units(program: Path, flags: str = "", *, containerd: str = CONTAINERD) -> Mapping[str, str]:
    """The service that uninstalls. ``flags`` are those with which ``imagecache host`` was called."""
    flags = f" {flags}" if flags else ""
    return {UNINSTALL: _UNINSTALL.format(program=program, flags=flags, containerd=containerd)}


def mount_units(path: Path, owner: int) -> Mapping[str, str]:
    """A directory for a user, where no more fits than a Pod has to say."""
    return {MOUNT: _MOUNT.format(path=path, owner=owner)}


def uninstall_units(program: Path, flags: str = "", *, containerd: str = CONTAINERD) -> Mapping[str, str]:
    """The units that finish an uninstall. While the timer is there, one has begun."""
    return {**leave_units(program, flags, containerd=containerd), TIMER: _TIMER}
