"""Bundles for several platforms, and what a node of one of them has of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from imagecache.builder.build_events import ImageReady, ImageResolved
from imagecache.errors import NoMatchingPlatform
from imagecache.oci.descriptor import Descriptor, Platform
from imagecache.oci.reference import Reference
from imagecache.oci.resolved import Resolved
from imagecache.store.bundle_document import build_name
from imagecache.store.layer_name import LayerName, Space
from testkit.images_oci import AMD64, ARM64, MemoryImage, memory_image, memory_index
from testkit.registry import MemorySource
from tests.unit.builder.test_bundle_builder import BASE, ID, Builds, source, tar


@pytest.fixture
def builds(tmp_path: Path) -> Builds:
    return Builds(tmp_path / "store")


ONLY_AMD64, ONLY_ARM64 = tar("usr/", "usr/amd64"), tar("usr/", "usr/arm64")


def for_both() -> MemoryImage:
    """The bottom layer is the same."""
    return memory_index(
        [memory_image([BASE, ONLY_AMD64], platform=AMD64), memory_image([BASE, ONLY_ARM64], platform=ARM64)]
    )


async def test_each_platform_gets_a_record_of_its_own(builds: Builds) -> None:
    images = source(app=for_both())

    document = await builds.build(images, "app:1", platforms=(AMD64, ARM64))

    assert document.platforms == (AMD64, ARM64)
    assert [(image.reference, image.platform) for image in document.images] == [("app:1", AMD64), ("app:1", ARM64)]
    one, other = document.images
    assert one.target == other.target
    assert one.manifest != other.manifest
    assert one.layers[0] == other.layers[0]
    assert one.layers[1].diff_id != other.layers[1].diff_id
    assert len(set(builds.store.layers.names())) == 3
    assert len([event for event in builds.events if isinstance(event, ImageResolved | ImageReady)]) == 2
    assert builds.store.bundles.get(ID) == document


async def test_what_a_node_has_of_a_bundle(builds: Builds) -> None:
    document = await builds.build(source(app=for_both()), "app:1", platforms=(AMD64, ARM64))

    for platform, image in zip((AMD64, ARM64), document.images, strict=True):
        assert document.on(platform).images == (image,)
        assert document.on(platform).layer_names() == {layer.name for layer in image.layers}
    assert document.on(Platform(os="linux", architecture="arm", variant="v7")).images == ()
    assert document.on(Platform(os="windows", architecture="amd64")).images == ()
    assert document.on(AMD64).on(AMD64) == document.on(AMD64)


async def test_a_platform_that_is_promised_must_be_there(builds: Builds) -> None:
    images = source(app=for_both(), old=memory_index([memory_image([BASE])]))

    with pytest.raises(NoMatchingPlatform, match=r"not available for linux/arm64, only for linux/amd64") as caught:
        await builds.build(images, "app:1", "old:1", platforms=(AMD64, ARM64))

    assert caught.value.image == "old:1"


async def test_otherwise_an_image_is_built_for_what_it_has(builds: Builds) -> None:
    new = memory_index([memory_image([BASE], platform=ARM64)])
    images = source(app=for_both(), old=memory_image([BASE]), new=new)

    document = await builds.build(images, "app:1", "old:1", "new:1", platforms=(AMD64, ARM64), complete=False)

    found = [(image.reference, image.platform) for image in document.images]
    assert found == [("app:1", AMD64), ("app:1", ARM64), ("old:1", AMD64), ("new:1", ARM64)]


async def test_an_image_that_has_none_of_them(builds: Builds) -> None:
    big = memory_image([BASE], platform=Platform(os="linux", architecture="s390x"))
    images = source(app=for_both(), big=memory_index([big]))

    with pytest.raises(NoMatchingPlatform, match="only for linux/s390x") as caught:
        await builds.build(images, "app:1", "big:1", platforms=(AMD64, ARM64), complete=False)

    assert caught.value.image == "big:1"


async def test_an_image_is_for_the_nodes_that_take_it(builds: Builds) -> None:
    """containerd takes an image for 386 on amd64."""
    narrow = memory_image([BASE], platform=Platform(os="linux", architecture="386"))

    (image,) = (await builds.build(source(app=narrow), "app:1")).images

    assert image.platform == AMD64


async def test_a_tag_that_moves_meanwhile_gives_one_index(builds: Builds) -> None:
    class Moving(MemorySource):
        async def resolve(self, reference: Reference) -> Resolved:
            found = await super().resolve(reference)
            self.add("app:1", memory_index([memory_image([tar("etc/", "etc/new")], platform=ARM64)]))
            return found

    image = for_both()
    images = Moving({"app:1": image, "app:old": image})

    document = await builds.build(images, "app:1", platforms=(AMD64, ARM64))

    assert len({image.target.digest for image in document.images}) == 1


async def test_a_running_build_tells_what_it_makes_for_each_architecture(builds: Builds) -> None:
    told: dict[str, set[LayerName]] = {}

    class Looking(MemorySource):
        async def stream(self, reference: Reference, descriptor: Descriptor, offset: int = 0) -> AsyncGenerator[bytes]:
            for each in ("amd64", "arm64", "arm"):
                names = builds.store.leases.wanted_by(build_name(ID, each))
                told[each] = {name for name in names if name.space is Space.LAYERS}
            async for chunk in super().stream(reference, descriptor, offset):
                yield chunk

    document = await builds.build(Looking({"app:1": for_both()}), "app:1", platforms=(AMD64, ARM64))

    own = {platform.architecture: document.on(platform).layer_names() for platform in (AMD64, ARM64)}
    assert told == {**own, "arm": set()}


async def test_the_limit_is_for_one_platform(builds: Builds) -> None:
    tars = [tar("big", content=bytes([number]) * (1 << 20)) for number in range(2)]
    both = memory_index([memory_image([each], platform=of) for each, of in zip(tars, (AMD64, ARM64), strict=True)])

    assert await builds.build(source(app=both), "app:1", platforms=(AMD64, ARM64), size_limit=(1 << 20) + (1 << 18))
