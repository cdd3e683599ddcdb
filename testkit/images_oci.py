"""Images in memory: layers given as tars, documents as the specification has them, every byte known.

For tests that need no disk; ``oci_layout`` makes the same on disk. Same input, same bytes.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import zstandard

from imagecache.digest import DiffID, Digest
from imagecache.oci import mediatypes
from imagecache.oci.descriptor import Descriptor, Platform
from testkit.oci_layout import Compression

AMD64 = Platform(os="linux", architecture="amd64")
ARM64 = Platform(os="linux", architecture="arm64")

_LAYERS: Mapping[tuple[bool, Compression], str] = {
    (False, "none"): mediatypes.OCI_LAYER,
    (False, "gzip"): mediatypes.OCI_LAYER_GZIP,
    (False, "zstd"): mediatypes.OCI_LAYER_ZSTD,
    (True, "none"): mediatypes.DOCKER_LAYER,
    (True, "gzip"): mediatypes.DOCKER_LAYER_GZIP,
    (True, "zstd"): mediatypes.DOCKER_LAYER_ZSTD,
}


@dataclass(frozen=True, slots=True)
class MemoryImage:
    """An index or a manifest with everything below it."""

    descriptor: Descriptor
    """Of the index or manifest."""
    platform: Platform | None
    """None for an index."""
    blobs: Mapping[Digest, bytes]
    """Documents and layers."""
    media_types: Mapping[Digest, str]
    """Of the indexes and manifests among the blobs."""
    config: Descriptor | None = None
    """None for an index."""
    layers: tuple[Descriptor, ...] = ()
    diff_ids: tuple[DiffID, ...] = ()

    @property
    def body(self) -> bytes:
        return self.blobs[self.descriptor.digest]


def compress(tar: bytes, compression: Compression) -> bytes:
    """Fixed headers, so the same bytes every time."""
    if compression == "gzip":
        packer = zlib.compressobj(1, zlib.DEFLATED, 31)
        return packer.compress(tar) + packer.flush()
    return zstandard.compress(tar, 1) if compression == "zstd" else tar


def memory_image(
    layers: Sequence[bytes],
    *,
    platform: Platform = AMD64,
    compression: Compression = "gzip",
    docker: bool = False,
) -> MemoryImage:
    """An image of these tars, the bottom layer first."""
    packed = [compress(tar, compression) for tar in layers]
    described = tuple(_describe(_LAYERS[docker, compression], blob) for blob in packed)
    diff_ids = tuple(DiffID(Digest.sha256(tar)) for tar in layers)
    config = _json(
        {
            "os": platform.os,
            "architecture": platform.architecture,
            **({"variant": platform.variant} if platform.variant else {}),
            "config": {"Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
        }
    )
    config_descriptor = _describe(mediatypes.DOCKER_CONFIG if docker else mediatypes.OCI_CONFIG, config)
    media_type = mediatypes.DOCKER_MANIFEST if docker else mediatypes.OCI_MANIFEST
    document = {"config": _record(config_descriptor), "layers": [_record(layer) for layer in described]}
    body = _json({"schemaVersion": 2, "mediaType": media_type, **document})
    descriptor = _describe(media_type, body)
    return MemoryImage(
        descriptor=descriptor,
        platform=platform,
        blobs={Digest.sha256(blob): blob for blob in [*packed, config, body]},
        media_types={descriptor.digest: media_type},
        config=config_descriptor,
        layers=described,
        diff_ids=diff_ids,
    )


def memory_index(images: Iterable[MemoryImage], *, docker: bool = False) -> MemoryImage:
    """An index of images for several platforms."""
    members = tuple(images)
    media_type = mediatypes.DOCKER_LIST if docker else mediatypes.OCI_INDEX
    entries = [_record(member.descriptor, member.platform) for member in members]
    body = _json({"schemaVersion": 2, "mediaType": media_type, "manifests": entries})
    descriptor = _describe(media_type, body)
    blobs = {digest: blob for member in members for digest, blob in member.blobs.items()}
    types = {digest: kind for member in members for digest, kind in member.media_types.items()}
    return MemoryImage(
        descriptor=descriptor,
        platform=None,
        blobs={**blobs, descriptor.digest: body},
        media_types={**types, descriptor.digest: media_type},
    )


def memory_document(media_type: str, document: object) -> MemoryImage:
    """Any JSON document where an image is expected."""
    body = _json(document)
    descriptor = _describe(media_type, body)
    return MemoryImage(
        descriptor=descriptor,
        platform=None,
        blobs={descriptor.digest: body},
        media_types={descriptor.digest: media_type},
    )


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _describe(media_type: str, blob: bytes) -> Descriptor:
    return Descriptor(media_type=media_type, digest=Digest.sha256(blob), size=len(blob))


def _record(descriptor: Descriptor, platform: Platform | None = None) -> dict[str, object]:
    record: dict[str, object] = {
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest,
        "size": descriptor.size,
    }
    if platform is not None:
        variant = {"variant": platform.variant} if platform.variant else {}
        record["platform"] = {"os": platform.os, "architecture": platform.architecture, **variant}
    return record
