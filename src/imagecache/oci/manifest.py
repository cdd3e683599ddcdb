"""Indexes, manifests and image configs: bytes in, checked values out.

Bounded by ``Limits``, and strict where two readers could see two different images (CVE-2021-41190): a document that is
index and manifest at once, or that states another type than its descriptor, is refused as in containerd
(``core/images/image.go``, validateMediaType). Unknown fields are ignored. ``null`` lists are empty lists, because Go
writes them so. It must not check the digest of the bytes (the caller has done so) and must not do I/O.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from imagecache.digest import DiffID
from imagecache.errors import InvalidDigest, LimitExceeded, MalformedDocument
from imagecache.limits import DEFAULT, Limits
from imagecache.oci import mediatypes
from imagecache.oci.descriptor import Descriptor, Platform, decode_hook

_T = TypeVar("_T")
_SCHEMA_VERSION = 2
_ABSENT = msgspec.Raw()


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """An image index, or Docker's manifest list."""

    media_type: str
    manifests: tuple[Descriptor, ...]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """An image manifest: its config and its layers, bottom first."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]

    @property
    def size(self) -> int:
        """Compressed bytes of all layers; repeated ones count once."""
        return sum({layer.digest: layer.size for layer in self.layers}.values())


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of an image config that we use: platform and diffIDs of the layers, bottom first."""

    platform: Platform
    diff_ids: tuple[DiffID, ...]


class _Document(msgspec.Struct, rename="camel"):
    """Index and manifest in one, so that a mixture of both is detected."""

    schema_version: int = 0
    media_type: str = ""
    config: Descriptor | None = None
    layers: tuple[Descriptor, ...] | None = None
    manifests: tuple[Descriptor, ...] | None = None
    fs_layers: msgspec.Raw = _ABSENT
    artifact_type: str = ""


class _RootFS(msgspec.Struct):
    type: str = ""
    diff_ids: tuple[DiffID, ...] | None = None


class _Config(msgspec.Struct):
    rootfs: _RootFS
    os: str = ""
    architecture: str = ""
    variant: str = ""
    os_version: str = msgspec.field(default="", name="os.version")
    os_features: tuple[str, ...] | None = msgspec.field(default=None, name="os.features")


class _Typed(msgspec.Struct, rename="camel"):
    media_type: str = ""
    schema_version: int = 0
    manifests: msgspec.Raw = _ABSENT
    config: msgspec.Raw = _ABSENT


def detect_media_type(data: bytes, content_type: str, limits: Limits = DEFAULT) -> str:
    """Media type of a registry's answer: from its Content-Type, else from the document's own field, else by its shape.

    Registries that serve plain files send ``application/json`` or nothing. Raises MalformedDocument, LimitExceeded.
    """
    named = content_type.partition(";")[0].strip().lower()
    if named.startswith("application/vnd."):
        return named
    document = _decode(data, _Typed, "manifest", limits.manifest_size)
    if document.media_type:
        return document.media_type
    # Schema 1 has no mediaType of its own; naming it gives the user the reason instead of "malformed".
    if document.schema_version == 1:
        return "application/vnd.docker.distribution.manifest.v1+json"
    if document.manifests:
        return mediatypes.OCI_INDEX
    return mediatypes.OCI_MANIFEST if document.config else named


def parse_document(data: bytes, media_type: str, limits: Limits = DEFAULT) -> Index | Manifest:
    """Parse the document of a reference. Raises MalformedDocument, LimitExceeded, UnsupportedMediaType."""
    if mediatypes.is_index(media_type):
        return parse_index(data, media_type, limits)
    return parse_manifest(data, media_type, limits)


def parse_index(data: bytes, media_type: str, limits: Limits = DEFAULT) -> Index:
    """Parse an index. Raises MalformedDocument, LimitExceeded, UnsupportedMediaType."""
    if not mediatypes.is_index(media_type):
        mediatypes.check_resolved(media_type)
        raise MalformedDocument(f"expected an index, got a manifest ({media_type})")
    document = _document(data, media_type, limits)
    if document.config is not None or document.layers is not None or mediatypes.is_manifest(document.media_type):
        raise MalformedDocument("the index has fields of a manifest", hint=_PUSH_AGAIN)
    manifests = document.manifests or ()
    _bounded(len(manifests), limits.index_entries, "manifests in the index")
    for entry in manifests:
        _sized(entry, limits.manifest_size, "a manifest of the index")
    return Index(media_type=media_type, manifests=manifests)


def parse_manifest(data: bytes, media_type: str, limits: Limits = DEFAULT) -> Manifest:
    """Parse a manifest of a container image. Raises MalformedDocument, LimitExceeded, UnsupportedMediaType."""
    if not mediatypes.is_manifest(media_type):
        mediatypes.check_resolved(media_type)
        raise MalformedDocument(f"expected a manifest, got an index ({media_type})")
    document = _document(data, media_type, limits)
    if document.manifests is not None or mediatypes.is_index(document.media_type):
        raise MalformedDocument("the manifest has fields of an index", hint=_PUSH_AGAIN)
    if document.config is None:
        raise MalformedDocument("the manifest has no config", hint=_PUSH_AGAIN)
    mediatypes.check_config(document.config.media_type)
    _sized(document.config, limits.config_size, "the config")
    return Manifest(media_type=media_type, config=document.config, layers=_layers(document.layers or (), limits))


def parse_config(data: bytes, manifest: Manifest, limits: Limits = DEFAULT) -> ImageConfig:
    """Parse the config of ``manifest``. Raises MalformedDocument, LimitExceeded."""
    config = _decode(data, _Config, "config", limits.config_size)
    if config.rootfs.type != "layers":  # the only type of the specification
        raise MalformedDocument(f"rootfs.type of the config is {config.rootfs.type[:40]!r}, not 'layers'")
    diff_ids = config.rootfs.diff_ids or ()
    if len(diff_ids) != len(manifest.layers):
        raise MalformedDocument(
            f"the config has {len(diff_ids)} diff_ids for the {len(manifest.layers)} layers of the manifest",
            hint=_PUSH_AGAIN,
        )
    platform = Platform(
        os=config.os,
        architecture=config.architecture,
        variant=config.variant,
        os_version=config.os_version,
        os_features=config.os_features or (),
    )
    return ImageConfig(platform=platform, diff_ids=diff_ids)


_PUSH_AGAIN = "build and push the image again"


def _document(data: bytes, media_type: str, limits: Limits) -> _Document:
    document = _decode(data, _Document, "manifest", limits.manifest_size)
    if document.fs_layers or document.schema_version == 1:
        mediatypes.check_resolved("application/vnd.docker.distribution.manifest.v1+json")
    if document.schema_version != _SCHEMA_VERSION:
        raise MalformedDocument(f"schemaVersion is {document.schema_version}, not 2", hint=_PUSH_AGAIN)
    # The field is optional in OCI documents, so only a contradiction is an error.
    if document.media_type and document.media_type != media_type:
        raise MalformedDocument(
            f"the document states the type {document.media_type[:127]}, its descriptor {media_type}",
            hint=_PUSH_AGAIN,
        )
    return document


def _layers(layers: tuple[Descriptor, ...], limits: Limits) -> tuple[Descriptor, ...]:
    _bounded(len(layers), limits.layers, "layers")
    sizes: dict[str, int] = {}
    for layer in layers:
        mediatypes.check_layer(layer.media_type)
        _sized(layer, limits.layer_compressed, "a layer")
        # One digest cannot have two sizes; the download of the smaller one would end in the middle of the other.
        if sizes.setdefault(layer.digest, layer.size) != layer.size:
            raise MalformedDocument(f"layer {layer.digest} occurs twice, with two sizes", hint=_PUSH_AGAIN)
    return layers


def _sized(descriptor: Descriptor, bound: int, what: str) -> None:
    if descriptor.size < 0:
        raise MalformedDocument(f"{what} ({descriptor.digest}) has the size {descriptor.size}", hint=_PUSH_AGAIN)
    if descriptor.size > bound:
        raise LimitExceeded(f"{what} ({descriptor.digest}) has {descriptor.size} bytes; the limit is {bound}")


def _bounded(count: int, bound: int, what: str) -> None:
    if count > bound:
        raise LimitExceeded(f"{count} {what}; the limit is {bound}")


def _decode(data: bytes, kind: type[_T], what: str, bound: int) -> _T:
    _bounded(len(data), bound, f"bytes in the {what}")  # before the parser sees them
    try:
        return msgspec.json.decode(data, type=kind, dec_hook=decode_hook)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedDocument(f"the {what} is malformed: {str(error)[:300]}", hint=_PUSH_AGAIN) from error
    except InvalidDigest as error:
        raise MalformedDocument(f"the {what} is malformed: {error.message}", hint=_PUSH_AGAIN) from error
