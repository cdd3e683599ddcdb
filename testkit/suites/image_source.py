"""What every ``ImageSource`` must do: the registry client with any registry, and the fake.

Subclass ``ImageSourceSuite`` and give it an ``origin`` fixture: a source, and a way to publish images for it.
"""

from __future__ import annotations

import asyncio
import random
from typing import Protocol

import pytest

from imagecache.builder.image_source import ImageSource
from imagecache.digest import Digest
from imagecache.errors import ContentError, ImageNotFound, LimitExceeded
from imagecache.limits import DEFAULT
from imagecache.oci.descriptor import Descriptor
from imagecache.oci.reference import Reference
from testkit.images_oci import AMD64, ARM64, MemoryImage, memory_image, memory_index
from testkit.registry import with_size

_ABSENT = Digest.sha256(b"nowhere")
CONTENT = random.Random(1).randbytes(3_000_000)
"""A layer of several network buffers. It need not be a tar: sources do not look into layers."""


class Origin(Protocol):
    @property
    def source(self) -> ImageSource:
        """The source under test; the same object each time."""

    def publish(self, name: str, image: MemoryImage) -> str:
        """Publish an image as ``repository:tag``; returns its reference."""


async def read(source: ImageSource, reference: Reference, blob: Descriptor, offset: int = 0) -> bytes:
    return b"".join([chunk async for chunk in source.stream(reference, blob, offset)])


class ImageSourceSuite:
    private = False
    """Whether the origin opens its images only for a credential."""

    @pytest.fixture
    def origin(self) -> Origin:
        raise NotImplementedError

    @pytest.fixture
    def image(self) -> MemoryImage:
        return memory_image([CONTENT, b"second layer"])

    @pytest.fixture
    def reference(self, origin: Origin, image: MemoryImage) -> Reference:
        return Reference.parse(origin.publish("team/app:1.4", image))

    async def test_a_tag(self, origin: Origin, image: MemoryImage, reference: Reference) -> None:
        resolved = await origin.source.resolve(reference)

        assert resolved.descriptor == image.descriptor
        assert resolved.body == image.body
        assert resolved.verified
        assert (await origin.source.access(reference, image.layers)).private is self.private

    async def test_a_digest(self, origin: Origin, image: MemoryImage, reference: Reference) -> None:
        by_digest = Reference.parse(f"{reference.repository}@{image.descriptor.digest}")
        with_tag = Reference.parse(f"{reference.repository}:ignored@{image.descriptor.digest}")

        assert (await origin.source.resolve(by_digest)).descriptor == image.descriptor
        assert (await origin.source.resolve(with_tag)).descriptor == image.descriptor

    async def test_an_index_and_its_manifests(self, origin: Origin) -> None:
        members = [memory_image([b"for one"], platform=AMD64), memory_image([b"for other"], platform=ARM64)]
        index = memory_index(members)
        reference = Reference.parse(origin.publish("team/many:1", index))

        resolved = await origin.source.resolve(reference)

        assert resolved.descriptor == index.descriptor
        for member in members:
            assert await origin.source.document(reference, member.descriptor) == member.body

    async def test_docker_types(self, origin: Origin) -> None:
        image = memory_image([b"a layer"], docker=True)
        reference = Reference.parse(origin.publish("team/docker:1", image))

        assert (await origin.source.resolve(reference)).descriptor == image.descriptor

    async def test_a_config(self, origin: Origin, image: MemoryImage, reference: Reference) -> None:
        assert image.config is not None

        assert await origin.source.document(reference, image.config) == image.blobs[image.config.digest]

    @pytest.mark.parametrize("name", ["team/app:absent", "team/nothing:1.4", f"team/app@{_ABSENT}"])
    async def test_absent_images_are_named_as_written(self, origin: Origin, reference: Reference, name: str) -> None:
        absent = Reference.parse(f"{reference.host}/{name}")

        with pytest.raises(ImageNotFound) as caught:
            await origin.source.resolve(absent)

        assert caught.value.image == absent.original

    async def test_absent_documents(self, origin: Origin, image: MemoryImage, reference: Reference) -> None:
        assert image.config is not None
        for known in (image.config, image.descriptor):
            absent = Descriptor(media_type=known.media_type, digest=_ABSENT, size=5)
            with pytest.raises(ImageNotFound) as caught:
                await origin.source.document(reference, absent)
            assert caught.value.image == reference.original

    async def test_a_document_of_another_size(self, origin: Origin, image: MemoryImage, reference: Reference) -> None:
        assert image.config is not None

        with pytest.raises(ContentError):
            await origin.source.document(reference, with_size(image.config, image.config.size + 1))

    async def test_a_huge_document_is_not_read(self, origin: Origin, image: MemoryImage, reference: Reference) -> None:
        assert image.config is not None

        with pytest.raises(LimitExceeded) as caught:
            await origin.source.document(reference, with_size(image.config, DEFAULT.config_size + 1))

        assert caught.value.image == reference.original

    async def test_a_layer(self, origin: Origin, image: MemoryImage, reference: Reference) -> None:
        for layer in image.layers:
            assert await read(origin.source, reference, layer) == image.blobs[layer.digest]

    @pytest.mark.parametrize("kept", [1, 70_000, 2_999_999])
    async def test_the_rest_of_a_layer(
        self, origin: Origin, image: MemoryImage, reference: Reference, kept: int
    ) -> None:
        layer = image.layers[0]

        assert await read(origin.source, reference, layer, kept) == image.blobs[layer.digest][kept:]

    async def test_nothing_is_left_of_a_layer(self, origin: Origin, image: MemoryImage, reference: Reference) -> None:
        layer = image.layers[0]

        assert await read(origin.source, reference, layer, layer.size) == b""

    async def test_an_absent_layer(self, origin: Origin, image: MemoryImage, reference: Reference) -> None:
        absent = Descriptor(media_type=image.layers[0].media_type, digest=_ABSENT, size=5)

        with pytest.raises(ImageNotFound) as caught:
            await read(origin.source, reference, absent)

        assert caught.value.image == reference.original

    async def test_many_streams_at_once(self, origin: Origin, image: MemoryImage, reference: Reference) -> None:
        wanted = [layer for layer in image.layers for _ in range(6)]

        bodies = await asyncio.gather(*(read(origin.source, reference, layer) for layer in wanted))

        assert bodies == [image.blobs[layer.digest] for layer in wanted]

    async def test_a_stream_may_be_left(self, origin: Origin, image: MemoryImage, reference: Reference) -> None:
        async for chunk in origin.source.stream(reference, image.layers[0]):
            assert chunk
            break

        assert await read(origin.source, reference, image.layers[1]) == image.blobs[image.layers[1].digest]
