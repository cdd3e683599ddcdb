"""Fakes of what builds and attaches bundles: a store in memory, a builder, an attacher.

The builder "builds" images of a table, with layers that are nothing but names and sizes, and emits the events of the
real one. A test makes it fail, or stop half-way, by ``failure`` and ``pause``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field

import msgspec

from imagecache.api import times
from imagecache.api.building import BuildRequest
from imagecache.api.pull_secrets import PullSecret
from imagecache.builder.build_events import Advanced, BuildEvent, ImageReady, ImageResolved, LayerPlan, Planned
from imagecache.clock import Clock
from imagecache.containerd.api import ALONE, Attached, Beside
from imagecache.digest import DiffID, Digest, chain_ids
from imagecache.errors import ImageCacheError, ImageNotFound, NotFound, StoreError, Unauthenticated
from imagecache.oci.descriptor import Descriptor, Platform
from imagecache.oci.reference import Reference
from imagecache.store.bundle_document import Bundle, ImageRecord, LayerRecord
from imagecache.store.collect import Collected
from imagecache.store.layer_name import LayerName, Space

IMAGES: Mapping[str, Sequence[str]] = {"nginx:1.25": ("base", "nginx"), "redis:7": ("base", "redis")}
"""Reference as written to the names of its layers, bottom first."""
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
        digest=Digest.sha256(b"erofs " + name.encode()),
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
        verified=True,
    )


@dataclass
class MemoryStore:
    """Fake of ``controller.dependencies.BundleStore``: a collection keeps what a bundle names and what is held."""

    documents: dict[str, Bundle] = field(default_factory=dict)
    held: dict[LayerName, str] = field(default_factory=dict)
    """Layer image to its holder."""
    failure: StoreError | None = None
    deletion: StoreError | None = None
    """Raised by every deletion."""
    collections: int = 0
    holds: list[str] = field(default_factory=list)
    """Bundles whose builds wait to go on."""

    def ids(self, owner: str) -> Collection[str]:
        self._check()
        return [name for name in self.documents if name.startswith(owner)]

    def get(self, bundle_id: str) -> Bundle:
        self._check()
        if bundle_id not in self.documents:
            raise NotFound(f"no bundle {bundle_id} in the store")
        return self.documents[bundle_id]

    def all(self) -> Sequence[Bundle]:
        self._check()
        return list(self.documents.values())

    def delete(self, bundle_id: str) -> None:
        self.get(bundle_id)
        if self.deletion is not None:
            raise self.deletion
        del self.documents[bundle_id]

    def layers(self) -> Mapping[str, Mapping[LayerName, int]]:
        self._check()
        return {
            name: {layer.name: layer.size for image in document.images for layer in image.layers}
            for name, document in self.documents.items()
        }

    def hold(self, bundle_id: str) -> AbstractContextManager[object]:
        self._check()
        self.holds.append(bundle_id)
        stack = ExitStack()
        stack.callback(self.holds.remove, bundle_id)
        return stack

    def collect(self) -> Collected:
        self._check()
        self.collections += 1
        kept: dict[LayerName, tuple[str, ...]] = {name: (f"leased by {holder}",) for name, holder in self.held.items()}
        for document in self.documents.values():
            for name in document.layer_names():
                kept[name] = (*kept.get(name, ()), f"bundle {document.id}")
        return Collected(layers=(), blobs=(), downloads=(), temporaries=0, freed=0, kept=kept)

    def _check(self) -> None:
        if self.failure is not None:
            raise self.failure


@dataclass
class FakeBuilder:
    """Fake of ``controller.dependencies.Builder``."""

    store: MemoryStore
    images: Mapping[str, Sequence[str]] = field(default_factory=lambda: IMAGES)
    private: frozenset[str] = frozenset()
    """Those of them that needed a credential."""
    unverified: frozenset[str] = frozenset()
    """Those of them whose registry nobody has verified."""
    lacking: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Those of them that an architecture does not have."""
    guarded: frozenset[str] = frozenset()
    """Those of them that are refused without a secret whose payload has the word ``good``."""
    clock: Clock | None = None
    """Says when bundles are created; None: always at the same time."""
    failure: ImageCacheError | None = None
    """Raised after the first layer."""
    pause: asyncio.Event | None = None
    """Waited for after the first layer."""
    requests: list[BuildRequest] = field(default_factory=list)
    credentials: list[tuple[PullSecret, ...]] = field(default_factory=list)
    """Of each request."""
    running: int = 0
    most: int = 0
    """Builds that ran at the same time."""

    async def build(
        self, request: BuildRequest, credentials: Sequence[PullSecret], emit: Callable[[BuildEvent], None]
    ) -> None:
        self.requests.append(request)
        self.credentials.append(tuple(credentials))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self._build(request, credentials, emit)
        finally:
            self.running -= 1

    async def _build(
        self, request: BuildRequest, credentials: Sequence[PullSecret], emit: Callable[[BuildEvent], None]
    ) -> None:
        records = [
            msgspec.structs.replace(
                image_record(image, self._layers(image, credentials)),
                platform=platform,
                private=image in self.private | self.guarded,
                verified=image not in self.unverified,
            )
            for image in request.images
            for platform in request.platforms
            if request.complete or image not in self.lacking.get(platform.architecture, ())
        ]
        for record in records:
            size = LAYER_SIZE * len(record.layers)
            emit(ImageResolved(record.reference, record.target.digest, len(record.layers), size))
        await self._convert(records, emit)
        document = Bundle(
            id=request.bundle_id,
            created=times.render(self.clock.now()) if self.clock is not None else "2024-05-01T12:00:00Z",
            platforms=request.platforms,
            images=tuple(records),
            revision=request.revision,
        )
        self.store.documents[document.id] = document

    def _layers(self, image: str, credentials: Sequence[PullSecret]) -> Sequence[str]:
        if image not in self.images:
            raise ImageNotFound("the registry has no such tag", hint="check the tag", image=image)
        if image in self.guarded and not any(b"good" in secret.config for secret in credentials):
            raise Unauthenticated("the registry wants a credential", hint="check imagePullSecrets", image=image)
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
    """Fake of ``plain_host.node.Attacher``: names of images, each with the bundles that recorded it."""

    attached: dict[str, str] = field(default_factory=dict)
    failure: ImageCacheError | None = None

    async def attach(self, bundle: Bundle, also: Collection[str] = (), beside: Beside = ALONE) -> Attached:
        if self.failure is not None:
            raise self.failure
        for image in bundle.images:
            self.attached[image.name] = bundle.id
        public = [image for image in bundle.images if image.verified and not image.private]
        names = {image.name: str(image.target.digest) for image in public if image.name not in beside.taken}
        withheld = tuple(image.name for image in bundle.images if image.private and image.verified)
        unverified = tuple(image.name for image in bundle.images if not image.verified)
        return Attached(names, withheld, unpacked=frozenset(also), unverified=unverified)

    async def detach(self, bundle: Bundle, keep: Sequence[Bundle] = (), had: Collection[str] = ()) -> tuple[str, ...]:
        del had
        if self.failure is not None:
            raise self.failure
        kept = {image.name for other in keep for image in other.images}
        removed = tuple(image.name for image in bundle.images if image.name not in kept)
        for name in removed:
            self.attached.pop(name, None)
        return removed
