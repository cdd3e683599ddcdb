"""The host service that a Pod keeps: what is made for it, and how the host leaves when it asks."""

from __future__ import annotations

from pathlib import Path

from imagecache.agent.pod_credentials import HandedOver
from imagecache.host.pod_directory import LEAVE, POD, PodDirectory
from imagecache.host.service_files import UNITS, HostFiles
from imagecache.host.systemd_units import MOUNT, SERVICE, TIMER, UNINSTALL
from testkit.host_service import read

from .simulated import Crash, Host


def kept(path: Path) -> Host:
    return Host(path, changes={"kept": True})


def agent(host: Host) -> HandedOver:
    """What it looks at every five seconds, unless it only serves."""
    return HandedOver(
        host.files, PodDirectory(host.root), has_store=False, leave=lambda: host.services.restart(UNINSTALL)
    )


def test_killed_anywhere_an_install_for_a_pod_is_finished(tmp_path: Path) -> None:
    for number in range(1, 100):
        host = kept(tmp_path / str(number))
        host.files.dies_at = number
        try:
            host.install()
        except Crash:
            host.install()
            assert MOUNT in host.services.active
            assert read(host.files, UNITS / UNINSTALL)
            assert host.files.at(POD).is_dir()
            assert host.in_force == "ours"
        else:
            break
    assert number > 10


def test_killed_anywhere_the_host_goes_on_to_leave_by_itself(tmp_path: Path) -> None:
    """The Pod has asked once and is gone, and so is /run: the agent asks again, or the timer is there."""
    for number in range(1, 100):
        host = kept(tmp_path / str(number))
        host.install()
        (host.files.at(POD) / LEAVE).touch()
        agent(host).leave_if_asked()
        assert host.services.active.pop(UNINSTALL)
        host.files.changes, host.files.dies_at = 0, number
        try:
            host.uninstall()
        except Crash:
            PodDirectory(host.root).remove()
            agent(host).leave_if_asked()
            asks = UNINSTALL in host.services.active and "imagecache agent" in read(host.files, UNITS / SERVICE)
            assert asks or read(host.files, UNITS / TIMER) or TIMER in host.services.active
            host.services.active.pop(UNINSTALL, None)
            host.uninstall()
            host.assert_gone()
            assert not host.files.at(POD).exists()
        else:
            break
    assert number > 10


def test_what_is_handed_over_is_written_with_the_lock(tmp_path: Path) -> None:
    """Else an uninstall that just ends would remove it from the agent that is being installed."""
    held: list[bool] = []

    def hand_over() -> None:
        with HostFiles(tmp_path).locked(seconds=0) as mine:
            held.append(not mine)

    Host(tmp_path, changes={"kept": True, "hand_over": hand_over}).install()
    assert held == [True]


def test_a_request_from_before_an_install_is_forgotten(tmp_path: Path) -> None:
    host = kept(tmp_path)
    host.install()
    (host.files.at(POD) / LEAVE).touch()
    agent(host).leave_if_asked()
    host.services.active.pop(UNINSTALL)
    host.install()
    agent(host).leave_if_asked()
    assert UNINSTALL not in host.services.active
