"""What follows from a look at containerd's configuration, in which order, and how often."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from imagecache.errors import ContainerdMisconfigured, HostServiceFailed, ServiceManagerMissing
from imagecache.host.config_guard import SETTLED, ConfigGuard, Seen, Steps, decide
from imagecache.host.containerd_config import ConfigState, Found
from imagecache.host.service import CONTAINERD_STALE, HostService, HostSettings
from imagecache.host.service_files import UNITS, HostFiles
from imagecache.host.systemd_units import TIMER
from imagecache.settings.choices import Mode
from testkit.clock import FakeClock
from testkit.host_service import (
    ADDRESS,
    DROP_IN,
    FakeContainerdFiles,
    FakeProgram,
    FakeRecords,
    FakeServiceManager,
    read,
)

CONTAINERD = "containerd.service"
RESTART, FORGET, FORGET_OTHERS = f"restart {CONTAINERD}", "forget images", "forget images of others"
NOTHING = Steps(forget=False, write=False, restart=False)


@dataclass
class Node:
    """A host with our drop-in, which its containerd has read."""

    root: Path
    mode: Mode = Mode.PROXY
    unit: str = CONTAINERD
    clock: FakeClock = field(default_factory=FakeClock)
    files: HostFiles = field(init=False)
    drop_in: FakeContainerdFiles = field(init=False)
    services: FakeServiceManager = field(init=False)
    records: FakeRecords = field(init=False)
    forgotten: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.files = HostFiles(self.root)
        self.drop_in = FakeContainerdFiles(self.files)
        self.services = FakeServiceManager(self.files)
        self.records = FakeRecords(self.services, images=["k8s.io/app:1"])
        self.files.at(UNITS).mkdir(parents=True)
        self.drop_in.install()
        self.services.restart(CONTAINERD)
        self.services.calls.clear()

    def service(self) -> HostService:
        settings = HostSettings(self.mode, "", ADDRESS, containerd_unit=self.unit)
        return HostService(self.files, self.services, (self.drop_in, self.records), settings, FakeProgram)

    def guard(self, *, repair: bool = True) -> ConfigGuard:
        return ConfigGuard(self.service, self.clock, repair=repair, forgotten=lambda: self.forgotten.append("again"))

    def rewrite(self, *, restart: bool) -> None:
        """Somebody writes containerd's configuration anew, and may restart it."""
        self.drop_in.undo()
        if restart:
            self.services.restart(CONTAINERD)
        self.services.calls.clear()

    @property
    def calls(self) -> list[str]:
        calls, self.services.calls = self.services.calls, []
        return calls

    @property
    def in_force(self) -> str:
        return self.services.active.get(CONTAINERD, "not running")


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


@pytest.mark.parametrize(
    ("state", "read", "ours", "steps"),
    [
        (ConfigState.OK, True, True, NOTHING),
        (ConfigState.OK, False, None, NOTHING),
        (ConfigState.NOT_IMPORTED, False, True, Steps(forget=False, write=True, restart=False)),
        (ConfigState.ABSENT, False, None, Steps(forget=False, write=True, restart=False)),
        (ConfigState.NOT_IMPORTED, True, False, Steps(forget=True, write=True, restart=True)),
        (ConfigState.OK, True, False, Steps(forget=True, write=False, restart=True)),
        (ConfigState.STALE, False, True, Steps(forget=False, write=True, restart=False)),
        (ConfigState.STALE, True, True, Steps(forget=False, write=True, restart=True)),
    ],
)
def test_what_follows_from_a_look(state: ConfigState, read: bool, ours: bool | None, steps: Steps) -> None:
    assert decide(Seen(state, 60, read, ours), may_repair=True, rested=True) == steps


def test_what_waits_or_is_not_allowed() -> None:
    lost = Seen(ConfigState.NOT_IMPORTED, 60, read=True, ours=False)
    being_written = Seen(ConfigState.NOT_IMPORTED, SETTLED / 2, read=True, ours=False)
    only_forget = Steps(forget=True, write=False, restart=False)

    assert decide(lost, may_repair=True, rested=False) == Steps(forget=True, write=True, restart=False)
    assert decide(lost, may_repair=False, rested=True) == only_forget
    assert decide(being_written, may_repair=True, rested=True) == only_forget


def test_where_nothing_is_wrong_nothing_is_done(node: Node) -> None:
    node.guard().check()
    assert (node.calls, node.forgotten, node.records.images) == ([], [], ["k8s.io/app:1"])


def test_the_records_go_before_the_restart(node: Node) -> None:
    node.rewrite(restart=True)
    node.guard().check()

    assert node.calls == [FORGET, RESTART, FORGET_OTHERS]
    assert (node.in_force, node.records.images, node.forgotten) == ("ours", [], ["again"])


def test_what_was_pulled_meanwhile_is_looked_at_when_somebody_else_restarts_containerd(node: Node) -> None:
    node.rewrite(restart=True)
    guard = node.guard(repair=False)
    with pytest.raises(ContainerdMisconfigured):
        guard.check()
    node.drop_in.install()
    node.services.restart(CONTAINERD)
    node.services.calls.clear()

    # by the next process: this one has ended meanwhile
    node.guard().check()
    node.guard().check()
    assert node.calls == [FORGET_OTHERS]


def test_images_wait_for_the_restart_that_an_install_did_not_come_to(node: Node) -> None:
    """It took an uninstall back and was killed: our snapshotter is loaded, and not the default yet."""
    node.drop_in.install(serve_only=True)
    node.services.restart(CONTAINERD)
    node.calls.clear()
    node.drop_in.install()
    node.files.write(node.files.unchecked, "", 0o600)
    node.files.write(CONTAINERD_STALE, node.service().containerd_now(), 0o600)
    node.guard().check()
    assert FORGET_OTHERS not in node.calls

    node.services.restart(CONTAINERD)
    node.guard().check()
    assert node.calls[-1] == FORGET_OTHERS


def test_a_containerd_that_does_not_come_back_is_not_restarted_again(node: Node) -> None:
    """k3s of which the control plane is away: nobody knows whether it is us."""
    node.rewrite(restart=True)
    restart = node.services.restart

    def silent(unit: str, until: Callable[[], bool] | None = None) -> None:
        restart(unit, until)
        node.records.answers = False

    node.services.restart = silent  # type: ignore[method-assign]
    guard = node.guard()
    guard.check()
    assert node.calls == [FORGET, RESTART]

    node.services.restart = restart  # type: ignore[method-assign]
    node.rewrite(restart=True)
    node.records.answers = True
    node.clock.advance(hours=3)
    with pytest.raises(ContainerdMisconfigured, match="did not run with our configuration"):
        guard.check()
    assert node.calls == [FORGET]
    node.drop_in.install()
    node.services.restart(CONTAINERD)
    node.calls.clear()
    guard.check()
    assert (node.calls[-1:], read(node.files, node.files.refused)) == ([FORGET_OTHERS], "")
    node.rewrite(restart=True)
    node.clock.advance(hours=3)
    guard.check()
    assert node.in_force == "ours", "it runs with it after all"


def test_a_file_that_cannot_be_read_keeps_no_image_that_cannot_start(node: Node) -> None:
    node.rewrite(restart=True)
    node.drop_in.unreadable = True
    with pytest.raises(ContainerdMisconfigured, match="not TOML"):
        node.guard().check()
    assert (node.calls, node.forgotten) == ([FORGET], ["again"])


def test_a_look_keeps_nobody_from_a_repair(node: Node) -> None:
    """containerd may start at that moment, and asks for one."""
    free: list[bool] = []
    look = node.drop_in.look

    def during() -> Found:
        with node.files.locked(seconds=0) as mine:
            free.append(mine)
        return look()

    node.drop_in.look = during  # type: ignore[method-assign]
    node.guard().check()
    assert free == [True]


async def test_another_containerd_is_looked_at_at_once(node: Node) -> None:
    """Until its images are forgotten, pods fail."""
    looks: list[float] = []
    look = node.drop_in.look

    def counted() -> Found:
        looks.append(node.clock.monotonic())
        return look()

    node.drop_in.look = counted  # type: ignore[method-assign]

    async def sleep(seconds: float) -> None:
        node.clock.advance(seconds)
        if node.clock.monotonic() - begin == 90:
            node.services.restart(CONTAINERD)
        if node.clock.monotonic() - begin > 160:
            raise asyncio.CancelledError

    begin = node.clock.monotonic()
    guard = ConfigGuard(node.service, node.clock, repair=True, started=node.service().containerd_now, sleep=sleep)
    with pytest.raises(asyncio.CancelledError):
        await guard.run()
    assert [each - begin for each in looks] == [0, 60, 90, 150]


def test_a_containerd_that_runs_with_it_is_not_restarted(node: Node) -> None:
    node.rewrite(restart=False)
    node.guard().check()

    assert node.calls == []
    assert (read(node.files, DROP_IN), node.records.images) == ("ours", ["k8s.io/app:1"])


def test_a_file_that_is_being_written_is_left_alone(node: Node) -> None:
    node.rewrite(restart=True)
    node.drop_in.changed = node.clock.now().timestamp() - 1
    guard = node.guard()
    with pytest.raises(ContainerdMisconfigured, match="tried again"):
        guard.check()
    assert (node.calls, read(node.files, DROP_IN)) == ([FORGET], "")

    node.clock.advance(60)
    guard.check()
    assert node.in_force == "ours"


def test_restarts_are_ever_rarer(node: Node) -> None:
    guard = node.guard()
    restarted: list[int] = []
    for second in range(200):
        node.rewrite(restart=node.in_force == "ours")
        node.drop_in.fingerprint = str(second)
        try:
            guard.check()
        except ContainerdMisconfigured:
            assert RESTART not in node.calls
        if RESTART in node.calls or node.in_force == "ours":
            restarted.append(second)
        node.clock.advance(1)
    assert restarted == [0, 10, 30, 70, 150]

    node.clock.advance(hours=3)
    node.rewrite(restart=True)
    guard.check()
    node.rewrite(restart=True)
    node.clock.advance(10)
    guard.check()
    assert node.in_force == "ours", "after hours of calm they are counted anew"


def test_a_start_that_writes_the_file_itself_is_restarted_once(node: Node) -> None:
    """k3s without an imported directory."""
    node.services.rewriting = True
    node.rewrite(restart=True)
    guard = node.guard()
    with pytest.raises(ContainerdMisconfigured, match="its configuration had it") as caught:
        guard.check()
    assert "template" in caught.value.hint
    assert node.calls == [FORGET, RESTART]

    for _ in range(3):
        node.clock.advance(hours=2)
        with pytest.raises(ContainerdMisconfigured, match="did not run with our configuration"):
            guard.check()
    assert node.calls == [FORGET] * 3
    node.services.rewriting, node.drop_in.fingerprint = False, "another version of k3s"
    guard.check()
    assert node.in_force == "ours"


def test_a_configuration_that_containerd_refused_is_not_tried_again(node: Node) -> None:
    node.services.failing.add(CONTAINERD)
    node.rewrite(restart=True)
    guard = node.guard()
    with pytest.raises(HostServiceFailed, match="its old one again"):
        guard.check()
    assert node.calls == [FORGET, RESTART, RESTART]
    assert (node.in_force, read(node.files, DROP_IN), read(node.files, node.files.refused)) == ("", "", "first")

    node.clock.advance(hours=3)
    with pytest.raises(ContainerdMisconfigured, match="did not run with our configuration"):
        guard.check()
    assert node.calls == [FORGET]
    node.services.failing.clear()
    node.service().install()
    assert (node.in_force, read(node.files, node.files.refused)) == ("ours", "")


def test_report_changes_no_file_and_restarts_nothing(node: Node) -> None:
    node.rewrite(restart=True)
    with pytest.raises(ContainerdMisconfigured, match="repair is report"):
        node.guard(repair=False).check()

    assert (node.calls, node.records.images, read(node.files, DROP_IN)) == ([FORGET], [], "")


def test_an_uninstall_is_not_undone(node: Node) -> None:
    node.rewrite(restart=True)
    node.files.write(UNITS / TIMER, "", 0o644)
    node.guard().check()
    assert (node.calls, read(node.files, DROP_IN)) == ([], "")


def test_another_process_has_its_turn(node: Node) -> None:
    node.rewrite(restart=True)
    with node.files.locked():
        node.guard().check()
    assert (node.calls, read(node.files, DROP_IN)) == ([], "")


def test_a_containerd_of_no_unit_is_not_restarted(node: Node) -> None:
    node.unit = ""
    node.rewrite(restart=True)
    with pytest.raises(ServiceManagerMissing, match="no unit"):
        node.guard().check()
    assert (node.calls, read(node.files, DROP_IN)) == ([FORGET], "ours")


def test_native_mode_has_lost_it_with_the_file(tmp_path: Path) -> None:
    """containerd's own erofs snapshotter is loaded in any case."""
    node = Node(tmp_path, Mode.NATIVE)
    node.services.active[CONTAINERD] = "serve only"  # loaded, and not the default
    node.drop_in.undo()
    node.guard().check()
    assert (node.calls, node.in_force) == ([FORGET, RESTART, FORGET_OTHERS], "ours")


def test_what_native_mode_has_lost_a_repaired_file_does_not_bring_back(tmp_path: Path) -> None:
    """Only a start does."""
    node = Node(tmp_path, Mode.NATIVE, unit="")
    node.services.active[CONTAINERD] = "serve only"
    node.drop_in.undo()
    for _ in range(2):
        with pytest.raises(ServiceManagerMissing, match="no unit"):
            node.guard().check()
        node.clock.advance(hours=1)
    assert (node.calls, read(node.files, DROP_IN)) == ([FORGET, FORGET], "ours")

    node.services.restart(CONTAINERD)
    node.calls.clear()
    node.guard().check()
    assert node.calls[-1] == FORGET_OTHERS
