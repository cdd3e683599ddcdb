"""What the host service is given by its Pod, how systemd is asked, and how a removal is told from an upgrade."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from imagecache.agent.installation import HostOptions
from imagecache.agent.keeper import Keeper
from imagecache.agent.pod_credentials import HandedOver, PodCredentials, by_address, is_kept
from imagecache.apps.host_service import open_installation
from imagecache.clock import SystemClock
from imagecache.errors import HostError, HostServiceFailed, InvalidSetting
from imagecache.host.pod_directory import KEEPER, POD, PodDirectory, PodFileRefused
from imagecache.host.service_files import CREDENTIALS, HostFiles
from imagecache.host.systemd import Systemd
from imagecache.kube.connection import kubeconfig
from imagecache.settings.dump import config_text
from imagecache.settings.load import load
from imagecache.settings.table import Settings
from testkit.served import make_certificate

IN_CLUSTER = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}


# credentials


@dataclass
class Pod:
    """What kubelet has mounted, and the host."""

    folder: Path

    def __post_init__(self) -> None:
        certificate, _ = make_certificate(self.folder)
        for name, text in {
            "token": "api-token",
            "ca.crt": certificate.read_text(),
            "namespace": "imagecache-system",
            "store-token": "store-token",
            "store-ca.crt": certificate.read_text(),
        }.items():
            (self.folder / name).write_text(text)
        self.host = HostFiles(self.folder / "host")

    def settings(self, **settings: object) -> Settings:
        return replace(
            Settings(),
            store_url="https://127.0.0.1:8443",
            store_token=self.folder / "store-token",
            store_ca=self.folder / "store-ca.crt",
            **settings,  # type: ignore[arg-type]
        )

    def credentials(self, environ: Mapping[str, str] = IN_CLUSTER, **settings: object) -> PodCredentials:
        return PodCredentials(self.settings(**settings), environ, account=self.folder)

    def write(self) -> None:
        """The installer, the keeper, and the host's agent, one after the other."""
        self.credentials().write(self.host)
        PodDirectory(self.host.root).make()
        self.keep()
        self.receive()

    def keep(self) -> None:
        Keeper(self.settings(), IN_CLUSTER, self.host, account=self.folder).write()
        for path in self.host.at(POD).iterdir():
            os.chown(path, KEEPER, KEEPER, follow_symlinks=False)

    def receive(self) -> None:
        HandedOver(self.host, PodDirectory(self.host.root), has_store=True).receive()

    def on_host(self, name: str) -> Path:
        return self.host.at(CREDENTIALS / name)


@pytest.fixture
def pod(tmp_path: Path) -> Pod:
    return Pod(tmp_path)


def test_the_host_gets_what_the_pod_has(pod: Pod) -> None:
    pod.write()
    access = kubeconfig(pod.on_host("kubeconfig"))

    assert (access.server, access.namespace) == ("https://10.0.0.1:443", "imagecache-system")
    assert access.ca == (pod.folder / "ca.crt").read_text()
    assert access.token_file == pod.on_host("token")
    assert access.token_file.read_text() == "api-token"
    assert pod.on_host("store-token").read_text() == "store-token"
    assert {path.stat().st_mode & 0o777 for path in pod.on_host("").iterdir()} == {0o600}
    assert {path.stat().st_uid for path in pod.on_host("").iterdir()} == {0}
    assert pod.on_host("").stat().st_mode & 0o777 == 0o700


def test_a_token_is_renewed_and_the_kubeconfig_stays_the_same_file(pod: Pod) -> None:
    """The agent begins anew when that file is another one."""
    pod.write()
    before = pod.on_host("kubeconfig").stat().st_ino
    (pod.folder / "token").write_text("fresh")
    (pod.folder / "store-token").write_text("fresh-too")
    pod.keep()
    pod.receive()

    assert (pod.on_host("token").read_text(), pod.on_host("store-token").read_text()) == ("fresh", "fresh-too")
    assert pod.on_host("kubeconfig").stat().st_ino == before


def test_the_settings_name_files_of_the_host(pod: Pod) -> None:
    settings = pod.credentials(node_name="a", taint_timeout=5.0, allow_private_names=("x",)).settings_on_host()
    found = tomllib.loads(config_text(settings))

    assert found == {
        "mode": "proxy",
        "node_name": "a",
        "taint_timeout": 5.0,
        "allow_private_names": ["x"],
        "kubeconfig": str(CREDENTIALS / "kubeconfig"),
        "store_url": "https://127.0.0.1:8443",
        "store_token": str(CREDENTIALS / "store-token"),
        "store_ca": str(CREDENTIALS / "store-ca.crt"),
    }


def test_the_written_settings_are_read_again(pod: Pod) -> None:
    settings = pod.credentials(node_name='a"b').settings_on_host()
    (pod.folder / "config.toml").write_text(config_text(settings))

    assert load({}, {}, str(pod.folder / "config.toml")) == settings


def test_outside_a_cluster_there_is_nothing_to_hand_over(pod: Pod) -> None:
    credentials = pod.credentials({})
    Keeper(pod.settings(), {}, pod.host, account=pod.folder).write()

    assert not pod.host.at(POD).exists()
    credentials.write(pod.host)
    assert not pod.host.at(CREDENTIALS).exists()
    assert credentials.settings_on_host().store_token == pod.folder / "store-token"


def test_a_name_becomes_an_address_and_is_kept_for_the_certificate() -> None:
    assert by_address("https://localhost:8443") in {
        ("https://127.0.0.1:8443", "localhost"),
        ("https://[::1]:8443", "localhost"),
    }
    assert by_address("https://[fd00::1]:8443") == ("https://[fd00::1]:8443", "")
    with pytest.raises(HostError, match="no address"):
        by_address("https://imagecache-store.invalid:8443")


def test_the_installer_brings_all_that_the_agent_needs(pod: Pod) -> None:
    """At each try: an agent whose upgrade does not succeed goes on."""
    pod.credentials().write(pod.host)

    assert {path.name for path in pod.on_host("").iterdir()} == {
        *("ca.crt", "kubeconfig", "token", "store-token", "store-ca.crt")
    }
    assert is_kept(pod.credentials().settings_on_host())
    assert not is_kept(pod.settings())


def test_an_install_that_fails_has_brought_the_credentials(pod: Pod) -> None:
    settings = replace(pod.settings(), store_url="https://imagecache-store.invalid:8443")
    options = HostOptions(root=pod.host.root)
    installation = open_installation(settings, SystemClock(), options, IN_CLUSTER)
    installation.credentials = PodCredentials(settings, IN_CLUSTER, account=pod.folder)
    with pytest.raises(HostError, match="no address"):
        installation.install()

    assert pod.on_host("token").read_text() == "api-token"


def test_authorities_that_are_larger_than_a_secret_are_told_at_once(pod: Pod) -> None:
    (pod.folder / "store-ca.crt").write_text("x" * (1 << 20))
    pod.credentials().write(pod.host)
    (pod.folder / "store-ca.crt").write_text("x" * (1 << 20) + "x")
    with pytest.raises(HostError, match="more than 1048576 bytes"):
        pod.credentials().write(pod.host)


def test_after_a_boot_nothing_is_taken_before_the_installer_has_run(pod: Pod) -> None:
    pod.write()
    for path in pod.on_host("").iterdir():
        path.unlink()
    pod.receive()

    assert not list(pod.on_host("").iterdir())


def test_whom_the_agent_believes_is_not_the_keeper_s_to_say(pod: Pod) -> None:
    """It may be anybody's: the API server says what images mean on the node."""
    pod.write()
    before = {name: pod.on_host(name).read_text() for name in ("kubeconfig", "ca.crt")}
    for name in before:
        planted = pod.host.at(POD) / name
        planted.write_text("server: https://192.0.2.1")
        os.chown(planted, KEEPER, KEEPER)
    pod.receive()

    assert {name: pod.on_host(name).read_text() for name in before} == before


@pytest.mark.parametrize("text", ["two\nlines", "a: b\r\nc: d", "", " ", "a\x00b"])
def test_what_is_no_token_is_not_taken(pod: Pod, text: str) -> None:
    pod.write()
    planted = pod.host.at(POD) / "token"
    planted.write_bytes(text.encode())
    (pod.host.at(POD) / "store-token").write_text("fresh")
    with pytest.raises(PodFileRefused, match="pod/token is no token"):
        pod.receive()

    assert pod.on_host("token").read_text() == "api-token"
    assert pod.on_host("store-token").read_text() == "fresh", "one bad file does not keep the others back"


def test_a_link_that_the_keeper_plants_reads_nothing_of_the_host(pod: Pod) -> None:
    pod.write()
    secret = pod.folder / "shadow"
    secret.write_text("root-only")
    (pod.host.at(POD) / "token").unlink()
    (pod.host.at(POD) / "token").symlink_to(secret)
    with pytest.raises(PodFileRefused, match="no regular file") as caught:
        pod.receive()

    assert "root-only" not in str(caught.value)
    assert pod.on_host("token").read_text() == "api-token"


def test_a_token_that_is_not_there_is_told_without_its_text(pod: Pod) -> None:
    (pod.folder / "store-token").write_bytes(b"secret\xff")

    with pytest.raises(HostError, match="store-token cannot be read") as caught:
        pod.write()
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


# systemd


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on PATH with a systemctl and an nsenter that write down what they are asked."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("systemctl", "nsenter"):
        (folder / name).write_text(
            f'#!/bin/sh\necho "{name} $*" >>{tmp_path}/calls\necho "no such thing" >&2\nexit $(cat {tmp_path}/code)\n'
        )
        (folder / name).chmod(0o755)
    (tmp_path / "code").write_text("0")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def test_systemd_runs_where_it_has_booted(tmp_path: Path) -> None:
    assert not Systemd(tmp_path).running()
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    assert Systemd(tmp_path).running()


def test_a_container_asks_in_the_hosts_mounts(programs: Path) -> None:
    Systemd(programs / "host").restart("a.service")
    Systemd().reload()

    assert (programs / "calls").read_text().splitlines() == [
        f"nsenter --mount={programs}/host/proc/1/ns/mnt -- systemctl restart a.service",
        "systemctl daemon-reload",
    ]


def test_what_systemctl_says_is_in_the_error(programs: Path) -> None:
    (programs / "code").write_text("1")

    with pytest.raises(HostServiceFailed, match=r"systemctl start a\.service ended with 1: no such thing") as caught:
        Systemd().start("a.service")
    assert "journalctl --unit a.service" in caught.value.hint


def slow(programs: Path) -> None:
    """The unit starts late or never, as k3s' does without its control plane."""
    (programs / "bin/systemctl").write_text(f"#!/bin/sh\ntouch {programs}/asked\nexec sleep 100\n")


def test_a_unit_that_is_slow_is_not_waited_for_when_what_it_runs_answers(programs: Path) -> None:
    slow(programs)
    Systemd().restart("k3s.service", (programs / "asked").exists)


def test_a_unit_that_is_slow_has_not_failed(programs: Path) -> None:
    slow(programs)
    Systemd(seconds=0.3).restart("k3s.service", lambda: False)

    with pytest.raises(HostServiceFailed, match="timed out"):
        Systemd(seconds=0.3).restart("other.service")


def test_a_unit_that_has_failed_is_not_waited_for(programs: Path) -> None:
    (programs / "code").write_text("1")

    with pytest.raises(HostServiceFailed, match="ended with 1: no such thing"):
        Systemd().restart("k3s.service", lambda: False)


def test_a_unit_that_is_not_there_is_stopped(programs: Path) -> None:
    (programs / "code").write_text("5")
    Systemd().stop("a.service")

    with pytest.raises(HostServiceFailed):
        Systemd().start("a.service")


# the directory


def test_a_directory_that_no_unit_can_name(tmp_path: Path) -> None:
    settings = Settings(host_directory=tmp_path / "with space")

    with pytest.raises(InvalidSetting, match=r"host_directory: .* cannot be written into a unit"):
        open_installation(settings, SystemClock(), HostOptions(tmp_path))


def test_the_program_is_where_the_setting_says(tmp_path: Path) -> None:
    settings = Settings(host_directory=Path("/var/lib/cni/imagecache"))
    installation = open_installation(settings, SystemClock(), HostOptions(tmp_path))

    assert installation.files.program == Path("/var/lib/cni/imagecache/current/bin/imagecache")
