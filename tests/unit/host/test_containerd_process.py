"""Which unit runs the containerd at a socket."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest

from imagecache.host.containerd_process import unit_at, unit_of

V2 = "0::/system.slice/k3s.service\n"
HYBRID = """\
12:cpu,cpuacct:/system.slice/other.service
1:name=systemd:/system.slice/containerd.service
0::/
"""
NODE_IN_A_CONTAINER = "0::/system.slice/docker.service/0123/system.slice/containerd.service\n"
SEEN_FROM_A_POD = "0::/../../../system.slice/rke2-agent.service\n"
OF_A_USER = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/containerd.service\n"


@pytest.mark.parametrize(
    ("cgroups", "unit"),
    [
        (V2, "k3s.service"),
        (HYBRID, "containerd.service"),
        (NODE_IN_A_CONTAINER, "containerd.service"),
        (SEEN_FROM_A_POD, "rke2-agent.service"),
        (OF_A_USER, ""),
        ("0::/user.slice/user-0.slice/session-3.scope\n", ""),
        ("", ""),
    ],
)
def test_the_unit_of_a_v1_hybrid_and_a_v2_cgroup(cgroups: str, unit: str) -> None:
    assert unit_of(cgroups) == unit


def test_nobody_listens(tmp_path: Path) -> None:
    assert unit_at(tmp_path / "none.sock") == ""


def test_the_process_that_listens_is_asked(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s.sock"))
        listener.listen()
        assert unit_at(tmp_path / "s.sock") == unit_of(Path("/proc/self/cgroup").read_text())


def test_from_a_container_the_host_s_own_processes_say_it(tmp_path: Path) -> None:
    """No process of the host has an id there. A connection has the same path in the kernel's table as its listener."""
    processes = tmp_path / "proc"
    (processes / "1/net").mkdir(parents=True)
    (processes / "1/net/unix").write_text(
        "Num       RefCount Protocol Flags    Type St Inode Path\n"
        "0000000000000000: 00000002 00000000 00010000 0001 01 100 /run/k3s/containerd/containerd.sock\n"
        "0000000000000000: 00000003 00000000 00000000 0001 03 200 /run/containerd/containerd.sock\n"
        "0000000000000000: 00000003 00000000 00000000 0001 03 201\n"
        "0000000000000000: 00000002 00000000 00010000 0001 01 300 /run/containerd/containerd.sock\n"
    )
    for pid, inode, unit in ((1, 300, "init.scope"), (7, 200, "other.service"), (10, 300, "containerd.service")):
        (processes / str(pid) / "fd").mkdir(parents=True)
        (processes / str(pid) / "fd/3").symlink_to(f"socket:[{inode}]")
        (processes / str(pid) / "cgroup").write_text(f"0::/../../system.slice/{unit}\n")

    assert unit_at(Path("/run/containerd/containerd.sock"), tmp_path) == "containerd.service"
    assert unit_at(Path("/var/run/containerd/containerd.sock"), tmp_path) == "containerd.service"
    assert unit_at(Path("/run/k3s/containerd/containerd.sock"), tmp_path) == ""
    assert unit_at(Path("/run/containerd/containerd.sock"), tmp_path / "none") == ""


def test_one_that_accepts_nobody_does_not_stop_us(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(tmp_path / "s.sock"))
        listener.listen(0)
        with contextlib.suppress(BlockingIOError):  # its queue is full then
            while True:
                waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
                waiting.setblocking(False)
                waiting.connect(str(tmp_path / "s.sock"))
        assert unit_at(tmp_path / "s.sock") == ""
