"""Fakes of what the standalone controller works with: builder, bundles, collector, attacher.

The builder "builds" images of a table, with layers that are nothing but names and sizes, and tells about it as the real
one does. A test makes it fail, or stop half-way, by ``failure`` and ``pause``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from imagecache.builder.build_events import Advanced, BuildEvent, ImageReady, ImageResolved, LayerPlan, Planned
from imagecache.containerd.api import Attached
from imagecache.digest import DiffID, Digest, chain_ids
from imagecache.errors import ImageCacheError, ImageNotFound, NotFound
from imagecache.oci.descriptor import Descriptor, Platform
from imagecache.oci.reference import Reference
from imagecache.standalone.ports import BuildRequest
from imagecache.store.collect import Collected
from imagecache.store.model import Bundle, ImageRecord, LayerName, LayerRecord, Space

LAYER_SIZE = 1000
"""Compressed bytes of every fake layer; its layer image has twice as many."""


def layer_record(name: str, chain: Sequence[str]) -> LayerRecord:
    """The layer called ``name``, on top of the others of ``chain``."""
    diff_ids = [DiffID(Digest.sha256(text.encode())) for text in chain]
    chain_id = chain_ids(diff_ids)[list(chain).index(name)]
    diff_id = DiffID(Digest.sha256(name.encode()))
    return LayerRecord(
        diff_id=diff_id,
        chain_id=chain_id,
        name=LayerName(space=Space.LAYERS, digest=diff_id),
        blob=Descriptor(
            media_type="application/vnd.oci.image.layer.v1.tar+gzip",
            digest=Digest.sha256(b"compressed " + name.encode()),
            size=LAYER_SIZE,
        ),
        size=2 * LAYER_SIZE,
        sha256=Digest.sha256(b"erofs " + name.encode()),
        tar_size=2 * LAYER_SIZE - 500,
        entries=3,
    )


def image_record(image: str, layers: Sequence[str]) -> ImageRecord:
    """An image of named layers, bottom first."""
    reference = Reference.parse(image)
    manifest = Digest.sha256(b"manifest " + image.encode())
    return ImageRecord(
        reference=image,
        name=reference.name,
        repository=reference.repository,
        platform=Platform(os="linux", architecture="amd64"),
        manifest=Descriptor(media_type="application/vnd.oci.image.manifest.v1+json", digest=manifest, size=500),
        config=Descriptor(
            media_type="application/vnd.oci.image.config.v1+json",
            digest=Digest.sha256(b"config " + image.encode()),
            size=300,
        ),
        layers=tuple(layer_record(name, layers) for name in layers),
    )


class FakeBundles:
    """Fake of ``standalone.ports.Bundles``."""

    def __init__(self) -> None:
        self.documents: dict[str, Bundle] = {}

    def get(self, bundle_id: str) -> Bundle:
        if bundle_id not in self.documents:
            raise NotFound(f"no bundle {bundle_id} in the store")
        return self.documents[bundle_id]

    def all(self) -> Sequence[Bundle]:
        return list(self.documents.values())

    def delete(self, bundle_id: str) -> None:
        self.get(bundle_id)
        del self.documents[bundle_id]


@dataclass
class FakeCollector:
    """Fake of ``standalone.ports.Collector``: keeps what a bundle names and what ``held`` says."""

    bundles: FakeBundles
    held: dict[LayerName, str] = field(default_factory=dict)
    """Layer image to its holder."""
    runs: int = 0

    def collect(self) -> Collected:
        self.runs += 1
        kept: dict[LayerName, tuple[str, ...]] = {name: (f"held by {holder}",) for name, holder in self.held.items()}
        for document in self.bundles.all():
            for name in document.layer_names():
                kept[name] = (*kept.get(name, ()), f"bundle {document.id}")
        return Collected(layers=(), blobs=(), downloads=(), temporaries=0, freed=0, kept=kept)


@dataclass
class FakeBuilder:
    """Fake of ``standalone.ports.Builder``."""

    bundles: FakeBundles
    images: Mapping[str, Sequence[str]]
    """Reference as written to the names of its layers, bottom first."""
    private: frozenset[str] = frozenset()
    """Those of them that need a credential."""
    failure: ImageCacheError | None = None
    """Raised after the first layer."""
    pause: asyncio.Event | None = None
    """Waited for after the first layer."""
    requests: list[BuildRequest] = field(default_factory=list)

    async def build(self, request: BuildRequest, emit: Callable[[BuildEvent], None]) -> Bundle:
        self.requests.append(request)
        records = [
            msgspec.structs.replace(image_record(image, self._layers(image)), private=image in self.private)
            for image in request.images
        ]
        for record in records:
            size = LAYER_SIZE * len(record.layers)
            emit(ImageResolved(record.reference, record.target.digest, len(record.layers), size))
        await self._convert(records, emit)
        document = Bundle(id=request.bundle_id, created="2024-05-01T12:00:00Z", images=tuple(records))
        self.bundles.documents[document.id] = document
        return document

    def _layers(self, image: str) -> Sequence[str]:
        if image not in self.images:
            raise ImageNotFound("the registry has no such tag", hint="check the tag", image=image)
        return self.images[image]

    async def _convert(self, records: Sequence[ImageRecord], emit: Callable[[BuildEvent], None]) -> None:
        users: dict[Digest, list[str]] = {}
        for record in records:
            for layer in record.layers:
                users.setdefault(layer.blob.digest, []).append(record.reference)
        done, total = 0, 2 * LAYER_SIZE * len(users)
        emit(Planned(tuple(LayerPlan(d, LAYER_SIZE, False, tuple(u)) for d, u in users.items()), done, total))
        for digest in users:
            emit(Advanced(digest, LAYER_SIZE, 0, done + LAYER_SIZE, total))
            await self._interfere()
            done += 2 * LAYER_SIZE
            emit(Advanced(digest, LAYER_SIZE, LAYER_SIZE, done, total))
        for record in records:
            emit(ImageReady(record.reference, done, total))

    async def _interfere(self) -> None:
        await asyncio.sleep(0)
        if self.pause is not None:
            await self.pause.wait()
        if self.failure is not None:
            raise self.failure


@dataclass
class FakeAttacher:
    """Fake of ``standalone.ports.Attacher``: names of images, each with the bundles that recorded it."""

    attached: dict[str, str] = field(default_factory=dict)
    failure: ImageCacheError | None = None

    async def attach(self, bundle: Bundle) -> Attached:
        if self.failure is not None:
            raise self.failure
        for image in bundle.images:
            self.attached[image.name] = bundle.id
        names = tuple(image.name for image in bundle.images if not image.private)
        return Attached(names, tuple(image.name for image in bundle.images if image.private))

    async def detach(self, bundle: Bundle, keep: Sequence[Bundle] = ()) -> tuple[str, ...]:
        if self.failure is not None:
            raise self.failure
        kept = {image.name for other in keep for image in other.images}
        removed = tuple(image.name for image in bundle.images if image.name not in kept)
        for name in removed:
            self.attached.pop(name, None)
        return removed
