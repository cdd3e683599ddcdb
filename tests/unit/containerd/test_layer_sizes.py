"""Sizes of an image's layers, from the documents that a pull has left."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagecache.containerd.layer_sizes import layer_sizes
from imagecache.digest import chain_ids
from imagecache.errors import ContainerdUnavailable
from imagecache.oci.descriptor import Descriptor
from testkit.containerd import MemoryContainerd
from testkit.images import make_image, tar_of
from testkit.oci_layout import Image, ImageConfig, Layout

NAME = "registry.example.com/team/app:1"
OTHER = {"os": "linux", "architecture": "s390x"}
OURS = {"os": "linux", "architecture": "amd64"}


@pytest.fixture
def image(tmp_path: Path) -> Image:
    tars = [tar_of({f"file-{number}": bytes(100 * number)}) for number in range(3)]
    return make_image(tmp_path / "image", tars)


def sizes(image: Image) -> dict[str, int]:
    return {str(chain): layer.size for chain, layer in zip(chain_ids(image.diff_ids), image.layers, strict=True)}


async def pulled(image: Image, *documents: Descriptor, target: Descriptor | None = None) -> MemoryContainerd:
    """containerd with these documents of the image."""
    containerd = MemoryContainerd()
    session = containerd.session("k8s.io")
    for document in documents:
        await session.content.write(image.blob(document.digest).read_bytes(), {})
    await session.images.put(NAME, target or image.descriptor, {})
    return containerd


async def test_every_layer_by_its_chain(image: Image) -> None:
    containerd = await pulled(image, image.descriptor, image.config)
    wanted = sizes(image)

    assert await layer_sizes(containerd.session("k8s.io"), NAME, wanted) == wanted
    some = sorted(wanted)[:1]
    assert await layer_sizes(containerd.session("k8s.io"), NAME, some) == {some[0]: wanted[some[0]]}


async def test_the_manifest_of_an_index_that_is_there(image: Image) -> None:
    """A pull leaves the one of this machine's platform."""
    layout = Layout(image.directory)
    other = layout.add_manifest(image.layers[:1], image.diff_ids[:1], ImageConfig(architecture="s390x"))
    index = layout.add_index([other, image], [OTHER, OURS])
    containerd = await pulled(image, index.descriptor, image.descriptor, image.config, target=index.descriptor)

    assert await layer_sizes(containerd.session("k8s.io"), NAME, sizes(image)) == sizes(image)


async def test_what_is_not_there_has_no_size(image: Image) -> None:
    for documents in ([], [image.descriptor], [image.config]):
        containerd = await pulled(image, *documents)
        assert await layer_sizes(containerd.session("k8s.io"), NAME, sizes(image)) == {}
    containerd = await pulled(image, image.descriptor, image.config)
    assert await layer_sizes(containerd.session("k8s.io"), "another:1", sizes(image)) == {}
    assert await layer_sizes(containerd.session("k8s.io"), NAME, {"sha256:unknown"}) == {}


async def test_documents_that_nobody_understands_have_no_size(image: Image) -> None:
    for body in (b"no JSON", b'{"config": {}, "layers": []}', b'{"schemaVersion": 1}'):
        session = MemoryContainerd(cri=False).session("k8s.io")
        digest = await session.content.write(body, {})
        await session.images.put(NAME, Descriptor(media_type="x", digest=digest, size=len(body)), {})
        assert await layer_sizes(session, NAME, sizes(image)) == {}


async def test_an_index_is_not_followed_without_end(image: Image) -> None:
    index = Layout(image.directory).add_index([image] * 500, [OTHER] * 500)
    containerd = await pulled(image, index.descriptor, target=index.descriptor)

    assert await layer_sizes(containerd.session("k8s.io"), NAME, sizes(image)) == {}


async def test_a_containerd_that_is_away(image: Image) -> None:
    containerd = await pulled(image)
    containerd.running = False

    with pytest.raises(ContainerdUnavailable):
        await layer_sizes(containerd.session("k8s.io"), NAME, sizes(image))
