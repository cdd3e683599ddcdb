"""Indexes, manifests and image configs: bytes in, checked values out.

What containerd 1.6 and 2.4 accept is accepted, with the same meaning, and what both refuse is refused by name. So the
type of a document is its descriptor's; one that states the type of the other kind, or has fields of the other kind
(``null`` is one), is refused, since two readers could see two different images (CVE-2021-41190; containerd
``core/images/image.go``, validateMediaType). Nobody looks at ``schemaVersion``. JSON is read as Go reads it
(``foreign_json``), within the bounds of ``Limits``. It must not check the digest of the bytes (the caller has done so)
and must not do I/O.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from imagecache import foreign_json
from imagecache.digest import DiffID, Digest
from imagecache.errors import InvalidDigest, LimitExceeded, MalformedDocument, UnsupportedMediaType
from imagecache.limits import DEFAULT, Limits
from imagecache.oci import mediatypes
from imagecache.oci.descriptor import Descriptor, Platform, decode_hook
from imagecache.oci.shapes import AnyDescriptor, ConfigShape, IndexShape, ManifestShape, Shape

_T = TypeVar("_T")
_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+json"
_PUSH_AGAIN = "build and push the image again"


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """An image index, or Docker's manifest list."""

    media_type: str
    manifests: tuple[AnyDescriptor, ...]
    """Only the one that is chosen has to be right (``chosen``), as in containerd."""

    @property
    def digests(self) -> tuple[Digest, ...]:
        """Of the entries; those that have no valid one are left out."""
        return tuple(digest for entry in self.manifests if (digest := entry.known_digest) is not None)


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """An image manifest: its config and its layers, bottom first."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    """Those that are tars: containerd unpacks no others, and the config has diffIDs for no others."""

    @property
    def size(self) -> int:
        """Compressed bytes of all layers; repeated ones count once."""
        return sum({layer.digest: layer.size for layer in self.layers}.values())


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of an image config that we use: platform and diffIDs of the layers, bottom first."""

    platform: Platform
    diff_ids: tuple[DiffID, ...]


def detect_media_type(data: bytes, content_type: str, limits: Limits = DEFAULT) -> str:
    """Media type of a registry's answer: from its Content-Type, else from the document's own field, else by its shape.

    Registries that serve plain files send ``application/json`` or nothing. Raises MalformedDocument, LimitExceeded.
    """
    named = content_type.partition(";")[0].strip().lower()
    if named.startswith("application/vnd."):
        return named
    shape = _decode(data, Shape, "manifest", limits)
    if shape.media_type:
        return shape.media_type
    # Schema 1 has no mediaType of its own; naming it gives the user the reason instead of "malformed".
    if shape.schema_version == 1:
        return _SCHEMA_1
    if shape.manifests is not msgspec.UNSET:
        return mediatypes.OCI_INDEX
    return named if shape.config is msgspec.UNSET else mediatypes.OCI_MANIFEST


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
    shape = _shape(data, "index", limits)
    mixed = shape.config is not msgspec.UNSET or shape.layers is not msgspec.UNSET
    if mixed or mediatypes.is_manifest(shape.media_type):
        raise MalformedDocument("the index has fields of a manifest", hint=_PUSH_AGAIN)
    listed = len(shape.manifests) if isinstance(shape.manifests, list) else 0
    _bounded(listed, limits.index_entries, "manifests in the index")  # before there is an object for each
    manifests = _decode(data, IndexShape, "index", limits).manifests
    return Index(media_type=media_type, manifests=manifests)


def chosen(entry: AnyDescriptor, limits: Limits = DEFAULT) -> Descriptor:
    """An entry of an index, to be used. Raises MalformedDocument, LimitExceeded, UnsupportedMediaType."""
    mediatypes.check_resolved(entry.media_type)
    return _checked(entry, limits.manifest_size, "a manifest of the index")


def parse_manifest(data: bytes, media_type: str, limits: Limits = DEFAULT) -> Manifest:
    """Parse a manifest of a container image. Raises MalformedDocument, LimitExceeded, UnsupportedMediaType."""
    if not mediatypes.is_manifest(media_type):
        mediatypes.check_resolved(media_type)
        raise MalformedDocument(f"expected a manifest, got an index ({media_type})")
    shape = _shape(data, "manifest", limits)
    if shape.manifests is not msgspec.UNSET or mediatypes.is_index(shape.media_type):
        raise MalformedDocument("the manifest has fields of an index", hint=_PUSH_AGAIN)
    document = _decode(data, ManifestShape, "manifest", limits)
    if document.config is None:
        raise MalformedDocument("the manifest has no config", hint=_PUSH_AGAIN)
    mediatypes.check_config(document.config.media_type)
    config = _checked(document.config, limits.config_size, "the config")
    return Manifest(media_type=media_type, config=config, layers=_layers(document.layers, limits))


def parse_config(data: bytes, manifest: Manifest, limits: Limits = DEFAULT) -> ImageConfig:
    """Parse the config of ``manifest``. Raises MalformedDocument, LimitExceeded."""
    config = _decode(data, ConfigShape, "config", limits)
    if config.rootfs.type not in {"", "layers"}:  # containerd 2.4 does not unpack others (core/unpack/unpacker.go)
        raise MalformedDocument(f"rootfs.type of the config is {config.rootfs.type[:40]!r}, not 'layers'")
    diff_ids = config.rootfs.diff_ids
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
        os_features=config.os_features,
    )
    return ImageConfig(platform=platform, diff_ids=diff_ids)


def _shape(data: bytes, what: str, limits: Limits) -> Shape:
    shape = _decode(data, Shape, what, limits)
    if shape.fs_layers is not msgspec.UNSET:
        mediatypes.check_resolved(_SCHEMA_1)
    return shape


def _layers(listed: tuple[AnyDescriptor, ...], limits: Limits) -> tuple[Descriptor, ...]:
    checked = [_checked(each, limits.layer_compressed, "a layer") for each in listed]  # containerd fetches them all
    layers = tuple(layer for layer in checked if mediatypes.is_layer(layer.media_type))
    if listed and not layers:
        raise UnsupportedMediaType(
            f"no layer of the image is a tar archive; the first is of type {mediatypes.shown(listed[0].media_type)}",
            hint="layers are tar, tar+gzip or tar+zstd, of OCI or Docker",
        )
    _bounded(len(layers), limits.layers, "layers")
    sizes: dict[str, int] = {}
    for layer in layers:
        mediatypes.check_layer(layer.media_type)
        # One digest cannot have two sizes; the download of the smaller one would end in the middle of the other.
        if sizes.setdefault(layer.digest, layer.size) != layer.size:
            raise MalformedDocument(f"layer {layer.digest} occurs twice, with two sizes", hint=_PUSH_AGAIN)
    return layers


def _checked(descriptor: AnyDescriptor, bound: int, what: str) -> Descriptor:
    """To be fetched. No blob is empty, and containerd fetches none that is (core/remotes/handlers.go, Fetch)."""
    try:
        checked = descriptor.checked()
    except MalformedDocument as error:
        raise MalformedDocument(f"{what}: {error.message}", hint=_PUSH_AGAIN) from error
    if checked.size <= 0:
        raise MalformedDocument(f"{what} ({checked.digest}) has the size {checked.size}", hint=_PUSH_AGAIN)
    if checked.size > bound:
        raise LimitExceeded(f"{what} ({checked.digest}) has {checked.size} bytes; the limit is {bound}")
    return checked


def _bounded(count: int, bound: int, what: str) -> None:
    if count > bound:
        raise LimitExceeded(f"{count} {what}; the limit is {bound}")


def _decode(data: bytes, kind: type[_T], what: str, limits: Limits) -> _T:
    """What the parser will need is bounded before it sees anything."""
    _bounded(len(data), limits.config_size if kind is ConfigShape else limits.manifest_size, f"bytes in the {what}")
    try:
        return foreign_json.decode(data, kind, hook=decode_hook, values=limits.json_values)
    except (MalformedDocument, InvalidDigest) as error:
        raise MalformedDocument(f"the {what} is malformed: {error.message[:300]}", hint=_PUSH_AGAIN) from error
