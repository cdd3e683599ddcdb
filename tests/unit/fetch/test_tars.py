"""The tars in a remote store's layer images, as a runtime unpacks them."""

from __future__ import annotations

import random

import pytest

from imagecache.errors import BlobNotFound, StoreCorrupt, StoreUnreachable
from imagecache.fetch.tars import RemoteTars
from imagecache.limits import MIB
from imagecache.store.bundle_document import LayerRecord
from testkit.images import tar_of
from testkit.served import MemoryRemoteStore
from tests.unit.fetch.origin import Origin

ID = "imc-" + "a" * 20
BASE = tar_of({"etc": None, "etc/base": random.Random(5).randbytes(9 * MIB)})
APP = tar_of({"opt/app": b"its parent is implied"})


async def read(remote: MemoryRemoteStore, layer: LayerRecord) -> tuple[list[bytes], int]:
    fetched: list[int] = []
    pieces = [piece async for piece in RemoteTars(remote, fetched.append).open(layer)]
    return pieces, sum(fetched)


async def test_the_tar_of_each_layer_and_nothing_else(origin: Origin) -> None:
    document = await origin.build(ID, BASE, APP)
    for layer, tar in zip(document.images[0].layers, (BASE, APP), strict=True):
        pieces, fetched = await read(origin.remote, layer)
        assert b"".join(pieces) == tar
        assert all(len(piece) <= 16 * MIB for piece in pieces)
        assert fetched == origin.remote.fetched[layer.name] == len(tar)


async def test_a_damaged_tar_is_found_at_its_end(origin: Origin) -> None:
    document = await origin.build(ID, BASE)
    (layer,) = document.images[0].layers
    content = bytearray(origin.remote.layers[layer.name])
    content[5 * MIB] ^= 1
    origin.remote.layers[layer.name] = bytes(content)
    with pytest.raises(StoreCorrupt, match="does not hold the tar") as caught:
        await read(origin.remote, layer)
    assert "imagecache check" in caught.value.hint


async def test_a_store_that_is_away_or_lost_the_layer(origin: Origin) -> None:
    document = await origin.build(ID, BASE)
    (layer,) = document.images[0].layers
    origin.remote.down = True
    with pytest.raises(StoreUnreachable):
        await read(origin.remote, layer)
    origin.remote.down = False
    del origin.remote.layers[layer.name]
    with pytest.raises(BlobNotFound):
        await read(origin.remote, layer)
