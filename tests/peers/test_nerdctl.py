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
from tests.peers.sides import FEW, MANY, Side, Sides

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(300)]
MISSING = r"content digest sha256:[0-9a-f]{64}: not found"
NO_DIFF = "no such device"
"""Of a commit in native mode (``test_images_without_blobs``)."""


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
        return run([programs.nerdctl(), *flags, *words], env={**environment(), "HOME": str(self.directory)})


@pytest.fixture(params=[FEW, MANY])
def image(request: pytest.FixtureRequest, directory: Path) -> Image:
    own = tar_of({"srv": None, "srv/own": directory.name.encode(), "srv/removed": b""})
    return busybox_image(directory / "image", own, *thin_layers(request.param - 2))


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


def test_run(each: tuple[Nerdctl, Nerdctl], name: str, directory: Path) -> None:
    words = ("run", "--rm", "--net", "none", "--pull", "never", name, "cat", "/srv/own")

    assert [nerdctl(*words) for nerdctl in each] == [directory.name] * 2


def test_a_commit(both: Sides, each: tuple[Nerdctl, Nerdctl], name: str, directory: Path) -> None:
    """It fetches the blobs of the image's layers first (nerdctl 2.0)."""
    script = "rm /srv/removed && echo new >/srv/new && sleep 1000"
    look = ("run", "--rm", "--net", "none", f"{directory.name}:2", "find", "/srv", "-not", "-name", "deep-*")
    seen = []
    for nerdctl in each:
        nerdctl("run", "--detach", "--net", "none", "--pull", "never", "--name", directory.name, name, "sh", "-c", script)
        if both.mode == "native" and nerdctl.side is both.ours:
            with pytest.raises(PeerFailed, match=NO_DIFF):
                nerdctl("commit", directory.name, f"{directory.name}:2")
        else:
            nerdctl("commit", directory.name, f"{directory.name}:2")
            seen.append(sorted(nerdctl(*look).split()))
            nerdctl("rmi", "--force", f"{directory.name}:2")
        nerdctl("rm", "--force", directory.name)

    assert all(found == ["/srv", "/srv/new", "/srv/own"] for found in seen)


def test_a_saved_image(each: tuple[Nerdctl, Nerdctl], name: str, image: Image, directory: Path) -> None:
    for number, nerdctl in enumerate(each):
        archive = directory / f"{number}.tar"
        nerdctl("save", "--output", archive, name)
        with tarfile.open(archive) as tar:
            blobs = {f"sha256:{Path(member).name}" for member in tar.getnames() if member.startswith("blobs/")}
        assert {str(layer.digest) for layer in image.layers} < blobs


def test_without_the_registry_the_missing_blob_is_named(
    each: tuple[Nerdctl, Nerdctl], name: str, registry: Registry, directory: Path
) -> None:
    ours, theirs = each
    registry.stop()
    try:
        with pytest.raises(PeerFailed, match=MISSING):
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


def test_what_is_listed(both: Sides, each: tuple[Nerdctl, Nerdctl], name: str) -> None:
    def listed(nerdctl: Nerdctl) -> list[tuple[str, str, str]]:
        found = [json.loads(line) for line in nerdctl("images", "--format", "{{json .}}").splitlines()]
        return [(one["Repository"], one["Tag"], one["Platform"]) for one in found if one["Repository"] in name]

    ours, theirs = map(listed, each)

    assert ours == theirs
    assert ours
