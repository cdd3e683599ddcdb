from __future__ import annotations

from pathlib import Path

import pytest

from imagecache.digest import Digest
from imagecache.store.layer_name import LayerName, Space
from imagecache.store.paths import StorePaths, unflat
from imagecache.store.store import Store

DIGEST = Digest.sha256(b"x")
NAME = LayerName(space=Space.CHAINS, digest=DIGEST)
PATHS = StorePaths(Path("/store"))


def test_layer_images_lie_where_containerd_looks() -> None:
    digits = DIGEST.hex
    assert str(PATHS.layer(LayerName(space=Space.LAYERS, digest=DIGEST))) == (
        f"/store/layers/sha256/{digits[:2]}/{digits}.erofs"
    )
    assert str(PATHS.layer(NAME)) == f"/store/chains/sha256/{digits[:2]}/{digits}.erofs"


def test_blobs_lie_where_an_oci_layout_has_them() -> None:
    assert str(PATHS.blob(DIGEST)) == f"/store/blobs/sha256/{DIGEST.hex}"


def test_lease_files_name_their_layer() -> None:
    assert unflat(PATHS.node_lease("node", NAME).name) == NAME


@pytest.mark.parametrize("text", ["", "x", f"layers-sha256-{'a' * 63}", f"other-sha256-{'a' * 64}", ".tmp"])
def test_foreign_lease_files_stand_for_nothing(text: str) -> None:
    assert unflat(text) is None


@pytest.mark.parametrize("holder", ["node", "a/b", "..", ".", "snapshotter/k8s.io", "ü %2F", "-"])
def test_any_text_is_a_holder_and_stays_below_the_leases(store: Store, holder: str) -> None:
    store.leases.lease(holder, NAME)

    assert store.paths.holder(holder).parent == store.paths.node_leases
    assert list(store.paths.node_lease_files()) == [(holder, NAME)]


@pytest.mark.parametrize("holder", ["", "x" * 256])
def test_impossible_holders_are_misuse(holder: str) -> None:
    with pytest.raises(ValueError, match="holder"):
        PATHS.holder(holder)


def test_what_is_not_at_its_place_is_no_layer_image(store: Store) -> None:
    digits = DIGEST.hex
    sidecar = f"layers/sha256/{digits[:2]}/{digits}.erofs.dmverity"
    strangers = {"layers/readme", f"layers/sha256/zz/{digits}.erofs", sidecar}
    for each in strangers:
        path = store.root / each
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    assert {str(path.relative_to(store.root)) for path, name in store.paths.layer_files() if name is None} == strangers
    assert list(store.layers.names()) == []


def test_what_has_no_digest_for_a_name_is_no_blob(store: Store) -> None:
    for each in ("sha256/short", f"sha1/{'a' * 40}", f"sha256/deep/{DIGEST.hex}"):
        path = store.paths.blobs / each
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    assert [digest for _path, digest in store.paths.blob_files()] == [None, None, None]


def test_foreign_downloads_are_not_listed(store: Store) -> None:
    (store.paths.downloads / "notes.txt").touch()
    (store.paths.downloads / "sha256-abc.part").touch()
    store.paths.download(DIGEST).touch()

    assert list(store.paths.download_files()) == [(store.paths.download(DIGEST), DIGEST)]
