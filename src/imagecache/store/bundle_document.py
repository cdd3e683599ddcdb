"""The bundle document: what a build has made.

A bundle is the immutable result of building an ImageCache. Its document is JSON, stored as a blob, and says for every
image which manifest and config it has and which layer image serves each layer. It must not do I/O.
"""

from __future__ import annotations

import msgspec

from imagecache.digest import ChainID, DiffID, Digest
from imagecache.oci.descriptor import Descriptor, Platform
from imagecache.oci.platform import same_machine
from imagecache.store.layer_name import LayerName

BUNDLE_MEDIA_TYPE = "application/vnd.imagecache.bundle.v1+json"


class LayerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One layer of one image, and the layer image that serves it."""

    diff_id: DiffID
    chain_id: ChainID
    name: LayerName
    blob: Descriptor
    """The layer as the registry has it (compressed)."""
    size: int
    """Bytes of the layer image file."""
    digest: Digest
    """Of the layer image: ``builder.image_digest``."""
    tar_size: int
    """Bytes of the uncompressed tar."""
    entries: int
    """Names in the layer's tree, the root not counted."""


class ImageRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One image of a bundle, for the nodes of one platform: the image may be for another one that these can run."""

    reference: str
    """As the user wrote it."""
    name: str
    """Normalised as by containerd: ``docker.io/library/nginx:1.25``; may have both tag and digest."""
    repository: str
    """``docker.io/library/nginx``."""
    platform: Platform
    indexes: tuple[Descriptor, ...] = ()
    """From the one that the reference resolves to, down to the one that lists the manifest; empty without one."""
    manifest: Descriptor
    config: Descriptor
    layers: tuple[LayerRecord, ...] = ()
    """Bottom first; repeated layers are repeated here."""
    private: bool = False
    """A credential was needed to read it."""
    notes: tuple[str, ...] = ()
    """What is unusual about it, for people: a sentence each, without a full stop."""

    @property
    def target(self) -> Descriptor:
        """What the reference resolves to in the registry: the index if there is one, else the manifest."""
        return (*self.indexes, self.manifest)[0]

    @property
    def documents(self) -> tuple[Descriptor, ...]:
        """Indexes, manifest and config."""
        return (*self.indexes, self.manifest, self.config)


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """The immutable result of a build."""

    id: str
    """The cache id: ``imc-`` and 20 lowercase alphanumerics."""
    created: str
    """RFC 3339, UTC, whole seconds."""
    platforms: tuple[Platform, ...]
    """Those that were asked for; not every image needs to have each."""
    images: tuple[ImageRecord, ...]
    """In the order of the document; for each reference, one for each platform that it has, in the order of these."""
    revision: str = ""
    """What whoever asked for it calls it; the same images with another one are another bundle."""

    def on(self, platform: Platform) -> Bundle:
        """What a node of this platform has of it."""
        own = tuple(image for image in self.images if same_machine(platform, image.platform))
        return self if own == self.images else msgspec.structs.replace(self, images=own)

    def layer_names(self) -> frozenset[LayerName]:
        return frozenset(layer.name for image in self.images for layer in image.layers)

    def document_digests(self) -> frozenset[Digest]:
        """Digests of the original indexes, manifests and configs."""
        return frozenset(document.digest for image in self.images for document in image.documents)


def build_name(bundle_id: str, architecture: str) -> str:
    """Of the part of a running build that is for one architecture (GOARCH), in build leases."""
    return f"{bundle_id}-{architecture}"
