"""What the store remembers: layer names, and the bundle document.

A bundle is the immutable result of building an ImageCache. Its document is JSON, stored as a blob, and says for every
image which manifest and config it has and which layer image serves each layer. It must not do I/O.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from pathlib import Path

import msgspec

from imagecache.digest import ChainID, DiffID, Digest
from imagecache.errors import InvalidInput
from imagecache.oci.descriptor import Descriptor, Platform

BUNDLE_MEDIA_TYPE = "application/vnd.imagecache.bundle.v1+json"
_NAME = re.compile(r"(layers|chains)/(sha256|sha512):([0-9a-f]+)")


class Space(enum.StrEnum):
    """The two key spaces of layer images."""

    LAYERS = "layers"
    """Keyed by diffID: right at any place of any image, so containerd >= 2.4 may read it by itself."""
    CHAINS = "chains"
    """Keyed by chainID: right on top of exactly these layers (implied parents, bottom-layer whiteouts)."""


class LayerName(msgspec.Struct, frozen=True, order=True):
    """Names a layer image in the store; as text ``layers/sha256:<hex>``."""

    space: Space
    digest: Digest

    def __str__(self) -> str:
        return f"{self.space.value}/{self.digest}"

    @property
    def path(self) -> str:
        """Path below the store's root. ``layers/`` is containerd 2.4's own ``layer_content_caches`` layout."""
        digest = self.digest
        return f"{self.space.value}/{digest.algorithm}/{digest.hex[:2]}/{digest.hex}.erofs"

    @classmethod
    def parse(cls, text: str) -> LayerName:
        match = _NAME.fullmatch(text)
        if match is None:
            raise InvalidInput(
                f"not a layer name: {text[:160]!r}", hint="expected layers/sha256:<hex> or chains/sha256:<hex>"
            )
        return cls(space=Space(match[1]), digest=Digest(f"{match[2]}:{match[3]}"))


@dataclass(frozen=True, slots=True)
class ServedLayer:
    """A layer image that serves one chainID on this node. Its file was there when this was made; hold it to keep it."""

    chain_id: ChainID
    diff_id: DiffID
    parent: ChainID | None
    """ChainID of the layer below; None for a bottom layer."""
    name: LayerName
    path: Path
    size: int
    """Bytes of the layer image file."""


class LayerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One layer of one image, and the layer image that serves it."""

    diff_id: DiffID
    chain_id: ChainID
    name: LayerName
    blob: Descriptor
    """The layer as the registry has it (compressed)."""
    size: int
    """Bytes of the layer image file."""
    sha256: Digest
    """Digest of the layer image file."""
    tar_size: int
    """Bytes of the uncompressed tar."""
    entries: int
    """Names in the layer's tree, the root not counted."""


class ImageRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One image of a bundle."""

    reference: str
    """As the user wrote it."""
    name: str
    """Normalised as containerd does it: ``docker.io/library/nginx:1.25``; tag and digest may both be there."""
    repository: str
    """``docker.io/library/nginx``."""
    platform: Platform
    index: Descriptor | None = None
    """When the reference names an index; then this is what the tag points at."""
    manifest: Descriptor
    config: Descriptor
    layers: tuple[LayerRecord, ...] = ()
    """Bottom first; repeated layers are repeated here."""
    private: bool = False
    """A credential was needed to read it."""

    @property
    def target(self) -> Descriptor:
        """What the reference resolves to in the registry: the index if there is one, else the manifest."""
        return self.index or self.manifest


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """The immutable result of a build."""

    id: str
    """The cache id: ``imc-`` and 20 lowercase alphanumerics."""
    created: str
    """RFC 3339, UTC, whole seconds."""
    images: tuple[ImageRecord, ...]

    def layer_names(self) -> frozenset[LayerName]:
        return frozenset(layer.name for image in self.images for layer in image.layers)

    def document_digests(self) -> frozenset[Digest]:
        """Digests of the original indexes, manifests and configs."""
        return frozenset(
            descriptor.digest
            for image in self.images
            for descriptor in (image.index, image.manifest, image.config)
            if descriptor is not None
        )
