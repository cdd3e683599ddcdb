"""What people do with images on a node, on imagecache and on overlayfs: export, push, commit, checkpoint, mount.

A cached image has no blobs of layers in containerd's content store. What needs them fails there until they are fetched.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias
from uuid import uuid4

import pytest

from imagecache.containerd.image_records import SERVED
from testkit.images import busybox_image, tar_of, thin_layers
from testkit.oci_layout import Image
from testkit.peers.cri import Cri
from testkit.peers.processes import wait_until
from testkit.peers.programs import PeerFailed
from testkit.peers.registry import Registry
from tests.peers.sides import FEW, MANY, Side, Sides, depths

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(300)]
MISSING = r"content digest sha256:[0-9a-f]{64}: not found"
"""containerd's error: core/metadata/content.go, ``checkAccess``."""
COLLECTED = r"parent snapshot sha256:[0-9a-f]{64} does not exist: not found"
"""1.6 collects the bottom layer, which the pause image's blob had given to an earlier ``ctr images mount``."""
UNCOMPRESSED = "application/vnd.oci.image.layer.v1.tar"
CHANGES = (
    "rm /srv/removed && echo new >>/srv/changed && chmod 600 /srv/tool && echo made >/srv/made && ln -s made /srv/link"
    " && rm -r /srv/volume && mkdir /srv/volume && echo over >/srv/volume/file && mv /srv/folder/inside /srv/inside"
)
"""A new, a changed, a removed and a moved file, another mode, and a directory in place of the image's."""


NO_DIFF = "fstype: format/mkdir/overlay.*no such device"
"""containerd's erofs snapshotter needs its mount manager, and the differ ``walking`` does not ask it (2.4)."""
KEEP = "echo kept >>/srv/kept; sleep 1000"
Member: TypeAlias = tuple[str, bytes, int, int, int, int, str, bytes]


@pytest.fixture
def image(both: Sides, directory: Path) -> Image:
    own = tar_of({"srv": None, "srv/own": directory.name.encode()})
    return busybox_image(directory / "image", own, *thin_layers(both.most - 2))


@pytest.fixture
def name(both: Sides, directory: Path, registry: Registry, image: Image) -> Iterator[str]:
    """Reference of an image that nothing else has, cached on our side."""
    reference = registry.push(f"{directory.name}/app:1", image)
    both.node.create(directory.name, [reference])
    yield reference
    both.node.command("delete", directory.name)


def fetch(both: Sides, name: str) -> None:
    both.ours.ctr("content", "fetch", "--plain-http", name)


def exported(side: Side, name: str, file: Path) -> set[str]:
    """Digests of the blobs in an archive that ctr writes."""
    # through its transfer service ctr 2.4 has ended before the last bytes were in the file, once in some hundred times
    local = ["--local"] if side.containerd.major > 1 else []
    side.ctr("images", "export", *local, file, name)
    with tarfile.open(file) as archive:
        return {f"sha256:{Path(member).name}" for member in archive.getnames() if member.startswith("blobs/sha256/")}


# what needs the blobs


def test_an_export_says_which_blob_is_missing_and_the_record_why(both: Sides, name: str, directory: Path) -> None:
    with pytest.raises(PeerFailed, match=MISSING):
        exported(both.ours, name, directory / "archive.tar")

    (why,) = SERVED.values()
    assert why in both.ours.ctr("images", "ls", f"name=={name}")
    assert "ctr content fetch" in why
    assert "incomplete" in both.ours.ctr("images", "check", f"name=={name}")


async def test_an_export_after_the_fetch(both: Sides, name: str, directory: Path, image: Image) -> None:
    await asyncio.to_thread(fetch, both, name)
    blobs = await asyncio.to_thread(exported, both.ours, name, directory / "archive.tar")

    assert {str(layer.digest) for layer in image.layers} < blobs
    assert not any(why in both.ours.ctr("images", "ls", f"name=={name}") for why in SERVED.values())
    async with both.ours.running(name) as inside:  # still from the layer images
        assert await inside.sh("cat /srv/own") == directory.name


@pytest.mark.parametrize("repository", ["app", "other"])
def test_a_push_to_the_same_registry(both: Sides, name: str, image: Image, repository: str, directory: Path) -> None:
    """It has the blobs: in the same repository, or in one that they can be mounted from. 1.6 wants its own first."""
    target = f"{both.registry.address}/{directory.name}/{repository}:2"
    if both.version == "system":
        with pytest.raises(PeerFailed, match=MISSING):
            both.ours.ctr("images", "push", "--plain-http", target, name)
        fetch(both, name)
    both.ours.ctr("images", "push", "--plain-http", target, name)

    fetched = both.theirs.ctr("content", "fetch", "--plain-http", target)
    assert str(image.layers[-1].digest) in fetched


def test_a_push_elsewhere_needs_the_blobs(both: Sides, name: str, image: Image, directory: Path) -> None:
    with Registry(directory / "elsewhere") as elsewhere:
        target = f"{elsewhere.address}/app:1"
        with pytest.raises(PeerFailed, match=MISSING):
            both.ours.ctr("images", "push", "--plain-http", target, name)
        fetch(both, name)
        both.ours.ctr("images", "push", "--plain-http", target, name)
        assert len(elsewhere.blobs()) == 2 + len(image.layers), "with manifest and config"


# what compares a container with its image: commit, and a checkpoint's files


def members(archive: bytes) -> list[Member]:
    """Of a layer that ctr writes: name, type, mode, owners, size, target and content of each, by name."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        found = []
        for each in tar.getmembers():
            file = tar.extractfile(each) if each.isfile() else None
            content = file.read() if file else b""
            found.append((each.name, each.type, each.mode, each.uid, each.gid, each.size, each.linkname, content))
        return sorted(found)


async def changes(both: Sides, side: Side, layers: int) -> list[Member]:
    async with side.running(both.image("plain", layers)) as inside:
        await inside.sh(CHANGES)
        words = ("snapshots", "--snapshotter", side.snapshotter, "diff", "--media-type", UNCOMPRESSED)
        return members((await asyncio.to_thread(side.ctr, *words, inside.container)).encode())


@depths
async def test_the_changes_of_a_container(both: Sides, layers: int) -> None:
    """What ``nerdctl commit`` makes a layer of."""
    if both.mode == "native":
        with pytest.raises(PeerFailed, match=NO_DIFF):
            await changes(both, both.ours, layers)
        return

    async def ask(side: Side) -> list[Member]:
        return await changes(both, side, layers)

    changed = await both.same(ask)
    names = {each[0] for each in changed}
    assert {"srv/.wh.removed", "srv/made", "srv/changed", "srv/tool", "srv/inside", "srv/folder/.wh.inside"} <= names
    assert not {"srv/able", "srv/folder/above", "bin/busybox"} & names


def wait_kept(side: Side, container: str, text: str) -> None:
    """Until a container has written this to /srv/kept."""

    def is_kept() -> bool:
        try:
            return side.ctr("tasks", "exec", "--exec-id", uuid4().hex, container, "cat", "/srv/kept") == text
        except PeerFailed:  # there is no such file yet
            return False

    assert wait_until(is_kept, seconds=20, every=0.1), f"{container} of {side.snapshotter} has not written {text!r}"


def checkpoint_files(side: Side, checkpoint: str) -> list[Member]:
    (digest,) = re.findall(r"sha256:[0-9a-f]{64}", side.ctr("images", "ls", f"name=={checkpoint}"))
    index = json.loads(side.ctr("content", "get", digest))
    (layer,) = [each["digest"] for each in index["manifests"] if each["mediaType"].endswith("tar+gzip")]
    blobs = side.containerd.root / "io.containerd.content.v1.content/blobs"
    return members(gzip.decompress((blobs / layer.replace(":", "/")).read_bytes()))


@depths
def test_the_files_of_a_checkpoint(both: Sides, layers: int, directory: Path) -> None:
    """What ``--rw`` adds to one. A whole checkpoint, and so a restore, needs CRIU on every snapshotter."""
    image = both.image("plain", layers)
    container, checkpoint = f"first-{directory.name}", f"checkpoint-{directory.name}"
    found = []
    for side in both.each:
        side.ctr("run", "-d", "--snapshotter", side.snapshotter, image, container, "sh", "-c", KEEP)
        wait_kept(side, container, "kept\n")
        if both.mode == "native" and side is both.ours:
            with pytest.raises(PeerFailed, match=NO_DIFF):
                side.ctr("containers", "checkpoint", "--image", "--rw", container, checkpoint)
        else:
            side.ctr("containers", "checkpoint", "--image", "--rw", container, checkpoint)
            found.append(checkpoint_files(side, checkpoint))
            side.ctr("images", "rm", checkpoint)
        side.ctr("tasks", "rm", "-f", container)
        side.ctr("containers", "rm", container)
    assert all(each == found[0] for each in found)
    assert "srv/kept" in {member[0] for member in found[0]}


# an image on the host


@pytest.mark.parametrize("layers", [1, FEW, MANY])
@pytest.mark.parametrize("flags", [(), ("--rw",)], ids=["ro", "rw"])
def test_an_image_mounted_by_ctr(both: Sides, layers: int, flags: tuple[str, ...], directory: Path) -> None:
    image = both.image("single" if layers == 1 else "plain", layers)
    seen = []
    for side in both.each:
        target = directory / side.snapshotter
        target.mkdir()
        if both.version == "system" and side is both.ours:
            # ctr 1.6 takes overlayfs whatever it is told (cmd/ctr/commands/images/mount.go: GlobalString)
            with pytest.raises(PeerFailed, match=f"{MISSING}|{COLLECTED}"):
                side.ctr("images", "mount", "--snapshotter", side.snapshotter, *flags, image, target)
            continue
        side.ctr("images", "mount", "--snapshotter", side.snapshotter, *flags, image, target)
        seen.append({str(path.relative_to(target)): path.lstat().st_mode for path in target.rglob("*")})
        if flags:
            (target / "new").write_text("new")
        else:
            with pytest.raises(OSError, match="Read-only"):
                (target / "new").touch()
        side.ctr("images", "unmount", "--snapshotter", side.snapshotter, "--rm", target)

    assert all(each == seen[0] for each in seen)
    assert "bin/busybox" in seen[0]


@depths
async def test_what_an_image_is_said_to_be(both: Sides, layers: int) -> None:
    """``crictl inspecti`` and ``crictl images``: id, names, size."""

    async def ask(side: Side) -> list[str]:
        async with Cri(side.containerd.address) as cri:
            found = await cri.image_status(both.image("plain", layers))
        assert found is not None
        return [found.id, *found.repo_tags, *found.repo_digests, str(found.size)]

    assert both.image("plain", layers) in await both.same(ask)
