"""The bundle document: what a build has made.

A bundle is the immutable result of building an ImageCache. Its document is JSON, stored as a blob, and says for every
image which manifest and config it has and which layer image serves each layer. A document has one form as bytes
(``encode``), and ``decode`` takes no other: its digest names what it says, whoever wrote it. It must not do I/O.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from imagecache.digest import ChainID, DiffID, Digest
from imagecache.errors import InvalidDigest, InvalidInput, MalformedDocument
from imagecache.oci.descriptor import Descriptor, Platform, decode_hook, encode_hook
from imagecache.oci.platform import same_machine
from imagecache.store.layer_name import LayerName, Space

BUNDLE_MEDIA_TYPE = "application/vnd.imagecache.bundle.v1+json"


class LayerRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
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
    verity: Digest | None = None
    """Of the file, by fs-verity (SHA-256, blocks of 4096 bytes, no salt), in a store that nodes share; None without."""


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
    """A credential was needed to read something of it."""
    verified: bool = False
    """It is what its name means: the reference has a digest, or the registry's certificate was verified, or an
    administrator lists the registry."""
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


class PlacedLayer(msgspec.Struct, frozen=True, kw_only=True):
    """A layer image of some bundles, and what it has to be right for: its proof has no other parameters."""

    record: LayerRecord
    bottom: bool
    """It stands at the bottom of an image."""
    below: tuple[LayerName, ...] = ()
    """The layer images below, top to bottom, for one that is right on top of these alone; else empty."""
    image: str = ""
    """Reference of an image that has it."""


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

    def placed_layers(self) -> dict[LayerName, PlacedLayer]:
        """Each layer image once, whatever number of images has it."""
        return placed_layers([self])

    def document_digests(self) -> frozenset[Digest]:
        """Digests of the original indexes, manifests and configs."""
        return frozenset(document.digest for image in self.images for document in image.documents)


def placed_layers(documents: Iterable[Bundle]) -> dict[LayerName, PlacedLayer]:
    """Each layer image of these once."""
    found: dict[LayerName, PlacedLayer] = {}
    for image in (image for document in documents for image in document.images):
        names = [layer.name for layer in image.layers]
        for depth, layer in enumerate(image.layers):
            same = found.get(layer.name)
            upper = depth > 0 and layer.name.space is Space.CHAINS
            found[layer.name] = PlacedLayer(
                record=same.record if same else layer,
                bottom=depth == 0 or (same is not None and same.bottom),
                below=tuple(reversed(names[:depth])) if upper else (),
                image=same.image if same else image.reference,
            )
    return found


def build_name(bundle_id: str, architecture: str) -> str:
    """Of the part of a running build that is for one architecture (GOARCH), in build leases."""
    return f"{bundle_id}-{architecture}"


def bundle_of(build: str) -> str:
    """The id of the bundle, of a ``build_name``."""
    return build.rpartition("-")[0]


def encode(document: Bundle) -> bytes:
    """The document as bytes: JSON without blanks, the fields in their order here."""
    return _encoder.encode(document)


def decode(body: bytes) -> Bundle:
    """Raises MalformedDocument, also for bytes that are not what ``encode`` makes of the same document."""
    try:
        document: Bundle = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, InvalidDigest, InvalidInput) as error:
        raise MalformedDocument(f"the document of a bundle is malformed: {str(error)[:200]}") from error
    # Else a field that this program does not know, or a key that is there twice, would be covered by the digest, and
    # mean something else to another reader.
    if encode(document) != body:
        raise MalformedDocument("the document of a bundle is not in the form that imagecache writes")
    return document


def digest_of(document: Bundle) -> Digest:
    """Digest of the document as bytes: ``status.bundleDigest``."""
    return Digest.sha256(encode(document))


_encoder = msgspec.json.Encoder(enc_hook=encode_hook)
_decoder = msgspec.json.Decoder(Bundle, dec_hook=decode_hook)
