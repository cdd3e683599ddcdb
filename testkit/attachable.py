"""Bundle documents without a build: what attach needs, with documents and layers made from names. Pure."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from imagecache.digest import DiffID, Digest, chain_ids
from imagecache.errors import BlobNotFound
from imagecache.oci.descriptor import Descriptor, Platform
from imagecache.oci.reference import Reference
from imagecache.store.bundle_document import Bundle, ImageRecord, LayerRecord
from imagecache.store.layer_name import LayerName, Space

AMD64 = Platform(os="linux", architecture="amd64")
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


@dataclass
class MemoryDocuments:
    """The fake ``containerd.api.Documents`` and ``containerd.also_unpack.Tars``; it also makes images.

    The tar of a layer is its name; an empty name is an empty layer.
    """

    bodies: dict[Digest, bytes] = field(default_factory=dict)
    tars: dict[Digest, bytes] = field(default_factory=dict)

    def read(self, digest: Digest) -> bytes:
        if digest not in self.bodies:
            raise BlobNotFound(f"the store has no document {digest}")
        return self.bodies[digest]

    async def open(self, layer: LayerRecord) -> AsyncGenerator[bytes]:
        if layer.diff_id not in self.tars:
            raise BlobNotFound(f"{layer.name} is missing from the store")
        yield self.tars[layer.diff_id]

    def image(
        self,
        text: str,
        layers: Sequence[str],
        *,
        index: int = 0,
        private: bool = False,
        chains: Sequence[str] = (),
        platform: Platform = AMD64,
    ) -> ImageRecord:
        """An image of named layers, the bottom one first; those in ``chains`` are keyed by chainID.

        ``index``: so many indexes are above it, each inside the one before; they say the platform.
        """
        reference = Reference.parse(text)
        records = _layers(layers, chains)
        self.tars |= {Digest.sha256(name.encode()): name.encode() for name in layers}
        config = self._add(_CONFIG, {"rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in records]}})
        blobs = [_plain(layer.blob) for layer in records]
        document = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": _plain(config), "layers": blobs}
        manifest = self._add(_MANIFEST, document)
        indexes: list[Descriptor] = []
        for _ in range(index):
            below = (indexes or [manifest])[0]
            entry = {**_plain(below), "platform": {"os": platform.os, "architecture": platform.architecture}}
            listed = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": [entry]}
            indexes.insert(0, self._add(_INDEX, listed))
        return ImageRecord(
            reference=text,
            name=reference.name,
            repository=reference.repository,
            platform=platform,
            indexes=tuple(indexes),
            manifest=manifest,
            config=config,
            layers=tuple(records),
            private=private,
            verified=True,
        )

    def _add(self, media_type: str, document: object) -> Descriptor:
        body = json.dumps(document).encode()
        digest = Digest.sha256(body)
        self.bodies[digest] = body
        return Descriptor(media_type=media_type, digest=digest, size=len(body))


def bundle(*images: ImageRecord, number: int = 0) -> Bundle:
    platforms = tuple(dict.fromkeys(image.platform for image in images))
    return Bundle(id=f"imc-{number:020d}", created="2025-01-01T00:00:00Z", platforms=platforms, images=images)


def _layers(names: Sequence[str], chains: Sequence[str]) -> list[LayerRecord]:
    diff_ids = [DiffID(Digest.sha256(name.encode())) for name in names]
    return [
        LayerRecord(
            diff_id=diff_id,
            chain_id=chain,
            name=LayerName(space=Space.CHAINS, digest=chain)
            if name in chains
            else LayerName(space=Space.LAYERS, digest=diff_id),
            blob=Descriptor(media_type=_LAYER, digest=Digest.sha256(b"gzip " + name.encode()), size=100),
            size=4096,
            digest=Digest.sha256(b"erofs " + name.encode()),
            tar_size=1024 if name else 0,
            entries=1 if name else 0,
        )
        for name, diff_id, chain in zip(names, diff_ids, chain_ids(diff_ids), strict=True)
    ]


def _plain(descriptor: Descriptor) -> dict[str, object]:
    return {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size}
