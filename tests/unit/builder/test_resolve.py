"""From a reference to a manifest, as containerd goes: through indexes, by the platform that the index states."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from imagecache.builder.resolve import ResolvedImage, resolve
from imagecache.digest import Digest
from imagecache.errors import (
    ImageCacheError,
    LimitExceeded,
    MalformedDocument,
    NoMatchingPlatform,
    UnsupportedMediaType,
)
from imagecache.limits import DEFAULT, MIB
from imagecache.oci import mediatypes
from imagecache.oci.descriptor import Descriptor, Platform
from imagecache.oci.reference import Reference
from imagecache.oci.resolved import Resolved
from testkit.images_oci import AMD64, ARM64, MemoryImage, memory_document, memory_image, memory_index
from testkit.registry import MemorySource

REFERENCE = Reference.parse("app:1")
WINDOWS = Platform(os="windows", architecture="amd64")
ARM = Platform(os="linux", architecture="arm", variant="v7")
AMD64_V3 = Platform(os="linux", architecture="amd64", variant="v3")
AMD_IMAGE, ARM_IMAGE = memory_image([b"amd"]), memory_image([b"arm"], platform=ARM64)


async def of(image: MemoryImage, platform: Platform = AMD64) -> ResolvedImage:
    return await resolve(MemorySource({"app:1": image}), REFERENCE, platform, DEFAULT)


def digests(image: ResolvedImage) -> list[str]:
    return [descriptor.digest for descriptor in (*image.indexes, image.manifest)]


def nested(image: MemoryImage, depth: int) -> MemoryImage:
    for _ in range(depth):
        image = memory_index([image])
    return image


@pytest.mark.parametrize("depth", range(DEFAULT.index_depth + 1))
async def test_indexes_inside_indexes(depth: int) -> None:
    found = await of(nested(AMD_IMAGE, depth))

    assert len(found.indexes) == depth
    assert found.manifest.digest == AMD_IMAGE.descriptor.digest
    assert found.target.digest == nested(AMD_IMAGE, depth).descriptor.digest
    assert [descriptor.digest for descriptor, _ in found.documents[:-1]] == digests(found)
    assert (found.platform, found.notes) == (AMD64, ())


async def test_more_indexes_than_anybody_publishes() -> None:
    with pytest.raises(LimitExceeded, match=f"more than {DEFAULT.index_depth} indexes"):
        await of(nested(AMD_IMAGE, DEFAULT.index_depth + 1))


async def test_five_indexes_as_containerd_pulls_them() -> None:
    assert len((await of(nested(AMD_IMAGE, 5))).indexes) == 5


def large(image: MemoryImage, size: int) -> MemoryImage:
    """With a manifest of so many bytes and some."""
    body = image.body[:-1] + b',"padding":"%s"}' % (b"x" * size)
    descriptor = Descriptor(media_type=image.descriptor.media_type, digest=Digest.sha256(body), size=len(body))
    return replace(image, descriptor=descriptor, blobs={**image.blobs, descriptor.digest: body})


async def test_a_large_manifest_in_an_index_alone() -> None:
    """What the reference names has a smaller bound, in containerd too."""
    big = large(AMD_IMAGE, 5 * MIB)
    assert (await of(memory_index([big]))).manifest.size > 5 * MIB
    with pytest.raises(LimitExceeded, match=f"bytes in the manifest; the limit is {4 * 1048 * 1048}"):
        await of(big)


async def test_all_documents_together_are_bounded_before_they_are_read() -> None:
    limits = replace(DEFAULT, documents_size=2 * MIB)
    for image in (memory_index([large(AMD_IMAGE, 2 * MIB)]), large(AMD_IMAGE, 2 * MIB - len(AMD_IMAGE.body) - 20)):
        source = MemorySource({"app:1": image})
        with pytest.raises(LimitExceeded, match="bytes in all documents of the image; the limit is 2097152"):
            await resolve(source, REFERENCE, AMD64, limits)
        assert source.asked == []


async def test_the_outer_index_may_have_the_platforms() -> None:
    """ghcr.io/goauthentik/server: an index for each platform, with the image and its attestation."""
    attestation = replace(memory_image([b"x"]), platform=Platform(os="unknown", architecture="unknown"))
    inner = {each: memory_index([image, attestation]) for each, image in ((AMD64, AMD_IMAGE), (ARM64, ARM_IMAGE))}
    outer = memory_index([replace(inner[each], platform=each) for each in (ARM64, AMD64)])

    assert digests(await of(outer)) == [image.descriptor.digest for image in (outer, inner[AMD64], AMD_IMAGE)]
    assert digests(await of(outer, ARM64))[1:] == [image.descriptor.digest for image in (inner[ARM64], ARM_IMAGE)]


async def test_the_platform_of_the_entry_counts_and_not_that_of_the_config() -> None:
    listed = memory_index([replace(ARM_IMAGE, platform=AMD64), replace(AMD_IMAGE, platform=ARM64)])

    found = await of(listed)

    assert (found.manifest.digest, found.platform) == (ARM_IMAGE.descriptor.digest, AMD64)
    (note,) = found.notes
    assert note.startswith("its config says linux/arm64, and nodes of linux/amd64 take it")


async def test_a_manifest_that_no_index_lists_is_for_every_platform() -> None:
    found = await of(ARM_IMAGE)

    assert (found.manifest.digest, found.platform) == (ARM_IMAGE.descriptor.digest, AMD64)
    assert "linux/arm64" in found.notes[0]


@pytest.mark.parametrize("config", [ARM64, Platform(os="linux")])
async def test_the_config_counts_when_the_entry_has_no_platform(config: Platform) -> None:
    unlisted = replace(memory_image([b"x"], platform=config), platform=None)

    with pytest.raises(NoMatchingPlatform):
        await of(memory_index([unlisted]))
    assert (await of(memory_index([replace(AMD_IMAGE, platform=None)]))).platform == AMD64


@pytest.mark.parametrize(
    ("entry", "error"),
    [
        ({"mediaType": "application/json", "digest": "sha256:" + "a" * 64, "size": 5}, UnsupportedMediaType),
        ({"mediaType": mediatypes.OCI_MANIFEST, "digest": "sha256:a", "size": 5}, MalformedDocument),
        ({"mediaType": mediatypes.OCI_MANIFEST, "digest": "sha256:" + "a" * 64, "size": 0}, MalformedDocument),
        ({"mediaType": mediatypes.OCI_MANIFEST, "digest": "sha256:" + "a" * 64, "size": 1 << 40}, LimitExceeded),
    ],
)
async def test_an_entry_that_cannot_be_an_image(entry: dict[str, object], error: type[ImageCacheError]) -> None:
    listed = {**entry, "platform": {"os": "linux", "architecture": "amd64"}}

    with pytest.raises(error):
        await of(memory_document(mediatypes.OCI_INDEX, {"schemaVersion": 2, "manifests": [listed]}))


class Untyped(MemorySource):
    """A registry that says ``application/json``."""

    async def resolve(self, reference: Reference) -> Resolved:
        return replace(await super().resolve(reference), typed=False)


@pytest.mark.parametrize(
    "image", [memory_image([b"x"], platform=WINDOWS), memory_index([memory_image([b"x"], platform=WINDOWS)])]
)
async def test_a_config_for_another_os(image: MemoryImage) -> None:
    with pytest.raises(NoMatchingPlatform, match="only for windows/amd64"):
        await of(image)


async def test_what_only_the_cache_makes_usable_is_noted() -> None:
    untyped = await resolve(Untyped({"app:1": AMD_IMAGE}), REFERENCE, AMD64, DEFAULT)
    zstd = await of(memory_image([b"x"], compression="zstd", docker=True))

    (note,) = untyped.notes
    assert note.startswith("will not pull without the cache: the registry's Content-Type")
    (note,) = zstd.notes
    assert note.startswith("will not pull without the cache by containerd 1.6")


def listed(image: MemoryImage, **platform: object) -> MemoryImage:
    descriptor = {"mediaType": image.descriptor.media_type, "digest": image.descriptor.digest}
    entry = {**descriptor, "size": image.descriptor.size, "platform": {"os": "linux", **platform}}
    index = memory_document(mediatypes.OCI_INDEX, {"schemaVersion": 2, "manifests": [entry]})
    return replace(index, blobs={**image.blobs, **index.blobs}, media_types={**image.media_types, **index.media_types})


@pytest.mark.parametrize(
    ("entry", "node", "said"),
    [
        ({"architecture": "386"}, AMD64, "linux/386 and not linux/amd64"),
        ({"architecture": "i386"}, AMD64, "linux/386 and not linux/amd64"),
        ({"architecture": "arm", "variant": "v7"}, ARM64, "linux/arm/v7 and not linux/arm64"),
        ({"architecture": "arm", "variant": "v6"}, ARM, "linux/arm/v6 and not linux/arm/v7"),
        ({"architecture": "amd64", "variant": "v2"}, AMD64_V3, "linux/amd64/v2 and not linux/amd64/v3"),
        ({"architecture": "x86_64"}, AMD64, ""),
        ({"architecture": "arm64", "variant": "v8"}, ARM64, ""),
        ({"architecture": "arm"}, ARM, ""),
    ],
)
async def test_an_entry_that_2_4_does_not_take_is_noted(entry: dict[str, object], node: Platform, said: str) -> None:
    """``Ordered`` with the node's platform alone, where 1.6 has ``Only``."""
    note = f"will not pull without the cache by containerd 2.4: its index has it for {said}"
    plain = memory_image([b"x"], platform=node)

    unlisted = memory_index([replace(plain, platform=None)])
    for image in (listed(plain, **entry), listed(unlisted, **entry), listed(listed(plain, **entry), **entry)):
        assert [each.partition(", and")[0] for each in (await of(image, node)).notes] == ([note] if said else [])


async def test_os_features_in_a_config_are_noted() -> None:
    """2.4 fetches such an image and does not unpack it; 1.6 does not look at them."""
    image = memory_image([b"x"])
    assert image.config is not None
    config = image.blobs[image.config.digest][:-1] + b',"os.features":["f"]}'
    digest = Digest.sha256(config)
    body = json.loads(image.body)
    body["config"] |= {"digest": digest, "size": len(config)}
    featured = memory_document(mediatypes.OCI_MANIFEST, body)
    featured = replace(featured, blobs={**image.blobs, **featured.blobs, digest: config})

    for each in (featured, listed(featured, architecture="amd64")):
        stated, unpacked = (await of(each)).notes
        assert stated.startswith("its config says linux(+f)/amd64, and nodes of linux/amd64 take it")
        assert unpacked.startswith("will not pull without the cache by containerd 2.4: its config says linux(+f)/amd64")
    with pytest.raises(NoMatchingPlatform, match=r"for linux/amd64, only for linux\(\+f\)/amd64"):
        await of(memory_index([replace(featured, platform=None)]))


async def test_other_addresses_of_a_layer_are_noted() -> None:
    image = memory_image([b"x"])
    document = json.loads(image.body)
    document["layers"][0]["urls"] = ["https://example.com/layer"]
    body = json.dumps(document).encode()
    digest = Digest.sha256(body)
    descriptor = Descriptor(media_type=image.descriptor.media_type, digest=digest, size=len(body))
    elsewhere = replace(image, descriptor=descriptor, blobs={**image.blobs, digest: body})

    assert (await of(elsewhere)).notes == (
        "may not pull without the cache: containerd asks the servers in its layers' urls first",
    )
