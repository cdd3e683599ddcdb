"""The host service that a Pod keeps: what is made for it, and how the host leaves when it asks."""

from __future__ import annotations

from pathlib import Path

from imagecache.host.pod_directory import LEAVE, POD
from imagecache.host.service_files import CREDENTIALS, UNITS
from imagecache.host.systemd_units import ASKED, TIMER
from testkit.host_service import (
    read,
)

from .simulated import Crash, Host


def kept(path: Path) -> Host:
    return Host(path, changes={"kept": True, "credentials": {"cluster": "server"}})


def test_killed_anywhere_an_install_for_a_pod_is_finished(tmp_path: Path) -> None:
    for number in range(1, 100):
        host = kept(tmp_path / str(number))
        host.files.dies_at = number
        try:
            host.install()
        except Crash:
            host.install()
            assert ASKED in host.services.active
            assert host.files.at(UNITS / f"multi-user.target.wants/{ASKED}").readlink() == UNITS / ASKED
            assert read(host.files, CREDENTIALS / "cluster") == "server"
            assert host.files.at(POD).is_dir()
            assert host.in_force == "ours"
        else:
            break
    assert number > 10


def test_killed_anywhere_the_host_goes_on_to_leave_by_itself(tmp_path: Path) -> None:
    """The Pod has asked once and is gone: the path unit or the timer is there, and active, until all is done."""
    for number in range(1, 100):
        host = kept(tmp_path / str(number))
        host.install()
        (host.files.at(POD) / LEAVE).touch()
        host.files.changes, host.files.dies_at = 0, number
        try:
            host.uninstall()
        except Crash:
            asks = host.files.at(POD / LEAVE).exists() and bool(read(host.files, UNITS / ASKED))
            retries = bool(read(host.files, UNITS / TIMER))
            assert asks or retries or TIMER in host.services.active
            assert {ASKED, TIMER} & host.services.active.keys()
            host.uninstall()
            host.assert_gone()
            assert not host.files.at(POD).exists()
        else:
            break
    assert number > 10
