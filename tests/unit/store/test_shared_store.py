"""A store that nodes share with its controller: they read it, write elsewhere, and serve what was checked."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from imagecache.digest import ChainID, DiffID, Digest
from imagecache.errors import StoreCorrupt, StoreDenied
from imagecache.store import verity
from imagecache.store.layer_name import LayerName, Space
from imagecache.store.provider import StoreLayerProvider
from imagecache.store.served_bundles import CheckedBundles
from imagecache.store.store import Store
from testkit.clock import FakeClock
from testkit.store import put_bundle

USER = 65532
A, B = (f"imc-{letter * 20}" for letter in "ab")
BASE, APP = (DiffID(Digest.sha256(text)) for text in (b"base", b"app"))
NAME = LayerName(Space.LAYERS, BASE)


@pytest.fixture
def place() -> Iterator[Path]:
    """Where a user can get to; tests run as root."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.fixture
def controller(place: Path) -> Store:
    return Store.open(place / "store", leases=place / "leases")


@pytest.fixture
def node(controller: Store, place: Path) -> Store:
    return Store.open_shared(controller.root, leases=place / "leases")


@contextmanager
def nobody() -> Iterator[None]:
    os.seteuid(USER)
    try:
        yield
    finally:
        os.seteuid(0)


def files(root: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.lstat().st_mode, path.lstat().st_mtime_ns) for path in (root, *root.rglob("*"))}


def test_all_that_a_node_does_works_where_it_may_not_write(place: Path) -> None:
    """As on a volume that is mounted read-only: no directory of the store lets anybody write."""
    for name in ("store", "leases"):
        (place / name).mkdir()
        os.chown(place / name, USER, USER)
    with nobody():
        document = put_bundle(Store.open(place / "store", leases=place / "leases"), A, [BASE], [b"base"])
    for path in (place / "store", *(place / "store").rglob("*")):
        path.chmod(path.stat().st_mode & ~0o222)
    before = files(place / "store")

    with nobody():
        with pytest.raises(StoreDenied):
            Store.open(place / "store")
        node = Store.open_shared(place / "store", FakeClock(), leases=place / "leases")
        node.serve([node.bundles.get(A)])
        node.leases.lease("node_snapshotter", NAME)
        assert node.provider.lookup(ChainID(BASE)) is not None
        assert node.provider.open_layer(NAME) == node.layers.path(NAME)
        assert node.blobs.read(document.images[0].config.digest)
        assert node.usage().layers
        assert node.unsuitable_for_nodes() == ()
        node.leases.release("node_snapshotter", NAME)
    assert files(place / "store") == before


def test_what_nodes_lease_elsewhere_is_kept(controller: Store, node: Store) -> None:
    put_bundle(controller, A, [BASE], [b"base"])
    node.leases.lease("node_snapshotter", NAME)
    controller.bundles.delete(A)

    assert controller.collect().kept == {NAME: ("leased by node_snapshotter",)}
    assert not list((controller.root / "leases").rglob("layers-*"))
    assert node.paths.collect_lock == controller.paths.collect_lock
    assert not node.paths.collect_lock.is_relative_to(controller.root)
    assert node.paths.nodes.parent == node.paths.written_by_nodes

    node.leases.release("node_snapshotter", NAME)
    assert controller.collect().layers == (NAME,)


def test_a_node_that_comes_first_waits_for_the_store(place: Path) -> None:
    node = Store.open_shared(place / "store", leases=place / "store" / "agents")
    with pytest.raises(StoreCorrupt, match="is missing"):
        node.bundles.ids()
    assert node.provider.lookup(ChainID(BASE)) is None

    put_bundle(Store.open(place / "store", leases=place / "store" / "agents"), A, [BASE], [b"base"])

    assert node.bundles.ids() == [A]


@pytest.mark.parametrize("below", [True, False])
def test_what_a_node_makes_is_the_controllers_to_remove(place: Path, *, below: bool) -> None:
    """Whoever comes first: kubelet makes a missing directory as root's."""
    root = place / "store"
    root.mkdir()
    os.chown(root, USER, USER)
    leases = root / "agents" if below else place / "leases"
    leases.mkdir()
    node = Store.open_shared(root, leases=leases)
    node.leases.lease("node_snapshotter", NAME)

    with nobody():
        controller = Store.open(root, leases=leases)
        controller.leases.release_all("node_snapshotter")
        assert controller.leases.holders() == frozenset()
    assert {path.lstat().st_uid for path in (leases, *leases.rglob("*"))} == {USER}


def test_a_damaged_document_stays_where_it_is(controller: Store, node: Store) -> None:
    """To move it is the controller's to do."""
    put_bundle(controller, A, [BASE], [b"base"])
    path = controller.paths.blob(controller.bundles.index().manifests[0].digest)
    path.unlink()
    path.write_bytes(b"damaged")

    with pytest.raises(StoreCorrupt):
        node.bundles.get(A)

    assert path.read_bytes() == b"damaged"


def test_a_node_serves_what_was_checked_and_nothing_else(controller: Store, node: Store) -> None:
    """Everybody who can write to the directory can put a bundle into its index."""
    checked = put_bundle(controller, A, [BASE], [b"base"])
    put_bundle(controller, B, [APP], [b"app"])
    assert node.provider.lookup(ChainID(BASE)) is None

    node.serve([checked])

    assert node.provider.lookup(ChainID(BASE)) is not None
    assert node.provider.lookup(ChainID(APP)) is None
    assert controller.provider.lookup(ChainID(APP)) is not None
    node.serve([])
    assert node.provider.lookup(ChainID(BASE)) is None


# fs-verity


def test_a_file_is_sealed_or_nothing_has_happened_to_it(tmp_path: Path) -> None:
    """Which of both, the filesystem and the kernel decide."""
    path = tmp_path / "layer"
    path.write_bytes(b"layer" * 2000)
    path.chmod(0o400)

    sealed = verity.seal(path)

    assert verity.measure(path) == sealed == verity.seal(path)
    assert path.stat().st_mode & 0o777 == 0o400
    assert path.read_bytes() == b"layer" * 2000
    assert verity.measure(tmp_path / "nothing") is None
    assert verity.measure(tmp_path) is None


def test_only_what_is_shared_is_sealed(controller: Store, tmp_path: Path) -> None:
    put_bundle(controller, A, [BASE], [b"base"])
    alone = Store.open(tmp_path / "alone")
    put_bundle(alone, A, [BASE], [b"base"])

    assert controller.layers.seal(NAME) == verity.measure(controller.layers.path(NAME))
    assert alone.layers.seal(NAME) is None


def test_a_sealed_layer_image_is_asked_for_its_digest(controller: Store, node: Store) -> None:
    """The kernel's answer is a parameter here: few machines have fs-verity."""
    wanted, found = Digest.sha256(b"sealed"), Digest.sha256(b"another")
    document = put_bundle(controller, A, [BASE, APP], [b"base", b"app"])
    (image,) = document.images
    layers = (msgspec.structs.replace(image.layers[0], verity=wanted), image.layers[1])
    bundles = CheckedBundles()
    bundles.replace([msgspec.structs.replace(document, images=(msgspec.structs.replace(image, layers=layers),))])
    answers: dict[Path, Digest | None] = {node.layers.path(NAME): wanted}
    provider = StoreLayerProvider(node.paths, bundles, node.leases, answers.get)
    assert provider.lookup(layers[0].chain_id) is not None
    assert provider.open_layer(NAME) == node.layers.path(NAME)

    for answer in (found, None):
        answers[node.layers.path(NAME)] = answer
        assert provider.lookup(layers[0].chain_id) is None
        assert provider.open_layer(NAME) is None
    assert provider.lookup(layers[1].chain_id) is not None  # made before the filesystem had it: by its name alone
