"""Our own image, run by real containerds: as the controller is (nobody), and as the installer is (root, on a host)."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from imagecache import __version__
from testkit import own_image
from testkit.peers.containerd import Containerd
from testkit.peers.cri import Cri
from testkit.peers.programs import PeerFailed, checkout, find, run
from testkit.peers.registry import Registry

pytestmark = pytest.mark.peers


@pytest.fixture(scope="session")
def own(registry: Registry) -> str:
    return registry.push("imagecache:1", own_image.own_image())


def in_container(containerd: Containerd, image: str, *args: str, flags: tuple[str, ...] = ()) -> str:
    """Output of ``imagecache`` in a container of ctr's."""
    containerd.ctr("images", "pull", "--plain-http", image)
    return containerd.ctr("run", "--rm", *flags, image, "test", *args)


async def test_it_runs_through_cri_as_nobody(cri: Cri, own: str) -> None:
    await cri.pull(own)
    async with cri.running(own) as container:
        version = await cri.exec_sync(container, ["imagecache", "--version"])
        user = await cri.exec_sync(container, ["id", "-u"])
        tools = await cri.exec_sync(container, ["sh", "-c", "command -v nsenter && command -v chroot"])

    assert (version.code, version.stdout) == (0, f"imagecache {__version__}\n")
    assert user.stdout == "65532\n"
    assert tools.stdout.split() == ["/usr/bin/nsenter", "/usr/sbin/chroot"]


@pytest.mark.parametrize("containerd", ["2.4"], indirect=True)
def test_its_entry_point_is_the_command(containerd: Containerd, own: str) -> None:
    shown = in_container(containerd, own, "/usr/local/bin/imagecache", "controller", "--help")

    assert "Usage: imagecache controller" in shown


@pytest.mark.parametrize("containerd", ["2.4"], indirect=True)  # whose ctr has --user
def test_from_it_the_program_goes_onto_a_host(containerd: Containerd, own: str, directory: Path) -> None:
    """Debian's interpreter this time, and its places for packages."""
    host = directory / "host"
    (host / "etc/systemd/system").mkdir(parents=True)
    (host / "bin").mkdir()
    shutil.copy(find("busybox"), host / "bin/sh")
    mount = f"type=bind,src={host},dst=/host,options=rbind:rw"
    install = ["/usr/local/bin/imagecache", "host", "install", "--root", "/host", "--leave-containerd"]

    with pytest.raises(PeerFailed, match="no systemd runs here"):
        in_container(containerd, own, *install, flags=("--user", "0", "--mount", mount))

    program = "/opt/imagecache/current/bin/imagecache"
    assert run(["chroot", host, program, "--version"], env={"PATH": "/usr/sbin:/bin"}) == f"imagecache {__version__}\n"
    assert "Usage" in run(["chroot", host, program, "agent", "--help"], env={"PATH": "/usr/sbin:/bin"})
    assert f"ExecStart={program} agent" in (host / "etc/systemd/system/imagecache-agent.service").read_text()


def test_the_locks_agree() -> None:
    """What is tested is what is in the image."""
    pins = [
        set(re.findall(r"^(\S+==\S+)", (checkout() / "requirements" / name).read_text(), re.MULTILINE))
        for name in ("runtime.lock", "dev.lock")
    ]

    assert len(own_image.requirements()) > 30
    assert pins[0] <= pins[1]
    assert set(own_image.requirements()) <= pins[0]
    assert all(own_image.requirements().values())


def test_the_containerfile_takes_the_same_lock_and_the_same_user() -> None:
    text = (checkout() / "packaging" / "Containerfile").read_text()

    assert "--require-hashes --requirement /src/requirements/runtime.lock" in text
    assert f"USER {own_image.USER}\n" in text
    assert 'ENTRYPOINT ["imagecache"]' in text


def test_nothing_is_made_twice() -> None:
    assert own_image.own_image() == own_image.own_image()
