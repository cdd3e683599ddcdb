from collections.abc import Iterable
from pathlib import Path

import pytest

from imagecache.containerd.api import Plugin, SnapshotInfo
from imagecache.containerd.native import SOURCE_LABEL, NativeUse, layer_name
from imagecache.digest import Digest
from imagecache.errors import ContainerdUnavailable
from imagecache.store.layer_name import LayerName, Space
from testkit.containerd import FakeSnapshotter, MemoryContainerd

LAYERS = Path("/store/layers")
A, B, C = (LayerName(space=Space.LAYERS, digest=Digest.sha256(text)) for text in (b"a", b"b", b"c"))


class Holds:
    def __init__(self, *names: LayerName) -> None:
        self.names = set(names)

    def lease_many(self, holder: str, names: Iterable[LayerName]) -> None:
        assert holder == "native"
        self.names |= set(names)

    def release(self, holder: str, name: LayerName) -> None:
        assert holder == "native"
        self.names.discard(name)

    def of(self, holder: str) -> frozenset[LayerName]:
        assert holder == "native"
        return frozenset(self.names)


def node(**labels: LayerName) -> MemoryContainerd:
    """containerd with one erofs snapshot per keyword, each on the given layer image, in a namespace of its own."""
    containerd = MemoryContainerd("2.4.2")
    containerd.snapshotters["erofs"] = FakeSnapshotter()
    for name, layer in labels.items():
        containerd.session(name)
        info = SnapshotInfo(name, "", {SOURCE_LABEL: f"/store/{layer.path}"})
        containerd.spaces[name].committed["erofs", name] = info
    return containerd


async def test_layers_in_use_by_labels_in_every_namespace() -> None:
    assert await NativeUse(node(one=A, two=B), LAYERS).names() == {A, B}


async def test_layers_in_use_by_links(tmp_path: Path) -> None:
    containerd = node()
    containerd.snapshotters.pop("erofs")
    containerd.extra_plugins = [Plugin("io.containerd.snapshotter.v1", "erofs", {"root": str(tmp_path)})]
    containerd.session("k8s.io")
    containerd.snapshotters["erofs"] = FakeSnapshotter()
    for number, target in enumerate([f"/store/{A.path}", "/elsewhere/x.erofs"]):
        directory = tmp_path / "snapshots" / str(number)
        directory.mkdir(parents=True)
        (directory / "layer.erofs").symlink_to(target)
    (tmp_path / "snapshots" / "0" / "fs").mkdir()
    assert await NativeUse(containerd, LAYERS).names() == {A}


async def test_without_the_erofs_snapshotter_nothing_is_in_use() -> None:
    assert await NativeUse(MemoryContainerd("1.6.20"), LAYERS).names() == frozenset()


async def test_leases_follow_the_use() -> None:
    holds = Holds(B, C)
    assert await NativeUse(node(one=A, two=B), LAYERS).renew(holds, "native") == {A, B}
    assert holds.names == {A, B}


async def test_without_containerd_nothing_is_let_go() -> None:
    containerd, holds = node(), Holds(A)
    containerd.running = False
    with pytest.raises(ContainerdUnavailable):
        await NativeUse(containerd, LAYERS).renew(holds, "native")
    assert holds.names == {A}


@pytest.mark.parametrize(
    "file", ["/store/other/x.erofs", "/store/layers/x.erofs", "/store/layers/sha256/aa/short.erofs"]
)
def test_other_files_are_no_layers_of_ours(file: str) -> None:
    assert layer_name(Path(file), LAYERS) is None
