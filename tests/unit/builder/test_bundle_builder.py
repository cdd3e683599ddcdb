"""Whole builds: images in memory, a real store, real worker processes."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import re
import tarfile
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
import pytest

from imagecache.builder.build_events import Advanced, BuildEvent, ImageReady, ImageResolved, Planned
from imagecache.builder.bundle_builder import BuildSettings, BundleBuilder
from imagecache.builder.resolve_platforms import Platforms
from imagecache.clock import SystemClock
from imagecache.digest import Digest, chain_ids
from imagecache.erofs.reader import LayerImage
from imagecache.errors import (
    DigestMismatch,
    ImageTooLarge,
    MalformedDocument,
    MalformedLayer,
    NoMatchingPlatform,
    RegistryUnavailable,
    StoreCorrupt,
    UnsupportedMediaType,
)
from imagecache.fetch.trust import check
from imagecache.limits import GIB, MIB
from imagecache.oci import mediatypes
from imagecache.oci.descriptor import Descriptor, Platform
from imagecache.oci.reference import Reference
from imagecache.store.bundle_document import Bundle, LayerRecord
from imagecache.store.expected_bundle import ExpectedBundle, expected_bundle
from imagecache.store.layer_name import Space
from imagecache.store.store import Store
from testkit.images_oci import AMD64, MemoryImage, memory_image, memory_index
from testkit.registry import MemorySource

S390X = Platform(os="linux", architecture="s390x")
ID = "imc-" + "a" * 20
OTHER = "imc-" + "b" * 20
NOISE = bytes(range(256)) * 4096
FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"


def tar(*names: str, content: bytes = b"x", mode: int = 0o755) -> bytes:
    """Names that end in a slash are directories with ``mode``; a name with ``=`` is a file with that content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in names:
            info = tarfile.TarInfo(name.rstrip("/"))
            if name.endswith("/"):
                info.type, info.mode = tarfile.DIRTYPE, mode
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


BASE = tar("etc/", "etc/base")
APP = tar("usr/", "usr/app")


class Builds:
    """Builds into one store, and what they told."""

    def __init__(self, root: Path, jobs: int = 2) -> None:
        self.store = Store.open(root)
        self.jobs = jobs
        self.events: list[BuildEvent] = []

    async def build(
        self,
        source: MemorySource,
        *references: str,
        size_limit: int = GIB,
        bundle_id: str = ID,
        platforms: tuple[Platform, ...] = (AMD64,),
        complete: bool = True,
    ) -> Bundle:
        builder = BundleBuilder(self.store, SystemClock(), BuildSettings(jobs=self.jobs))
        return await builder.build(
            bundle_id,
            references,
            platforms=Platforms(platforms, complete=complete),
            size_limit=size_limit,
            source=source,
            emit=self.events.append,
        )

    def image(self, layer: LayerRecord) -> LayerImage:
        return LayerImage.open(self.store.layers.path(layer.name))

    def mode(self, layer: LayerRecord, *path: bytes) -> int:
        with self.image(layer) as image:
            inode = image.root()
            for name in path:
                child = image.child(inode, name)
                assert child is not None
                inode = child
            return inode.mode & 0o7777


@pytest.fixture
def builds(tmp_path: Path) -> Builds:
    return Builds(tmp_path / "store")


def source(**images: MemoryImage) -> MemorySource:
    return MemorySource({f"{name}:1": image for name, image in images.items()})


def asked(source: MemorySource, image: MemoryImage) -> list[str]:
    layers = {layer.digest for layer in image.layers}
    return [digest for digest in source.asked if digest in layers]


async def test_an_image_becomes_layer_images_and_a_document(builds: Builds) -> None:
    image = memory_image([BASE, tar("usr/", "usr/app")])
    document = await builds.build(source(app=image), "app:1")
    (record,) = document.images
    assert (record.reference, record.name) == ("app:1", "docker.io/library/app:1")
    assert [layer.chain_id for layer in record.layers] == list(chain_ids(layer.diff_id for layer in record.layers))
    assert [layer.name.space for layer in record.layers] == [Space.LAYERS] * 2
    for layer in record.layers:
        with builds.image(layer) as opened:
            assert opened.header.diff_id == layer.diff_id
            assert b"".join(opened.tar()) in (BASE, tar("usr/", "usr/app"))
        assert builds.store.layers.size(layer.name) == layer.size
    assert builds.store.bundles.get(ID) == document
    assert all(builds.store.blobs.has(digest) for digest in document.document_digests())


async def test_progress_adds_up(builds: Builds) -> None:
    image = memory_image([BASE, tar("big", content=NOISE)])
    await builds.build(source(app=image), "app:1")
    done = [event.done for event in builds.events if isinstance(event, Planned | Advanced)]
    assert done == sorted(done)
    assert isinstance(builds.events[0], ImageResolved)
    last = builds.events[-1]
    assert isinstance(last, ImageReady)
    assert last.done == last.total > 0


async def test_a_second_build_downloads_nothing(builds: Builds) -> None:
    image = memory_image([BASE, tar("usr/", "usr/app")])
    first = await builds.build(source(app=image), "app:1")
    again = source(app=image)
    second = await builds.build(again, "app:1", bundle_id="imc-" + "b" * 20)
    assert asked(again, image) == []
    assert second.images == first.images
    planned = [event for event in builds.events if isinstance(event, Planned)][-1]
    assert planned.done == planned.total


async def test_files_of_an_interrupted_build_are_found(builds: Builds) -> None:
    image = memory_image([BASE])
    await builds.build(source(app=image), "app:1")
    builds.store.bundles.delete(ID)
    again = source(app=image)
    document = await builds.build(again, "app:1")
    assert asked(again, image) == []
    assert document.images[0].layers[0].size > 0


async def test_shared_layers_are_fetched_once(builds: Builds) -> None:
    one, two = memory_image([BASE, tar("one")]), memory_image([BASE, tar("two")])
    images = source(one=one, two=two)
    document = await builds.build(images, "one:1", "two:1")
    assert len(images.asked) == len(set(images.asked))
    assert document.images[0].layers[0] == document.images[1].layers[0]


async def test_no_layers(builds: Builds) -> None:
    document = await builds.build(source(empty=memory_image([])), "empty:1")
    assert document.images[0].layers == ()


async def test_repeated_layers(builds: Builds) -> None:
    document = await builds.build(source(app=memory_image([BASE, BASE, BASE])), "app:1")
    layers = document.images[0].layers
    assert len({layer.chain_id for layer in layers}) == 3
    assert len({layer.name for layer in layers}) == 1


async def test_implied_parents_take_the_attributes_below(builds: Builds) -> None:
    image = memory_image([tar("tmp/", mode=0o1777), tar("tmp/x"), tar("tmp/y")])
    document = await builds.build(source(app=image), "app:1")
    base, *uppers = document.images[0].layers
    assert base.name.space is Space.LAYERS
    for upper in uppers:
        assert upper.name.space is Space.CHAINS
        assert upper.name.digest == upper.chain_id
        assert builds.mode(upper, b"tmp") == 0o1777


async def test_one_layer_on_two_bases_has_two_trees(builds: Builds) -> None:
    upper = tar("tmp/x")
    one = memory_image([tar("tmp/", mode=0o1777), upper])
    two = memory_image([tar("tmp/", mode=0o700), upper])
    images = source(one=one, two=two)
    document = await builds.build(images, "one:1", "two:1")
    modes = [builds.mode(image.layers[1], b"tmp") for image in document.images]
    assert modes == [0o1777, 0o700]
    assert len(images.asked) == len(set(images.asked))


async def test_a_whiteout_at_the_bottom_deletes_and_above_hides(builds: Builds) -> None:
    layer = tar("a/", "a/gone", "b/", "b/.wh.other")
    document = await builds.build(source(app=memory_image([layer, layer])), "app:1")
    bottom, upper = document.images[0].layers
    assert (bottom.name.space, upper.name.space) == (Space.CHAINS, Space.LAYERS)
    with builds.image(bottom) as image:
        assert [path[-1] for path, _ in image.walk() if path] == [b"a", b"gone", b"b"]
    with builds.image(upper) as image:
        assert (b"b", b"other") in [path for path, _ in image.walk()]


async def test_a_layer_with_whiteouts_in_the_store_does_not_serve_a_bottom(builds: Builds) -> None:
    layer = tar("b/", "b/.wh.other")
    await builds.build(source(app=memory_image([BASE, layer])), "app:1")
    images = source(other=memory_image([layer]))
    document = await builds.build(images, "other:1", bundle_id="imc-" + "b" * 20)
    assert document.images[0].layers[0].name.space is Space.CHAINS
    assert len([digest for digest in images.asked if digest == document.images[0].layers[0].blob.digest]) == 0


async def test_a_broken_download_goes_on_where_it_stopped(builds: Builds) -> None:
    image = memory_image([tar("big", content=NOISE)], compression="none")
    blob = image.layers[0]
    images = source(app=image)
    images.fail(blob.digest, RegistryUnavailable("gone"), after=512 * 1024)
    with pytest.raises(RegistryUnavailable) as caught:
        await builds.build(images, "app:1")
    assert caught.value.image == "app:1"
    assert list(builds.store.bundles.all()) == []
    with builds.store.downloads.open(blob.digest, blob.size) as download:
        assert download.offset == 512 * 1024
    assert (await builds.build(images, "app:1")).images[0].layers[0].size > blob.size


async def test_wrong_bytes_are_fetched_once_more_then_refused(builds: Builds) -> None:
    image = memory_image([tar("big", content=NOISE)])
    blob = image.layers[0]
    good = image.blobs[blob.digest]
    images = source(app=image)
    image.blobs[blob.digest] = good[:-20] + bytes(20)  # type: ignore[index]  # the fake's own dict, on purpose
    with pytest.raises(DigestMismatch) as caught:
        await builds.build(images, "app:1")
    assert caught.value.image == "app:1"
    assert asked(images, image) == [blob.digest] * 2
    assert list(builds.store.layers.names()) == []


async def test_a_layer_that_is_no_tar(builds: Builds) -> None:
    image = memory_image([b"not a tar" * 1000])
    with pytest.raises(MalformedLayer) as caught:
        await builds.build(source(app=image), "app:1")
    assert caught.value.image == "app:1"


async def test_too_large_unpacked(builds: Builds) -> None:
    image = memory_image([tar("big", content=bytes(1 << 20))])
    with pytest.raises(ImageTooLarge, match="imageCacheSize"):
        await builds.build(source(app=image), "app:1", size_limit=1 << 20)
    assert list(builds.store.bundles.all()) == []


async def test_another_platform(builds: Builds) -> None:
    images = source(app=memory_index([memory_image([BASE], platform=S390X)]))
    with pytest.raises(NoMatchingPlatform, match="s390x"):
        await builds.build(images, "app:1")


async def test_an_index_in_an_index(builds: Builds) -> None:
    member = memory_image([BASE])
    inner = memory_index([memory_image([APP], platform=S390X), member])
    outer = memory_index([inner])
    document = await builds.build(source(app=outer), "app:1")
    (record,) = document.images
    assert [index.digest for index in record.indexes] == [outer.descriptor.digest, inner.descriptor.digest]
    assert (record.target.digest, record.manifest.digest) == (outer.descriptor.digest, member.descriptor.digest)
    bodies = {digest: builds.store.blobs.read(digest) for digest in document.document_digests()}
    assert len(bodies) == 4
    check(document, bodies)
    for missing in (record.indexes[:1], record.indexes[1:], ()):
        other = msgspec.structs.replace(document, images=(msgspec.structs.replace(record, indexes=missing),))
        told = dataclasses.replace(expected_bundle(other), images=expected_bundle(document).images)
        with pytest.raises(StoreCorrupt):
            _check_both(told, other, bodies)


def _check_both(expected: ExpectedBundle, document: Bundle, bodies: dict[Digest, bytes]) -> None:
    expected.check(document)
    check(document, bodies)


async def test_a_cancelled_build_can_be_repeated(builds: Builds) -> None:
    started = asyncio.Event()

    class Stuck(MemorySource):
        async def stream(self, reference: Reference, descriptor: Descriptor, offset: int = 0) -> AsyncGenerator[bytes]:
            async for chunk in super().stream(reference, descriptor, offset):
                yield chunk
                started.set()
                await asyncio.Event().wait()

    image = memory_image([tar("big", content=NOISE)])
    task = asyncio.ensure_future(builds.build(Stuck({"app:1": image}), "app:1"))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await builds.build(source(app=image), "app:1")).images


async def test_two_builds_at_once_make_a_layer_once(builds: Builds) -> None:
    image = memory_image([tar("big", content=NOISE)])
    one, two = source(app=image), source(app=image)
    documents = await asyncio.gather(
        builds.build(one, "app:1"), builds.build(two, "app:1", bundle_id="imc-" + "b" * 20)
    )
    assert len(asked(one, image) + asked(two, image)) == 1
    assert documents[0].images == documents[1].images


async def test_the_same_tar_gives_the_same_file(builds: Builds, tmp_path: Path) -> None:
    image = memory_image([BASE])
    first = await builds.build(source(app=image), "app:1")
    second = await Builds(tmp_path / "other").build(source(app=image), "app:1")
    assert first.images[0].layers[0].digest == second.images[0].layers[0].digest


async def test_layers_of_nothing(builds: Builds) -> None:
    image = memory_image([BASE, b"", tar("usr/", "usr/app"), b""])
    document = await builds.build(source(app=image), "app:1")
    layers = document.images[0].layers
    assert [layer.tar_size == 0 for layer in layers] == [False, True, False, True]
    assert layers[1].name == layers[3].name
    with builds.image(layers[1]) as opened:
        assert [path for path, _ in opened.walk()] == [()]
    alone = await builds.build(source(empty=memory_image([b""], compression="zstd")), "empty:1", bundle_id=OTHER)
    assert alone.images[0].layers[0].tar_size == 0


async def test_an_empty_blob_is_refused_by_name(builds: Builds) -> None:
    with pytest.raises(MalformedDocument, match="has the size 0"):
        await builds.build(source(app=memory_image([b""], compression="none")), "app:1")


async def test_one_layer_in_two_compressions(builds: Builds) -> None:
    """containerd 14000: manifests that share a config. Each names the blobs that its own registry has."""
    one, two = memory_image([BASE]), memory_image([BASE], compression="zstd")
    document = await builds.build(source(one=one, two=two), "one:1", "two:1")
    assert [image.layers[0].blob for image in document.images] == [one.layers[0], two.layers[0]]
    assert document.images[0].layers[0].name == document.images[1].layers[0].name
    bodies = {digest: builds.store.blobs.read(digest) for digest in document.document_digests()}
    check(document, bodies)


async def test_a_layer_that_grows_past_the_limit_of_its_cache_is_stopped(builds: Builds) -> None:
    """Before its tar is on the disk: zeros take next to nothing in zstd."""
    image = memory_image([tar("zeros", content=bytes(100 * MIB))], compression="zstd")
    assert image.layers[0].size < MIB
    with pytest.raises(ImageTooLarge, match="more than imageCacheSize"):
        await builds.build(source(app=image), "app:1", size_limit=64 * MIB)
    assert list(builds.store.layers.names()) == []


@pytest.mark.parametrize("known", [False, True])
async def test_compressed_bytes_whose_type_says_that_they_are_not(builds: Builds, *, known: bool) -> None:
    """containerd 10134: it takes them for a tar. A note says so, also when the store has the layer from elsewhere."""
    if known:
        await builds.build(source(other=memory_image([BASE])), "other:1", bundle_id=OTHER)
    images = source(app=relabelled(BASE, mediatypes.OCI_LAYER), plain=memory_image([APP], compression="none"))
    document = await builds.build(images, "app:1", "plain:1")
    noted, plain = document.images
    (note,) = noted.notes
    assert re.fullmatch(r"will not pull without the cache: layer [0-9a-f]{12} is compressed with gzip, .*", note)
    assert plain.notes == ()


async def test_a_foreign_layer_that_the_registry_has(builds: Builds) -> None:
    """As private registries keep layers of base images that may not be public; containerd pulls it like others."""
    document = await builds.build(source(app=relabelled(BASE, FOREIGN)), "app:1")
    assert [layer.tar_size for layer in document.images[0].layers] == [len(BASE)]
    assert document.images[0].notes == ()


async def test_a_foreign_layer_that_is_only_elsewhere(builds: Builds) -> None:
    image = relabelled(BASE, FOREIGN)
    (layer,) = image.layers
    rest = {digest: blob for digest, blob in image.blobs.items() if digest != layer.digest}
    hollow = dataclasses.replace(image, blobs=rest)
    with pytest.raises(UnsupportedMediaType, match=r"is foreign .* not in the registry"):
        await builds.build(source(app=hollow), "app:1")


def relabelled(layer: bytes, media_type: str) -> MemoryImage:
    """An image whose layer is compressed with gzip and has this type."""
    image = memory_image([layer])
    assert image.config is not None
    document = json.loads(image.body)
    document["layers"][0]["mediaType"] = media_type
    body = json.dumps(document).encode()
    digest = Digest.sha256(body)
    return dataclasses.replace(
        image,
        descriptor=msgspec.structs.replace(image.descriptor, digest=digest, size=len(body)),
        blobs={**image.blobs, digest: body},
        media_types={digest: image.descriptor.media_type},
    )
