"""``imagecache host``: what it does to a host, prints, and ends with. The host is a directory with a fake systemd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from imagecache.agent.installation import AgentInstallation, HostOptions
from imagecache.agent.keeper import HEARD_SECONDS, Keeper
from imagecache.agent.pod_credentials import PodCredentials
from imagecache.clock import Clock
from imagecache.errors import ObjectNotFound
from imagecache.host.pod_directory import KEEPER as USER
from imagecache.host.pod_directory import LEAVE, POD, PodDirectory
from imagecache.host.service_files import CONFIG, CREDENTIALS, UNITS, HostFiles
from imagecache.kube.resources import DAEMON_SETS, NAMESPACES, NODE_IMAGE_CACHES
from imagecache.settings.table import Settings
from testkit.host_service import (
    ADDRESS,
    DROP_IN,
    FakeContainerdFiles,
    FakeProgram,
    FakeRecords,
    FakeServiceManager,
    make_socket,
    read,
)
from testkit.kube import FakeKube

from .conftest import Shell

NATIVE = ("host", "keep", "--root", "/host", "--node-name", "worker", "--mode", "native")
KEEPER = ("keeper", "--node-name", "worker", "--metrics-address", "")
POD_SETTINGS = {"IMAGECACHE_DAEMONSET": "imagecache-system/agent", "IMAGECACHE_ADDRESS": str(ADDRESS)}


@dataclass
class Host:
    """Stands in for ``apps.host_service.open_installation``: the real class over the fakes of its ports."""

    files: HostFiles
    services: FakeServiceManager
    kube: FakeKube = field(default_factory=FakeKube)
    environ: dict[str, str] = field(default_factory=dict)
    hears: bool = True
    """Whether the host does what the keeper asks for."""
    waited: float = 0.0
    opened: list[tuple[Settings, HostOptions]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.records = FakeRecords(self.services)
        asyncio.run(self.kube.create(NODE_IMAGE_CACHES, {"metadata": {"name": "worker"}}))
        asyncio.run(self.kube.create(NAMESPACES, {"metadata": {"name": "imagecache-system"}}))
        asyncio.run(self.kube.create(DAEMON_SETS, {"metadata": {"name": "agent"}}, namespace="imagecache-system"))

    def __call__(self, settings: Settings, clock: Clock, options: HostOptions) -> AgentInstallation:
        del clock
        self.opened.append((settings, options))
        return AgentInstallation(
            settings=settings,
            options=options,
            files=self.files,
            services=self.services,
            containerd=(FakeContainerdFiles(self.files), self.records),
            program=FakeProgram,
            credentials=PodCredentials(settings, self.environ, self.files.root),
            sleep=self._sleep,
        )

    def open_keeper(self, settings: Settings) -> Keeper:
        """Its ``run`` gets SIGTERM while it waits, and then the host hears it, or does nothing."""

        async def sleep(seconds: float) -> None:
            if not self.files.at(POD / LEAVE).exists():
                await self._sleep(seconds)
            self.waited += seconds
            if self.hears:
                PodDirectory(self.files.root).forget_request()

        return Keeper(settings, {}, self.files, sleep=sleep)

    async def _sleep(self, seconds: float) -> None:
        """SIGTERM comes while ``keep`` waits."""
        del seconds
        raise asyncio.CancelledError

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[FakeKube]:
        yield self.kube

    def remove_daemonset(self) -> None:
        asyncio.run(self.kube.delete(DAEMON_SETS, "agent", namespace="imagecache-system"))

    @property
    def asked(self) -> bool:
        return self.files.at(POD / LEAVE).exists()

    @property
    def reports(self) -> bool:
        """Whether the API has a report of this node."""
        try:
            asyncio.run(self.kube.get(NODE_IMAGE_CACHES, "worker"))
        except ObjectNotFound:
            return False
        return True

    @property
    def installed(self) -> bool:
        """Whether containers that start now get our snapshotter."""
        return read(self.files, DROP_IN) == "ours"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    files = HostFiles(tmp_path / "host")
    files.root.mkdir()
    services = FakeServiceManager(files)
    services.restart("containerd.service")
    found = Host(files, services)
    monkeypatch.setattr("imagecache.apps.host_service.open_installation", found)
    monkeypatch.setattr("imagecache.apps.host_service.open_keeper", found.open_keeper)
    monkeypatch.setattr("imagecache.apps.host_service.pod_connection", found.connection)
    return found


def test_install_says_what_changed(imagecache: Shell, host: Host) -> None:
    done = imagecache("host", "install", "--root", "/host", "--containerd-unit", "k3s.service", "--leave-containerd")

    assert "/opt/imagecache/current created\n" in done.stdout
    assert [options for _, options in host.opened] == [HostOptions(Path("/host"), configure=False)]
    assert "Before=k3s.service" in read(host.files, Path("/etc/systemd/system/imagecache-agent.service"))
    assert not host.files.at(DROP_IN).exists()
    assert 'containerd_unit = "k3s.service"\n' in read(host.files, CONFIG), "the agent's guard restarts it, too"
    assert 'repair = "report"\n' in read(host.files, CONFIG), "the agent would write what we leave to others"


def test_the_unit_of_a_containerd_that_does_not_run_is_the_one_that_boots(imagecache: Shell, host: Host) -> None:
    wants = host.files.at(UNITS) / "multi-user.target.wants"
    wants.mkdir(parents=True)
    (wants / "rke2-agent.service").symlink_to("/usr/local/lib/systemd/system/rke2-agent.service")
    (wants / "containerd.service").symlink_to("/lib/systemd/system/containerd.service")

    imagecache("host", "install", "--address", "/run/k3s/containerd/containerd.sock")
    assert "Before=rke2-agent.service" in read(host.files, UNITS / "imagecache-agent.service")
    host.services.restart("containerd.service")
    imagecache("host", "install")
    assert "Before=containerd.service" in read(host.files, UNITS / "imagecache-agent.service")


def test_installing_again_changes_nothing(imagecache: Shell, host: Host) -> None:
    imagecache("host", "install")

    assert host.installed
    assert imagecache("host", "install").output == ""


def test_without_systemd_the_exit_code_says_so(imagecache: Shell, host: Host) -> None:
    host.services.systemd = False

    assert "everything is installed" in imagecache("host", "install", code=65).output


def test_the_mode_and_other_settings_are_flags(imagecache: Shell, host: Host) -> None:
    imagecache("host", "install", "--mode", "native", "--node-name", "a")

    settings, _ = host.opened[0]
    assert (settings.mode.value, settings.node_name) == ("native", "a")
    assert not host.files.at(host.files.program).exists()
    imagecache("host", "install", "--trim-delay", "3")
    assert "trim_delay = 3.0" in read(host.files, CONFIG)


def test_the_host_s_timer_knows_the_directory(imagecache: Shell, host: Host) -> None:
    """It also finishes an uninstall that was killed after the configuration file was removed."""
    imagecache("host", "install")
    host.records.containers = 1
    imagecache("host", "uninstall", "--host-directory", "/var/lib/cni/imagecache", "--leave-containerd")

    command = "host uninstall --host-directory=/var/lib/cni/imagecache --leave-containerd\n"
    assert command in read(host.files, UNITS / "imagecache-leave.service")


def test_uninstall_says_what_is_left(imagecache: Shell, host: Host) -> None:
    imagecache("host", "install")
    host.records.images, host.records.containers = ["k8s.io/nginx:1"], 3

    done = imagecache("host", "uninstall")

    assert "/etc/containerd/imagecache.toml updated\n" in done.stdout
    assert "k8s.io/nginx:1 forgotten\n" in done.stdout
    assert "3 snapshots are in use" in done.output
    host.records.containers = 0
    assert "/etc/containerd/imagecache.toml removed\n" in imagecache("host", "uninstall").stdout


def test_status_ends_with_the_worst(imagecache: Shell, host: Host) -> None:
    assert "program: not installed" in imagecache("host", "status", "--metrics-address", "", code=81).output
    imagecache("host", "install")
    fine = imagecache("host", "status", "--metrics-address", "").output
    assert "agent: answers" in fine
    assert "configuration: the drop-in is imported" in fine
    nobody = imagecache("host", "status", "--metrics-address", "127.0.0.1:1", code=81).output
    assert "agent: the agent does not answer" in nobody
    assert "-> journalctl" in nobody
    host.files.at(DROP_IN).write_text("of another cri section")
    rewritten = imagecache("host", "status", "--metrics-address", "", code=81).output
    assert "configuration: the drop-in was made from other files" in rewritten
    imagecache("host", "install")
    assert host.installed


def test_keep_leaves_the_host_as_it_is_in_an_upgrade(imagecache: Shell, host: Host) -> None:
    imagecache(*NATIVE, environ=POD_SETTINGS)

    assert host.installed
    assert host.reports


def test_keep_uninstalls_when_its_daemonset_is_gone(imagecache: Shell, host: Host) -> None:
    host.remove_daemonset()
    imagecache(*NATIVE, environ=POD_SETTINGS)

    assert not host.installed
    assert not host.reports


def test_the_report_goes_even_where_the_host_keeps_something(imagecache: Shell, host: Host) -> None:
    host.remove_daemonset()
    host.services.systemd = False
    make_socket(host.files)

    done = imagecache(*NATIVE, environ=POD_SETTINGS, code=65)

    assert "restart containerd" in done.output
    assert not host.reports


def test_keep_goes_on_where_somebody_else_starts_services(imagecache: Shell, host: Host) -> None:
    host.services.systemd = False
    make_socket(host.files)
    done = imagecache(*NATIVE, environ=POD_SETTINGS)

    assert "restart containerd" in done.output
    assert read(host.files, DROP_IN) == "ours"
    assert host.reports


def test_only_native_mode_is_kept_by_a_container_with_privileges(imagecache: Shell, host: Host) -> None:
    done = imagecache(*NATIVE[:-1], "proxy", environ=POD_SETTINGS, code=2)

    assert "imagecache keeper" in done.output
    assert not host.installed


def test_a_pod_installs_and_ends(imagecache: Shell, host: Host) -> None:
    """The host then waits for the keeper, whose directory it has made, and for what it asks for."""
    host.environ.update({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"})
    for name in ("ca.crt", "token"):
        (host.files.root / name).write_text("authorities")
    host.files.at(POD).mkdir(mode=0o755, parents=True)  # as kubelet makes it
    host.files.at(POD).parent.chmod(0o755)
    (host.files.at(POD) / LEAVE).touch()
    imagecache("host", "install", "--unattended", "--root", "/host", environ=POD_SETTINGS)

    assert host.installed
    assert not host.asked, "a request from before the install"
    found = host.files.at(POD).stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (USER, USER, 0o700)
    assert host.files.at(POD).parent.stat().st_mode & 0o777 == 0o700
    assert read(host.files, CREDENTIALS / "ca.crt") == "authorities"
    assert "https://10.0.0.1:443" in read(host.files, CREDENTIALS / "kubeconfig")
    assert f"uid={USER}," in host.services.active["run-imagecache-pod.mount"]
    assert "host uninstall" in read(host.files, UNITS / "imagecache-leave.service")
    assert "imagecache-leave.timer" not in host.services.active
    again = imagecache("host", "install", "--unattended", "--root", "/host", environ=POD_SETTINGS)
    assert again.output == ""

    (host.files.at(POD) / LEAVE).touch()
    host.records.containers = 1
    imagecache("host", "uninstall")
    assert not host.asked, "it was heard"
    assert "imagecache-leave.timer" in host.services.active
    host.records.containers = 0
    imagecache("host", "uninstall")
    assert not host.files.at(POD).exists()
    assert not list(host.files.at(UNITS).rglob("imagecache*"))


def test_a_pod_does_not_try_again_what_containerd_has_refused(imagecache: Shell, host: Host) -> None:
    host.services.failing.add("containerd.service")
    imagecache("host", "install", code=66)
    before = host.services.calls.count("restart containerd.service")

    assert "did not run with our configuration before" in imagecache("host", "install", "--unattended", code=64).output
    assert host.services.calls.count("restart containerd.service") == before


def test_the_keeper_asks_for_nothing_in_an_upgrade(imagecache: Shell, host: Host) -> None:
    imagecache("host", "install")
    imagecache(*KEEPER, environ=POD_SETTINGS)

    assert (host.installed, host.asked, host.reports) == (True, False, True)


def test_the_keeper_asks_the_host_to_leave(imagecache: Shell, host: Host) -> None:
    imagecache("host", "install")
    host.remove_daemonset()
    imagecache(*KEEPER, environ=POD_SETTINGS)

    assert host.waited > 0
    assert host.installed, "the host itself does it"
    assert not host.reports


def test_a_host_that_does_not_hear_keeps_no_pod(imagecache: Shell, host: Host) -> None:
    host.remove_daemonset()
    host.hears = False
    done = imagecache(*KEEPER, environ=POD_SETTINGS)

    assert "has not answered yet" in done.output
    assert (host.waited, host.asked, host.reports) == (HEARD_SECONDS, True, False)
