"""The host service comes and goes; killed at any point, the same call again finishes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from imagecache.errors import ContainerdMisconfigured, HostError, HostServiceFailed, ServiceManagerMissing
from imagecache.host.containerd_config import Action
from imagecache.host.service import Uninstalled
from imagecache.host.service_files import CONFIG, CREDENTIALS, DIRECTORY, RESTARTING, UNITS
from imagecache.host.systemd_units import SERVICE, TIMER, UNINSTALL
from imagecache.settings.choices import Mode
from testkit.host_service import (
    DROP_IN,
    FakeProgram,
    read,
    unchanged,
)

from .simulated import CONTAINERD, Crash, Host


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_install(host: Host) -> None:
    host.install()

    host.assert_installed()
    calls = host.services.calls
    assert calls.index(f"restart {SERVICE}") < calls.index(f"restart {CONTAINERD}"), "it would find no snapshotter"


def test_images_whose_blobs_were_discarded_are_pulled_again(host: Host) -> None:
    """They were unpacked by containerd's own snapshotter, which is not the one of new containers any more."""
    host.records.discarded = ["k8s.io/pause:3"]
    host.install()
    assert host.records.discarded == []

    host.records.discarded = ["k8s.io/of-another-handler:1"]
    host.install()
    assert host.records.discarded == ["k8s.io/of-another-handler:1"], "containerd was not restarted"


def test_a_containerd_that_answers_late_is_no_failure(host: Host) -> None:
    """As k3s' does, whose unit has started by then. Its images are looked at by the next call, or by the guard."""
    host.records.discarded = ["k8s.io/pause:3"]
    host.records.answers = False
    host.install()
    assert (host.in_force, host.records.discarded) == ("ours", ["k8s.io/pause:3"])

    host.records.answers = True
    host.install()
    assert (host.records.discarded, read(host.files, host.files.refused)) == ([], "")
    assert not host.files.at(host.files.unchecked).exists()


def test_a_start_that_writes_the_file_itself_costs_no_image(host: Host) -> None:
    """k3s without an imported directory: containerd's own snapshotter is the default again."""
    host.services.rewriting = True
    host.records.discarded = ["k8s.io/pause:3"]
    with pytest.raises(ContainerdMisconfigured, match="without our snapshotter") as caught:
        host.install()
    assert "template" in caught.value.hint
    assert host.records.discarded == ["k8s.io/pause:3"]

    host.services.calls.clear()
    with pytest.raises(ContainerdMisconfigured, match="before"):
        host.service().install(again=False)
    assert f"restart {CONTAINERD}" not in host.services.calls, "the pod of a DaemonSet comes again and again"
    host.services.rewriting = False
    host.install()
    assert (host.in_force, host.records.discarded) == ("ours", [])


def test_installing_again_changes_nothing_and_restarts_nothing(host: Host) -> None:
    host.install()
    host.services.calls.clear()

    assert unchanged(host.install())
    assert [call for call in host.services.calls if "restart" in call] == []
    host.assert_installed()


def test_an_upgrade_restarts_the_agent_alone_and_leaves_one_program(host: Host) -> None:
    host.install()
    host.services.calls.clear()
    host.program = FakeProgram("2.0-bbbb")
    host.install()

    host.assert_installed()
    assert [call for call in host.services.calls if "restart" in call] == [f"restart {SERVICE}"]
    assert {path.name for path in host.files.at(DIRECTORY).iterdir()} == {"current", "2.0-bbbb"}


def test_a_directory_that_others_use_too(tmp_path: Path) -> None:
    """On some systems programs run from few places (docs/install.md, "Which mode works where")."""
    host = Host(tmp_path, directory=Path("/home/kubernetes/bin"))
    folder = host.files.at(host.directory)
    (folder / "mounter").mkdir(parents=True)
    (folder / "kubelet").write_text("theirs")
    host.install()
    host.assert_installed()

    host.program = FakeProgram("2.0-bbbb")
    host.install()
    assert {path.name for path in folder.iterdir()} == {"kubelet", "mounter", "current", "2.0-bbbb"}
    assert host.uninstall().done
    assert {path.name for path in folder.iterdir()} == {"kubelet", "mounter"}


def test_an_administrators_file_is_not_overwritten(host: Host) -> None:
    host.files.at(CONFIG).parent.mkdir(parents=True)
    host.files.at(CONFIG).write_text('store = "/mine"\n')

    with pytest.raises(HostError, match="was not written by imagecache"):
        host.install()
    assert host.in_force == ""


def test_without_a_service_manager_all_is_done_but_the_start(host: Host) -> None:
    host.services.systemd = False

    with pytest.raises(ServiceManagerMissing) as caught:
        host.install()
    assert caught.value.exit_code == 65
    assert "current/bin/imagecache agent" in caught.value.hint
    assert read(host.files, DROP_IN) == "ours"
    assert read(host.files, DIRECTORY / "current/bin/imagecache")
    assert host.services.calls == []


def test_a_containerd_that_does_not_come_up_gets_its_own_configuration_back(host: Host) -> None:
    host.services.failing.add(CONTAINERD)

    with pytest.raises(HostServiceFailed, match="its old one again"):
        host.install()
    assert host.in_force == ""
    assert not read(host.files, DROP_IN)


def test_what_containerd_did_not_start_with_is_remembered_even_if_it_never_starts_again(host: Host) -> None:
    host.install()
    host.files.remove(DROP_IN)
    host.services.failing.add(CONTAINERD)
    broken = host.service()
    host.services.broken = True
    with pytest.raises(HostServiceFailed):
        broken.restart_containerd()
    assert (read(host.files, host.files.refused), read(host.files, DROP_IN)) == ("first", "")


def test_a_start_of_containerd_that_we_wait_for_need_not_wait_for_us(host: Host) -> None:
    """It repairs the configuration first, for which it would want the lock that we have."""
    seen: list[tuple[str, bool, bool]] = []
    restart = host.services.restart

    def during(unit: str, until: Callable[[], bool] | None = None) -> None:
        with host.files.locked(seconds=0) as free:
            seen.append((unit, host.files.at(RESTARTING).exists(), free))
        restart(unit, until)

    host.services.restart = during  # type: ignore[method-assign]
    host.install()

    assert seen[-1] == (CONTAINERD, True, False)
    assert not any(marked for unit, marked, _ in seen if unit != CONTAINERD)
    assert not host.files.at(RESTARTING).exists()


def test_an_agent_that_does_not_start_never_meets_containerd(host: Host) -> None:
    host.files.at(DROP_IN).parent.mkdir(parents=True)
    host.files.at(DROP_IN).write_text("")
    host.services.failing.add(SERVICE)

    with pytest.raises(HostServiceFailed):
        host.install()
    assert (host.in_force, read(host.files, DROP_IN)) == ("", "")


def test_uninstall_with_no_container_left(host: Host) -> None:
    host.install()
    host.records.images = ["k8s.io/nginx"]
    host.files.write(CREDENTIALS / "token", "secret", 0o600)

    left = host.uninstall()

    assert (left.done, left.forgotten, host.records.snapshots) == (True, ["k8s.io/nginx"], 0)
    host.assert_gone()


def test_uninstall_waits_for_containers_and_serves_them_meanwhile(host: Host) -> None:
    host.install()
    host.records.containers = 2
    left = host.uninstall()

    assert (left.done, left.in_use) == (False, 2)
    assert host.in_force == "serve only"
    assert "bin/imagecache snapshotter\n" in host.services.active[SERVICE], "an agent would attach images again"
    assert "host uninstall" in read(host.files, UNITS / UNINSTALL)
    assert TIMER in host.services.active

    host.services.calls.clear()
    assert host.uninstall().in_use == 2  # the timer's
    assert [call for call in host.services.calls if "restart" in call] == []

    host.records.containers = 0
    assert host.uninstall().done
    host.assert_gone()


def test_from_inside_a_container_the_host_does_the_rest(host: Host) -> None:
    host.install()
    left = host.service(in_container=True).uninstall()

    assert not left.done
    assert TIMER in host.services.active
    assert host.uninstall().done
    host.assert_gone()


def test_the_hosts_own_call_has_the_same_flags(host: Host) -> None:
    host.changes = {"flags": "--leave-containerd", "configure": False}
    host.install()
    host.uninstall()

    assert not read(host.files, UNITS / UNINSTALL)  # containerd does not know us: all is done at once
    host.install()
    host.services.active[CONTAINERD] = "ours"
    assert not host.uninstall().done
    assert "host uninstall --leave-containerd\n" in read(host.files, UNITS / UNINSTALL)
    assert host.in_force == "ours"


def test_an_install_ends_an_uninstall_that_waits_for_its_lock(host: Host) -> None:
    host.install()
    host.records.containers = 2
    host.uninstall()
    host.services.start(UNINSTALL)  # by the timer

    host.install()
    assert UNINSTALL not in host.services.active
    host.assert_installed()


def test_a_departure_can_be_taken_back(host: Host) -> None:
    host.install()
    host.records.containers = 1
    host.uninstall()
    host.install()

    host.assert_installed()


def test_nothing_to_uninstall(host: Host) -> None:
    assert host.uninstall() == Uninstalled(())
    assert host.left() == set()


def test_uninstall_without_a_service_manager_waits_for_a_restart_by_somebody(host: Host) -> None:
    host.install()
    host.services.systemd = False

    with pytest.raises(ServiceManagerMissing, match="restart"):
        host.uninstall()
    assert host.records.snapshots == 3
    host.services.restart(CONTAINERD)
    assert host.uninstall().done
    assert host.left() == set()


def test_containerd_asks_for_a_repair_before_each_start(host: Host) -> None:
    guard = UNITS / f"{CONTAINERD}.d/50-imagecache-repair.conf"
    host.install()
    command = f"{DIRECTORY}/current/bin/imagecache host repair --containerd-unit containerd.service"
    assert f"\nExecStartPre=-{command}\n" in read(host.files, guard)

    host.records.containers = 1
    host.uninstall()
    assert not host.files.at(guard).parent.exists(), "what an uninstall takes away would come back"


@pytest.mark.parametrize("changes", [{"containerd_unit": "k3s.service"}, {"configure": False}])
def test_no_repair_where_it_would_come_too_early_or_is_not_wanted(host: Host, changes: dict[str, object]) -> None:
    host.changes = changes
    host.install()

    assert list(host.files.at(UNITS).glob("*.d")) == []


def test_native_mode_configures_containerd_and_nothing_else(tmp_path: Path) -> None:
    host = Host(tmp_path, Mode.NATIVE)
    host.install()
    assert (host.in_force, host.left()) == ("ours", {str(DROP_IN.relative_to("/"))})
    host.services.calls.clear()
    assert unchanged(host.install())
    assert host.services.calls == []

    assert host.uninstall().done
    assert (host.in_force, host.left(), host.records.held) == ("", set(), 0)
    assert not host.files.at(DIRECTORY).exists()
    assert host.uninstall().done


def test_native_mode_waits_until_proxy_mode_has_left(host: Host) -> None:
    host.install()
    host.mode = Mode.NATIVE

    with pytest.raises(HostError, match="proxy mode is still"):
        host.install()


def upgrade(host: Host) -> None:
    host.install()
    host.program = FakeProgram("2.0-bbbb")


@pytest.mark.parametrize(
    ("before", "act", "check"),
    [
        (lambda _host: None, Host.install, Host.assert_installed),
        (upgrade, Host.install, Host.assert_installed),
        (Host.install, Host.uninstall, Host.assert_gone),
    ],
    ids=["install", "upgrade", "uninstall"],
)
def test_killed_anywhere_the_same_call_finishes_it(
    tmp_path: Path, before: Callable[[Host], None], act: Callable[[Host], None], check: Callable[[Host], None]
) -> None:
    points = 0
    for number in range(1, 100):
        host = Host(tmp_path / str(number))
        host.records.discarded = ["k8s.io/pause:3"]
        before(host)
        host.files.changes, host.files.dies_at = 0, number
        try:
            act(host)
        except Crash:
            points += 1
            assert CONTAINERD in host.services.active
            act(host)
            check(host)
            assert host.records.discarded == []
        else:
            break
    assert points > 5


def test_a_copy_that_was_cut_short_is_made_again(host: Host) -> None:
    staged = host.files.at(DIRECTORY) / f".new-{host.program.name}"
    staged.mkdir(parents=True)
    (staged / "half").touch()
    host.install()

    assert {path.name for path in host.files.at(DIRECTORY).iterdir()} == {"current", host.program.name}
    assert host.files.install_program(host.program).action is Action.UNCHANGED
