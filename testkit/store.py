"""Layer images in memory, and bundles made without a build.

``MemoryLayers`` is the fake ``LayerProvider`` of the snapshotter's tests. It uses no disk: paths are invented, unless a
test passes real ones. It passes the same suite as the store's own provider (``testkit.suites.store``), and must not
check more than the Protocol promises. ``put_bundle`` fills a real store with layer images of any content.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from imagecache.digest import ChainID, DiffID, Digest, chain_id, chain_ids
from imagecache.errors import DigestMismatch, MalformedLayer
from imagecache.oci.descriptor import Descriptor, Platform
from imagecache.oci.mediatypes import OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST
from imagecache.oci.reference import Reference
from imagecache.oserrors import converting
from imagecache.store.bundle_document import Bundle, ImageRecord, LayerRecord, PlacedLayer
from imagecache.store.check import Proofs
from imagecache.store.durable_files import write_all
from imagecache.store.layer_name import LayerName, Space
from imagecache.store.layers import ServedLayer
from imagecache.store.paths import StorePaths
from imagecache.store.store import Store


class MemoryLayers:
    """Layer images by chainID. As in the store, a collection removes a file that is neither served nor leased."""

    def __init__(self, root: Path = Path("/memory")) -> None:
        self.root = root
        self.leases: dict[str, set[LayerName]] = {}
        self.private: dict[ChainID, set[str]] = {}
        """Repositories that alone may have a chain."""
        self._served: list[ServedLayer] = []
        self._files: dict[LayerName, Path] = {}

    def add(
        self, diff_id: DiffID, parent: ChainID | None = None, *, path: Path | None = None, size: int = 4096
    ) -> ServedLayer:
        """Serve a layer keyed by its diffID on top of ``parent``; ``path`` names a real file, if there is one."""
        name = LayerName(space=Space.LAYERS, digest=diff_id)
        layer = ServedLayer(chain_id(parent, diff_id), diff_id, parent, name, path or self.root / name.path, size)
        self.serve(layer)
        return layer

    def serve(self, layer: ServedLayer) -> None:
        """Serve it, perhaps a second time: two bundles may have the same layer."""
        self._served.append(layer)
        self._files[layer.name] = layer.path

    def withdraw(self, layer: ServedLayer) -> None:
        """A bundle with this layer is deleted. The file stays."""
        self._served.remove(layer)

    def collect(self) -> None:
        kept = {layer.name for layer in self._served}.union(*self.leases.values())
        self._files = {name: path for name, path in self._files.items() if name in kept}

    def lose(self, name: LayerName) -> None:
        """The file is deleted, whether or not it is needed."""
        del self._files[name]

    def lookup(self, chain_id: ChainID, repository: str = "") -> ServedLayer | None:
        if repository and repository not in self.private.get(chain_id, {repository}):
            return None
        served = (layer for layer in self._served if layer.chain_id == chain_id and layer.name in self._files)
        return next(served, None)

    def lease(self, holder: str, name: LayerName) -> None:
        self.leases.setdefault(holder, set()).add(name)

    def release(self, holder: str, name: LayerName) -> None:
        self.leases.get(holder, set()).discard(name)

    def open_layer(self, name: LayerName) -> Path | None:
        return self._files.get(name)


NO_LAYER_IMAGE = b"not a layer image"


def _proves(path: Path) -> tuple[DiffID, Digest]:
    """Without EROFS: these layer images are the tar itself."""
    content = path.read_bytes()
    if content == NO_LAYER_IMAGE:
        raise MalformedLayer("no layer image")
    return DiffID(Digest.sha256(content)), Digest.sha256(content)


def _proves_placed(path: Path, placed: PlacedLayer, _lowers: Sequence[Path]) -> Digest:
    found, digest = _proves(path)
    if found != placed.record.diff_id:
        raise DigestMismatch(f"it is the layer {found}, not {placed.record.diff_id}")
    return digest


PROOFS = Proofs(_proves_placed, _proves)
"""Stand-ins for the proofs of layer images, where a layer image is nothing but its tar."""


def put_layer(store: Store, name: LayerName, content: bytes) -> bool:
    """Commit a layer image with this content; False when the store has it already."""
    with store.layers.stage() as staged:
        with converting(staged.path):
            write_all(staged.fd, content, 0)
        return staged.commit(name)


def put_bundle(
    store: Store,
    bundle_id: str,
    diff_ids: Sequence[DiffID],
    contents: Sequence[bytes],
    *,
    reference: str = "busybox",
    private: bool = False,
) -> Bundle:
    """Store a bundle of one image with these layers, bottom first, under a build lease as a build does it."""
    config, manifest = f'{{"config of":"{bundle_id}"}}'.encode(), f'{{"manifest of":"{bundle_id}"}}'.encode()
    document = bundle_document(bundle_id, diff_ids, contents, config=config, manifest=manifest, reference=reference)
    images = tuple(msgspec.structs.replace(image, private=private) for image in document.images)
    document = msgspec.structs.replace(document, images=images)
    with store.leases.build_lease(document.layer_names(), document.document_digests()):
        for layer, content in zip(document.images[0].layers, contents, strict=True):
            put_layer(store, layer.name, content)
        store.blobs.put(config)
        store.blobs.put(manifest)
        store.bundles.put(document)
    return document


def bundle_document(
    bundle_id: str,
    diff_ids: Sequence[DiffID],
    contents: Sequence[bytes],
    *,
    config: bytes,
    manifest: bytes,
    reference: str = "busybox",
) -> Bundle:
    """The document of a bundle with one image whose layer images have these contents; nothing is stored."""
    layers = tuple(
        LayerRecord(
            diff_id=diff_id,
            chain_id=chain,
            name=LayerName(space=Space.LAYERS, digest=diff_id),
            blob=_described(OCI_LAYER_GZIP, b"compressed " + content),
            size=len(content),
            digest=Digest.sha256(content),
            tar_size=len(content),
            entries=1,
        )
        for diff_id, chain, content in zip(diff_ids, chain_ids(diff_ids), contents, strict=True)
    )
    parsed = Reference.parse(reference)
    image = ImageRecord(
        reference=reference,
        name=parsed.name,
        repository=parsed.repository,
        platform=Platform(os="linux", architecture="amd64"),
        manifest=_described(OCI_MANIFEST, manifest),
        config=_described(OCI_CONFIG, config),
        layers=layers,
        verified=True,
    )
    return Bundle(id=bundle_id, created="2025-01-01T00:00:00Z", platforms=(image.platform,), images=(image,))


def _described(media_type: str, content: bytes) -> Descriptor:
    return Descriptor(media_type=media_type, digest=Digest.sha256(content), size=len(content))


def leased(store: Path, leases: Path | None = None) -> set[Path]:
    """Layer images that any node has leased. ``leases``: the directory in which nodes write that share the store."""
    paths = StorePaths(store, leases)
    return {paths.layer(name) for _, name in paths.node_lease_files()}
