"""A store that lies, about documents and about layer images: nothing of it reaches the node, whoever helps it.

Documents are compared with the API server, which has their digest. Layer images are proven: the tests about these go
further, and give the lying document the right digest, as a controller would that had been taken in itself.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from imagecache.builder import layer_file
from imagecache.builder.derive import derive
from imagecache.digest import Digest
from imagecache.erofs.layer_header import DATA_START
from imagecache.erofs.reader import LayerImage
from imagecache.errors import ContentError, DigestMismatch, StoreCorrupt
from imagecache.fetch.verifier import Verifier
from imagecache.limits import DEFAULT
from imagecache.oci.descriptor import Platform
from imagecache.store.bundle_document import Bundle, ImageRecord, LayerRecord, PlacedLayer
from imagecache.store.layer_name import LayerName, Space
from imagecache.store.store import Store
from testkit.attachable import MemoryDocuments
from testkit.images import tar_of
from testkit.served import MemoryRemoteStore
from tests.unit.fetch.origin import Fetchers, Origin
from tests.unit.fetch.test_bundle import BASE, ID, OTHER, fetch

UPPER = tar_of({"etc": None, "etc/.wh.base": b"", "etc/own": b"own"})
"""It removes a file of ``BASE``; at the bottom of an image it would remove nothing."""
IMPLIED = tar_of({"opt/app": b"x"})
"""Whose ``opt`` is, the layers below say."""
OPEN = tar_of({"opt": None}, modes={"opt": 0o777})
"""Everybody may write to ``opt``."""


# documents

Change = Callable[[ImageRecord], ImageRecord]
IMAGES: dict[str, Change] = {
    "another-name": lambda image: msgspec.structs.replace(image, name="registry.k8s.io/pause:3.9"),
    "another-repository": lambda image: msgspec.structs.replace(image, repository="registry.k8s.io/pause"),
    "another-reference": lambda image: msgspec.structs.replace(
        image, reference="app:2", name="docker.io/library/app:2"
    ),
    "not-private": lambda image: msgspec.structs.replace(image, private=not image.private),
    "another-platform": lambda image: msgspec.structs.replace(image, platform=Platform(os="linux", architecture="arm")),
    "fewer-layers": lambda image: msgspec.structs.replace(image, layers=image.layers[:1]),
}


def with_image(document: Bundle, change: Change) -> Bundle:
    return msgspec.structs.replace(document, images=tuple(map(change, document.images)))


async def refused(origin: Origin, fetchers: Fetchers, node: Store, lie: Bundle) -> None:
    """The API server has what the controller has made; the store answers with something else."""
    expected = origin.remote.expected(ID)
    origin.remote.bundles[ID] = lie

    with pytest.raises(DigestMismatch, match="the ImageCache has"):
        await fetchers().describe(expected)

    assert not origin.remote.fetched
    assert node.bundles.ids() == []


@pytest.mark.parametrize("lie", IMAGES)
async def test_an_image_that_is_described_in_another_way_is_refused(
    origin: Origin, fetchers: Fetchers, node: Store, lie: str
) -> None:
    document = await origin.build(ID, BASE, UPPER)
    await refused(origin, fetchers, node, with_image(document, IMAGES[lie]))


async def test_an_image_that_the_cache_does_not_have_is_refused(
    origin: Origin, fetchers: Fetchers, node: Store
) -> None:
    evil = await origin.build(OTHER, tar_of({"evil": b"evil"}), name="evil:1")
    document = await origin.build(ID, BASE)
    await refused(origin, fetchers, node, msgspec.structs.replace(document, images=(*document.images, *evil.images)))


async def test_a_document_without_an_image_of_the_cache_is_refused(
    origin: Origin, fetchers: Fetchers, node: Store
) -> None:
    document = await origin.build(ID, BASE)
    await refused(origin, fetchers, node, msgspec.structs.replace(document, images=()))


async def test_the_document_of_another_bundle_under_the_id_that_serves_is_refused(
    origin: Origin, fetchers: Fetchers, node: Store
) -> None:
    """A whole, honest one: of another cache of this cluster, or of this one before a refresh."""
    await origin.build(ID, BASE)
    await refused(origin, fetchers, node, await origin.build(OTHER, UPPER))


async def test_a_document_with_the_right_digest_and_another_id_is_refused(origin: Origin, fetchers: Fetchers) -> None:
    other = await origin.build(OTHER, UPPER)
    origin.remote.bundles[ID] = other

    with pytest.raises(StoreCorrupt, match=f"returned bundle '{OTHER}' for {ID}"):
        await fetchers().describe(replace(origin.remote.expected(ID), id=ID))


@pytest.mark.parametrize("lie", ["another-name", "another-repository"])
async def test_a_name_that_is_not_the_references_is_refused_whatever_its_digest(
    origin: Origin, fetchers: Fetchers, lie: str
) -> None:
    origin.remote.bundles[ID] = with_image(await origin.build(ID, BASE), IMAGES[lie])

    with pytest.raises(StoreCorrupt, match="the store's bundle has"):
        await fetchers().describe(origin.remote.expected(ID))


# layer images


def remade(content: bytes, layer: LayerRecord, directory: Path, *, bottom: bool, lower: Sequence[bytes] = ()) -> bytes:
    """A layer image with the same tar, derived for another position: sound in itself."""
    path = directory / "remade"
    path.write_bytes(content)
    with ExitStack() as stack:
        lowers = []
        for number, tar in enumerate(reversed(lower)):
            layer_file.build(io.BytesIO(tar), directory / f"lower-{number}")
            lowers.append(stack.enter_context(LayerImage.open(directory / f"lower-{number}")))
        fd = os.open(path, os.O_RDWR)
        stack.callback(os.close, fd)
        derive(fd, tar_size=layer.tar_size, diff_id=layer.diff_id, lowers=lowers, bottom=bottom, limits=DEFAULT)
    return path.read_bytes()


def swapped(remote: MemoryRemoteStore, document: Bundle, number: int, content: bytes, name: LayerName) -> Bundle:
    """The document with another file for this layer, which the store has too."""
    (image,) = document.images
    remote.layers[name] = content
    digest = Digest.sha256(content[DATA_START:] + content[:DATA_START])
    lie = msgspec.structs.replace(image.layers[number], name=name, size=len(content), digest=digest)
    layers = (*image.layers[:number], lie, *image.layers[number + 1 :])
    return msgspec.structs.replace(document, images=(msgspec.structs.replace(image, layers=layers),))


async def unproven(origin: Origin, fetchers: Fetchers, node: Store, lie: Bundle, number: int) -> None:
    origin.remote.bundles[ID] = lie

    with pytest.raises((StoreCorrupt, ContentError)):
        await fetch(fetchers())

    assert not node.layers.has(lie.images[0].layers[number].name)
    assert node.bundles.ids() == []
    assert not list(node.paths.downloads.iterdir())


async def test_the_bottom_form_of_an_upper_layer_is_refused(
    origin: Origin, fetchers: Fetchers, node: Store, tmp_path: Path
) -> None:
    """Its whiteouts would have no effect: files that the image has removed would come back."""
    document = await origin.build(ID, BASE, UPPER)
    layer = document.images[0].layers[1]
    evil = remade(origin.remote.layers[layer.name], layer, tmp_path, bottom=True)
    await unproven(origin, fetchers, node, swapped(origin.remote, document, 1, evil, layer.name), 1)


async def test_the_upper_form_of_a_bottom_layer_is_refused(
    origin: Origin, fetchers: Fetchers, node: Store, tmp_path: Path
) -> None:
    document = await origin.build(ID, UPPER)
    (layer,) = document.images[0].layers
    assert layer.name.space is Space.CHAINS
    evil = remade(origin.remote.layers[layer.name], layer, tmp_path, bottom=False)
    for space, digest in ((Space.CHAINS, layer.chain_id), (Space.LAYERS, layer.diff_id)):
        lie = swapped(origin.remote, document, 0, evil, LayerName(space, digest))
        await unproven(origin, fetchers, node, lie, 0)


@pytest.mark.parametrize("space", Space)
async def test_attributes_that_no_layer_below_gives_are_refused(
    origin: Origin, fetchers: Fetchers, node: Store, tmp_path: Path, space: Space
) -> None:
    document = await origin.build(ID, BASE, IMPLIED)
    layer = document.images[0].layers[1]
    assert layer.name.space is Space.CHAINS
    evil = remade(origin.remote.layers[layer.name], layer, tmp_path, bottom=False, lower=[OPEN])
    name = LayerName(space, layer.diff_id if space is Space.LAYERS else layer.chain_id)
    await unproven(origin, fetchers, node, swapped(origin.remote, document, 1, evil, name), 1)


@pytest.mark.parametrize("number", [0, 1])
async def test_a_layer_image_in_the_wrong_space_is_refused(
    origin: Origin, fetchers: Fetchers, node: Store, number: int
) -> None:
    """Each layer has one home: else two files, of which one is proven, would serve the same position."""
    document = await origin.build(ID, BASE, UPPER)
    layer = document.images[0].layers[number]
    assert layer.name.space is Space.LAYERS
    content = origin.remote.layers[layer.name]
    name = LayerName(Space.CHAINS, layer.chain_id)
    await unproven(origin, fetchers, node, swapped(origin.remote, document, number, content, name), number)


async def test_a_layer_image_that_came_for_another_image_is_not_taken_for_the_bottom(
    origin: Origin, fetchers: Fetchers, node: Store
) -> None:
    """It is proven, and here already; but at the bottom its whiteouts would be seen by containers."""
    above = (await origin.build(OTHER, BASE, UPPER)).images[0].layers[1]
    await fetch(fetchers(), OTHER)
    document = await origin.build(ID, UPPER)
    content = origin.remote.layers[above.name]
    origin.remote.bundles[ID] = swapped(origin.remote, document, 0, content, above.name)

    with pytest.raises(StoreCorrupt, match="not right at the bottom"):
        await fetch(fetchers())

    assert node.bundles.ids() == [OTHER]


async def test_the_honest_store_is_believed(origin: Origin, fetchers: Fetchers, node: Store) -> None:
    """All of the above would pass if everything were refused."""
    document = await origin.build(ID, BASE, UPPER, IMPLIED)
    bottom = await origin.build(OTHER, UPPER)

    await fetch(fetchers())
    await fetch(fetchers(), OTHER)

    assert (node.bundles.get(ID), node.bundles.get(OTHER)) == (document, bottom)


async def test_more_layers_below_than_one_message_takes(verifier: Verifier, tmp_path: Path) -> None:
    """Linux takes 253 descriptors in one message; the worker must get all layers, in their order."""
    other, lowest, file = (tmp_path / name for name in ("other", "lowest", "file"))
    layer_file.build(io.BytesIO(tar_of({"etc": None})), other)
    layer_file.build(io.BytesIO(OPEN), lowest)
    lower = [lowest, *[other] * 260]
    built = layer_file.build(io.BytesIO(IMPLIED), file, lower)
    record = msgspec.structs.replace(
        MemoryDocuments().image("app:1", ["app"]).layers[0],
        diff_id=built.header.diff_id,
        tar_size=built.header.tar_size,
    )

    placed = PlacedLayer(record=record, bottom=False)
    await verifier.prove_above(placed, file, lower[::-1])

    with pytest.raises(StoreCorrupt, match="differs at byte"):
        await verifier.prove_above(placed, file, lower[:0:-1])
