"""Answers as registries, caches and web servers send them: encodings, types, lengths, other documents."""

from __future__ import annotations

import pytest

from imagecache.digest import Digest
from imagecache.errors import DigestMismatch, LimitExceeded, MalformedDocument, ProtocolViolation, UnsupportedMediaType
from imagecache.limits import Limits
from imagecache.oci import mediatypes
from imagecache.oci.reference import Reference
from testkit.images_oci import MemoryImage, memory_document
from testkit.registry import FakeRegistry

from .conftest import CONTENT, Connect, read


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "GZIP"])
async def test_an_encoding_that_was_not_asked_for_is_undone(
    connect: Connect, registry: FakeRegistry, reference: Reference, image: MemoryImage, encoding: str
) -> None:
    assert image.config is not None
    registry.faults.encoding, registry.faults.encode = encoding, True
    client = await connect()
    for header in (None, ""):
        registry.faults.digest_header = header
        assert (await client.resolve(reference)).body == image.body
    assert await client.document(reference, image.config) == image.blobs[image.config.digest]
    assert await read(client, reference, image.layers[0]) == CONTENT
    assert await read(client, reference, image.layers[0], 1_000_000) == CONTENT[1_000_000:]


async def test_an_encoded_blob_goes_on_from_its_start(
    connect: Connect, registry: FakeRegistry, reference: Reference, image: MemoryImage
) -> None:
    registry.faults.encoding, registry.faults.encode = "gzip", True
    registry.faults.truncate.extend([1_500_000, 2_500_000])

    assert await read(await connect(), reference, image.layers[0]) == CONTENT


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "br"])
async def test_an_encoding_that_is_only_stated(
    connect: Connect, registry: FakeRegistry, reference: Reference, image: MemoryImage, encoding: str
) -> None:
    """moby 17595: a web server speaks of the layer's own compression."""
    assert image.config is not None
    registry.faults.encoding = encoding
    client = await connect()

    assert (await client.resolve(reference)).body == image.body
    assert await client.document(reference, image.config) == image.blobs[image.config.digest]
    assert await read(client, reference, image.layers[0]) == CONTENT
    assert await read(client, reference, image.layers[0], 1000) == CONTENT[1000:]


async def test_another_encoding_is_refused(
    connect: Connect, registry: FakeRegistry, reference: Reference, image: MemoryImage
) -> None:
    assert image.config is not None
    registry.faults.encoding, registry.faults.encode = "br", True
    client = await connect()

    with pytest.raises(ProtocolViolation, match="Content-Encoding that was not requested"):
        await client.resolve(reference)
    with pytest.raises(ProtocolViolation, match="Content-Encoding that was not requested"):
        await client.document(reference, image.config)
    with pytest.raises(ProtocolViolation, match="Content-Encoding that was not requested"):
        await read(client, reference, image.layers[0])


async def test_an_encoding_of_other_bytes(
    connect: Connect, registry: FakeRegistry, reference: Reference, image: MemoryImage
) -> None:
    assert image.config is not None
    registry.faults.encoding, registry.faults.encode = "gzip", True
    registry.faults.replace[image.config.digest] = image.blobs[image.config.digest][:-1] + b" "
    client = await connect()

    with pytest.raises(DigestMismatch):
        await client.document(reference, image.config)
    registry.faults.replace[image.config.digest] = bytes(50_000_000)
    with pytest.raises(LimitExceeded):
        await client.document(reference, image.config)
    registry.faults.replace[image.layers[0].digest] = CONTENT + b"more"
    with pytest.raises(ProtocolViolation, match="sends more than"):
        await read(client, reference, image.layers[0])
    registry.faults.encode = False
    registry.faults.replace[image.config.digest] = b"neither the config nor gzip"
    with pytest.raises(ProtocolViolation, match="broken gzip encoding"):
        await client.document(reference, image.config)


async def test_documents_without_a_length(
    connect: Connect, registry: FakeRegistry, reference: Reference, image: MemoryImage
) -> None:
    """containerd 5124: Trow sent none."""
    assert image.config is not None
    registry.faults.chunked = True

    assert await (await connect()).document(reference, image.config) == image.blobs[image.config.digest]


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", mediatypes.OCI_MANIFEST.upper()])
async def test_a_manifest_without_its_type(
    connect: Connect, registry: FakeRegistry, reference: Reference, image: MemoryImage, content_type: str
) -> None:
    client = await connect()
    assert (await client.resolve(reference)).typed
    registry.faults.content_type = content_type

    resolved = await client.resolve(reference)

    assert (resolved.descriptor, resolved.typed) == (image.descriptor, False)


async def test_a_web_page_is_no_manifest(connect: Connect, registry: FakeRegistry, reference: Reference) -> None:
    registry.faults.content_type = "text/html"

    with pytest.raises(ProtocolViolation, match="answers with a web page"):
        await (await connect()).resolve(reference)


async def test_schema_1(connect: Connect, registry: FakeRegistry) -> None:
    old = memory_document("application/vnd.docker.distribution.manifest.v1+prettyjws", {"schemaVersion": 1})
    reference = Reference.parse(registry.push("team/old:1", old))

    with pytest.raises(UnsupportedMediaType, match="schema 1") as caught:
        await (await connect()).resolve(reference)

    assert caught.value.image == reference.original


async def test_a_manifest_that_is_not_json(
    connect: Connect, registry: FakeRegistry, reference: Reference, image: MemoryImage
) -> None:
    registry.faults.content_type = "application/json"
    registry.faults.replace[image.descriptor.digest] = b"<xml>"
    registry.faults.digest_header = Digest.sha256(b"<xml>")

    with pytest.raises(MalformedDocument):
        await (await connect()).resolve(reference)


async def test_a_manifest_that_is_too_long(connect: Connect, reference: Reference) -> None:
    client = await connect(limits=Limits(manifest_size=100))

    with pytest.raises(LimitExceeded, match="more than 100 bytes") as caught:
        await client.resolve(reference)

    assert caught.value.image == reference.original


async def test_a_config_that_does_not_end(
    connect: Connect, registry: FakeRegistry, reference: Reference, image: MemoryImage
) -> None:
    assert image.config is not None
    registry.faults.chunked = True
    registry.faults.replace[image.config.digest] = bytes(3_000_000)

    with pytest.raises(LimitExceeded, match="more than 1000000 bytes"):
        await (await connect(limits=Limits(config_size=1_000_000))).document(reference, image.config)
