"""The tar in a layer image, read back in pieces."""

from contextlib import aclosing
from pathlib import Path

import pytest

from imagecache.containerd.layer_tars import LayerTars
from imagecache.digest import ChainID, DiffID, Digest
from imagecache.erofs.layer_header import DATA_START
from imagecache.errors import BlobNotFound, StoreCorrupt
from imagecache.limits import MIB
from imagecache.oci.descriptor import Descriptor
from imagecache.store.bundle_document import LayerRecord
from imagecache.store.layer_name import LayerName, Space
from imagecache.store.store import Store

TAR = bytes(range(256)) * (9 * MIB // 256) + b"end"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def layer(store: Store, tar: bytes, *, stored: bytes | None = None) -> LayerRecord:
    """A layer of the tar, and a file that holds ``stored`` where the tar should be."""
    digest = Digest.sha256(tar)
    name = LayerName(space=Space.LAYERS, digest=digest)
    path = store.layers.path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(DATA_START) + (tar if stored is None else stored))
    return LayerRecord(
        diff_id=DiffID(digest),
        chain_id=ChainID(digest),
        name=name,
        blob=Descriptor(media_type="application/test", digest=digest, size=len(tar)),
        size=path.stat().st_size,
        digest=digest,
        tar_size=len(tar),
        entries=1,
    )


async def read(store: Store, record: LayerRecord) -> list[bytes]:
    return [piece async for piece in LayerTars(store.layers).open(record)]


@pytest.mark.parametrize("tar", [TAR, b"short", b""], ids=["large", "small", "empty"])
async def test_the_tar_and_nothing_behind_it(store: Store, tar: bytes) -> None:
    record = layer(store, tar, stored=tar + b"inodes")
    pieces = await read(store, record)
    assert b"".join(pieces) == tar
    assert all(len(piece) <= 16 * MIB for piece in pieces)


@pytest.mark.parametrize("stored", [TAR[:-1] + b"x", TAR[: 5 * MIB]], ids=["changed", "cut"])
async def test_a_damaged_file_is_found_at_its_end(store: Store, stored: bytes) -> None:
    record = layer(store, TAR, stored=stored)
    with pytest.raises(StoreCorrupt, match="does not hold the tar") as caught:
        await read(store, record)
    assert "imagecache check" in caught.value.hint


async def test_a_file_that_is_not_there(store: Store) -> None:
    record = layer(store, TAR)
    store.layers.path(record.name).unlink()
    with pytest.raises(BlobNotFound):
        await read(store, record)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_who_stops_early_leaves_no_open_file(store: Store) -> None:
    record = layer(store, TAR)
    before = open_files()
    async with aclosing(LayerTars(store.layers).open(record)) as pieces:
        assert await anext(pieces)
    assert open_files() == before
