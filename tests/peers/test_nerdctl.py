"""nerdctl on a node whose images are cached, beside one on overlayfs: run, commit, save, push, image rm."""

from __future__ import annotations

import asyncio
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from testkit.images import busybox_image, tar_of, thin_layers
from testkit.oci_layout import Image
from testkit.peers import programs
from testkit.peers.cri import Cri
from testkit.peers.programs import PeerFailed, environment, run
from testkit.peers.registry import Registry
from tests.peers.sides import Side, Sides

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(300)]
NO_MANAGER = "format/mkdir/overlay.* no such device"
"""nerdctl mounts the image itself, without the mount manager that containerd's erofs snapshotter needs (2.2 on)."""


@dataclass(frozen=True, slots=True)
class Nerdctl:
    """The program, for CRI's images of one side."""

    side: Side
    directory: Path

    def __call__(self, *words: str | Path) -> str:
        flags: list[str | Path] = [
            *("--address", self.side.containerd.address, "--namespace", "k8s.io", "--insecure-registry"),
            *("--snapshotter", self.side.snapshotter, "--data-root", self.directory),
            *("--hosts-dir", self.side.containerd.directory / "certs.d"),
        ]
        self.directory.mkdir(exist_ok=True)
        # where it mounts images: what it leaves there when that fails goes with the test's directory
        own = {"HOME": str(self.directory), "TMPDIR": str(self.directory)}
        return run([programs.nerdctl(), *flags, *words], env={**environment(), **own})


@pytest.fixture
def image(both: Sides, directory: Path) -> Image:
    own = tar_of({"srv": None, "srv/own": directory.name.encode(), "srv/removed": b""})
    return busybox_image(directory / "image", own, *thin_layers(both.most - 2))


@pytest.fixture
def name(both: Sides, directory: Path, registry: Registry, image: Image) -> Iterator[str]:
    """Reference of an image that nothing else has: cached on our side, pulled on the other."""
    reference = registry.push(f"{directory.name}/app:1", image)
    both.node.create(directory.name, [reference])
    asyncio.run(_pull(both.theirs, reference))
    yield reference
    both.node.command("delete", directory.name)


async def _pull(side: Side, reference: str) -> None:
    async with Cri(side.containerd.address) as cri:
        await cri.pull(reference)


@pytest.fixture
def each(both: Sides, directory: Path) -> tuple[Nerdctl, Nerdctl]:
    """Ours, and overlayfs'."""
    return Nerdctl(both.ours, directory / "ours"), Nerdctl(both.theirs, directory / "theirs")


def test_run(both: Sides, each: tuple[Nerdctl, Nerdctl], name: str, directory: Path) -> None:
    ours, theirs = each
    words = ("run", "--rm", "--net", "none", "--pull", "never", name, "cat", "/srv/own")

    assert theirs(*words) == directory.name
    if both.mode == "native":
        with pytest.raises(PeerFailed, match=NO_MANAGER):
            ours(*words)
    else:
        assert ours(*words) == directory.name


def test_a_commit(both: Sides, each: tuple[Nerdctl, Nerdctl], name: str, directory: Path) -> None:
    """It fetches the blobs of the image's layers first (nerdctl 2.0)."""
    able = each[both.mode == "native" :]  # it runs no container of ours there, so there is none to commit
    script = "rm /srv/removed && echo new >/srv/new && sleep 1000"
    container, made = directory.name, f"{directory.name}:2"
    seen = []
    for nerdctl in able:
        nerdctl("run", "--detach", "--net", "none", "--pull", "never", "--name", container, name, "sh", "-c", script)
        nerdctl("commit", container, made)
        look = nerdctl("run", "--rm", "--net", "none", made, "find", "/srv", "-not", "-name", "deep-*")
        seen.append(sorted(look.split()))
        nerdctl("rm", "--force", container)
        nerdctl("rmi", "--force", made)

    assert seen == [["/srv", "/srv/new", "/srv/own"]] * len(able)


def test_a_saved_image(each: tuple[Nerdctl, Nerdctl], name: str, image: Image, directory: Path) -> None:
    for number, nerdctl in enumerate(each):
        archive = directory / f"{number}.tar"
        nerdctl("save", "--output", archive, name)
        with tarfile.open(archive) as tar:
            blobs = {f"sha256:{Path(member).name}" for member in tar.getnames() if member.startswith("blobs/")}
        assert {str(layer.digest) for layer in image.layers} < blobs


def test_without_the_registry_nothing_is_saved_and_it_is_named(
    each: tuple[Nerdctl, Nerdctl], name: str, registry: Registry, directory: Path
) -> None:
    ours, theirs = each
    registry.stop()
    try:
        with pytest.raises(PeerFailed, match=f"failed to resolve reference .*{name}"):
            ours("save", "--output", directory / "ours.tar", name)
        theirs("save", "--output", directory / "theirs.tar", name)
    finally:
        registry.start()


def test_a_push_elsewhere(each: tuple[Nerdctl, Nerdctl], name: str, image: Image, directory: Path) -> None:
    for number, nerdctl in enumerate(each):
        with Registry(directory / f"elsewhere-{number}") as elsewhere:
            target = f"{elsewhere.address}/app:1"
            nerdctl("tag", name, target)
            nerdctl("push", "--all-platforms", target)
            assert len(elsewhere.blobs()) == 2 + len(image.layers)
            nerdctl("rmi", target)


def test_what_is_listed(each: tuple[Nerdctl, Nerdctl], name: str) -> None:
    def listed(nerdctl: Nerdctl) -> list[tuple[str, str, str]]:
        found = [json.loads(line) for line in nerdctl("images", "--format", "{{json .}}").splitlines()]
        own = [one for one in found if one["Repository"] == name.rpartition(":")[0]]
        return sorted((one["Repository"], one["Tag"], one["Platform"]) for one in own)  # it has no order of its own

    ours, theirs = map(listed, each)

    assert ours == theirs
    assert ours
