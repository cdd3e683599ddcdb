"""The systemd units, judged by systemd itself and held against the settings."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest

from imagecache.host.pod_directory import KEEPER, POD
from imagecache.host.systemd_units import (
    MOUNT,
    TIMER,
    UNINSTALL_WANTED,
    WANTED,
    agent_units,
    mount_units,
    uninstall_units,
)
from imagecache.settings.table import Settings

UNITS = Path(__file__).resolve().parents[2] / "packaging" / "systemd"
SERVICE, SOCKET = "imagecache-agent.service", "imagecache-agent.socket"
INSTALLED = "/usr/local/bin/imagecache"


def verify(folder: Path) -> str:
    """What systemd-analyze finds wrong; it has an exit code for some mistakes only."""
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(path) for path in sorted(folder.iterdir()))],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return result.stderr if result.stderr or not result.returncode else f"exit code {result.returncode}"


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units with this checkout's console script, those of a departure too."""
    script = Path(sys.executable).parent / "imagecache"
    for name in (SERVICE, SOCKET):
        (tmp_path / name).write_text((UNITS / name).read_text().replace(INSTALLED, str(script)))
    leave = uninstall_units(script, "--leave-containerd --containerd-unit=k3s.service")
    for name, text in {**leave, **mount_units(POD, KEEPER)}.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def read(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)  # a key may be there twice
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # keys keep their case
    parser.read(UNITS / name)
    return parser


def test_systemd_accepts_the_units(installed: Path) -> None:
    assert verify(installed) == ""


def test_systemd_would_find_a_mistake(installed: Path) -> None:
    service = installed / SERVICE
    service.write_text(service.read_text().replace("KillMode", "KilMode"))

    assert "Unknown key 'KilMode'" in verify(installed)


def test_a_host_that_is_left_only_serves(installed: Path) -> None:
    script = Path(sys.executable).parent / "imagecache"
    (installed / SERVICE).write_text(agent_units(script, "snapshotter")[SERVICE])

    assert verify(installed) == ""
    assert f"ExecStart={script} snapshotter\n" in (installed / SERVICE).read_text()


def test_whoever_runs_containerd_comes_after_us() -> None:
    texts = {
        **agent_units(Path("/x"), containerd="k3s.service"),
        **uninstall_units(Path("/x"), containerd="k3s.service"),
    }

    assert "\nBefore=k3s.service\n" in texts[SERVICE]
    assert "\nBefore=k3s.service\n" in texts[SOCKET]
    assert not [name for name, text in texts.items() if "containerd.service" in text]


def test_the_links_that_are_made_are_those_that_systemd_would_make() -> None:
    timer = configparser.ConfigParser(interpolation=None)
    timer.read_string(uninstall_units(Path("/x"))[TIMER])

    assert {name: read(name)["Install"]["WantedBy"] for name in (SERVICE, SOCKET)} == WANTED
    assert {TIMER: timer["Install"]["WantedBy"]} == UNINSTALL_WANTED


def test_the_mount_has_the_name_of_its_path() -> None:
    """systemd refuses any other."""
    escaped = subprocess.run(
        ["systemd-escape", "--path", "--suffix=mount", str(POD)], capture_output=True, text=True, check=True
    )
    assert escaped.stdout == f"{MOUNT}\n"


def test_the_socket_is_where_the_agent_and_containerd_look() -> None:
    socket = read(SOCKET)["Socket"]

    assert Path(socket["ListenStream"]) == Settings().agent_socket
    assert (socket["SocketMode"], socket["DirectoryMode"]) == ("0600", "0700")


def test_what_a_node_relies_on() -> None:
    service = read(SERVICE)

    assert service["Unit"]["Before"] == "containerd.service"
    assert service["Unit"]["Requires"] == SOCKET
    assert service["Unit"]["StartLimitIntervalSec"] == "0", "after a limit the socket would be closed, too"
    assert service["Install"]["WantedBy"] == "multi-user.target"
    assert service["Service"]["ExecStart"] == f"{INSTALLED} agent"
    assert service["Service"]["KillMode"] == "process"
    assert service["Service"]["LimitNOFILE"] == "1048576"
    assert Path("/var/lib", service["Service"]["StateDirectory"]) == Settings().store


def test_what_is_left_to_the_agent() -> None:
    """The figure in docs/security.md. A mount namespace would take more away, and all that we mount."""
    argv = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(UNITS / SERVICE)]
    found = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout
    match = re.search(r"Overall exposure level for \S+: ([0-9.]+)", found)

    assert match is not None
    assert float(match[1]) <= 5.2, found


def test_no_mount_namespace_of_its_own() -> None:
    """Each of these gives a service its own mount namespace, in which its mounts would stay (systemd.exec(5)).

    But for those of devices: with cgroup v1 they have systemd move processes of other units.
    """
    without = {"ProtectHostname"}
    sandboxing = ("Private", "Protect", "ReadOnly", "ReadWrite", "Inaccessible", "BindPaths", "TemporaryFileSystem")

    assert [
        key
        for key in read(SERVICE)["Service"]
        if key.startswith((*sandboxing, "MountFlags", "RootDirectory", "Device")) and key not in without
    ] == []
