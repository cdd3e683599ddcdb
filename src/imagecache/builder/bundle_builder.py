"""Build a bundle: resolve the images, make what the store lacks, commit.

Nothing is visible until the bundle document is written, and the next build finds everything that an interrupted one
made. It must not know where images come from or what a bundle is for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from imagecache.builder.build_events import BuildEvent, ImageReady, ImageResolved, LayerPlan
from imagecache.builder.build_plan import LayerGroup, plan
from imagecache.builder.build_progress import BuildProgress
from imagecache.builder.build_time import build_time
from imagecache.builder.image_source import ImageSource
from imagecache.builder.layer_builder import LayerBuilder
from imagecache.builder.notes import of_layer, says_uncompressed
from imagecache.builder.resolve import ResolvedImage
from imagecache.builder.resolve_platforms import Platforms, resolve_platforms
from imagecache.builder.size_limit import SizeLimit
from imagecache.builder.worker_pool import WorkerPool
from imagecache.clock import Clock
from imagecache.concurrency import run_all
from imagecache.digest import ChainID
from imagecache.errors import RegistryError
from imagecache.layer.compression import Compression, sniff
from imagecache.limits import DEFAULT, Limits
from imagecache.oci.descriptor import Descriptor, Platform
from imagecache.oci.reference import Reference, naming_image
from imagecache.oci.resolved import Access
from imagecache.store.bundle_document import Bundle, ImageRecord, LayerRecord, build_name
from imagecache.store.free_space import Reserve
from imagecache.store.layer_name import LayerName, Space
from imagecache.store.store import Store

Emit = Callable[[BuildEvent], None]


@dataclass(frozen=True, slots=True)
class BuildSettings:
    jobs: int = 0
    """Worker processes; 0: one per core."""
    early: bool = True
    """A worker is started before it is known whether a layer is new: that overlaps with the registry's time."""
    memory: int = 0
    """Bytes of data that each of them may have; 0: no bound."""
    downloads: int = 4
    """Layers downloaded at the same time (containerd and Docker: 3)."""
    reserve: float = 0.0
    """Share of the store's disk that builds leave free."""
    limits: Limits = DEFAULT


class BundleBuilder:
    """Builds bundles into one store."""

    def __init__(self, store: Store, clock: Clock, settings: BuildSettings | None = None) -> None:
        self._store = store
        self._clock = clock
        self._settings = settings or BuildSettings()

    async def build(  # noqa: PLR0913 - one order: nothing of it is of use without the rest
        self,
        bundle_id: str,
        references: Sequence[str],
        *,
        platforms: Platforms,
        size_limit: int,
        revision: str = "",
        source: ImageSource,
        emit: Emit,
    ) -> Bundle:
        """Make the bundle, commit it, and return its document.

        Args:
            bundle_id: of the bundle.
            references: of its images, as the user wrote them.
            platforms: of the machines that it is for, and whether every image must have all.
            size_limit: bytes that the layer images of one platform may take together.
            revision: of the bundle.
            source: of the images.
            emit: gets the events.

        Raises the first error of an image, RegistryUnavailable when it takes too long. When it is cancelled or fails,
        partial downloads and finished layer images stay, and the next call continues from them.
        """
        workers = WorkerPool(self._settings.jobs, memory=self._settings.memory)
        async with build_time(self._settings.limits) as allow, workers as pool:
            if self._settings.early:
                pool.prepare()
            images = await self._resolve(references, platforms, source)
            groups = plan(images)
            # Leased before the store is searched: what is found must not be collected until the bundle names it.
            with self._leased(bundle_id, images):
                _announce(images, emit)
                reserve = Reserve(self._store.root, self._settings.reserve).check
                limit = SizeLimit(size_limit * len({image.platform for image in images}), reserve)
                limit.precheck(groups)
                allow(sum(group.blob.size for group in groups))
                progress = BuildProgress(emit)
                layers = LayerBuilder(
                    self._store,
                    source,
                    pool,
                    progress,
                    limit,
                    self._known(),
                    reserve=reserve,
                    downloads=self._settings.downloads,
                )
                planned = [_layer_plan(layers, group) for group in groups]
                if not all(each.cached for each in planned):
                    pool.prepare()
                progress.plan(planned)
                await self._make(images, groups, layers, progress, emit)
                notes = await run_all(*(_layer_notes(image, layers, source) for image in images))
                records = await self._records(images, notes, layers, source)
                made = self._document(bundle_id, platforms.wanted, records)
                document = msgspec.structs.replace(made, revision=revision)
                return await asyncio.to_thread(self._commit, document, images)

    async def _resolve(
        self, references: Sequence[str], platforms: Platforms, source: ImageSource
    ) -> list[ResolvedImage]:
        async def one(reference: Reference) -> list[ResolvedImage]:
            with naming_image(reference.original):
                return await resolve_platforms(source, reference, platforms, self._settings.limits)

        found = await run_all(*(one(Reference.parse(text)) for text in dict.fromkeys(references)))
        return [image for images in found for image in images]

    @contextlib.contextmanager
    def _leased(self, bundle_id: str, images: Sequence[ResolvedImage]) -> Iterator[None]:
        """A lease for each platform: nodes prefetch what is for theirs."""
        digests = [descriptor.digest for image in images for descriptor, _body in image.documents]
        with contextlib.ExitStack() as leases:
            for platform in dict.fromkeys(image.platform for image in images):
                groups = plan(image for image in images if image.platform == platform)
                names = [name for group in groups for name in _possible_names(group)]
                build = build_name(bundle_id, platform.architecture)
                leases.enter_context(self._store.leases.build_lease(names, digests, build=build))
            yield

    def _known(self) -> dict[ChainID, LayerRecord]:
        """The layers of every bundle in the store: their files need not be read and hashed again."""
        return {
            layer.chain_id: layer
            for document in self._store.bundles.all()
            for image in document.images
            for layer in image.layers
        }

    async def _make(
        self,
        images: Sequence[ResolvedImage],
        groups: Sequence[LayerGroup],
        layers: LayerBuilder,
        progress: BuildProgress,
        emit: Emit,
    ) -> None:
        async def one(group: LayerGroup) -> None:
            with naming_image(group.images[0]):
                await layers.build(group)

        async def watch(reference: str, own: Sequence[ResolvedImage]) -> None:
            for layer in (layer for image in own for layer in image.layers):
                # Shielded: the future belongs to the layer, which other images may have too.
                await asyncio.shield(layers.record(layer.chain_id))
            emit(ImageReady(reference, progress.done, progress.total))

        await run_all(*map(one, groups), *(watch(*each) for each in _by_reference(images).items()))

    async def _records(
        self,
        images: Sequence[ResolvedImage],
        notes: Sequence[tuple[str, ...]],
        layers: LayerBuilder,
        source: ImageSource,
    ) -> list[ImageRecord]:
        """At the end of the build: only then is known what of an image needed a credential."""
        known: dict[Reference, Access] = {}
        for reference in dict.fromkeys(image.reference for image in images):
            own = [layer.blob for image in images if image.reference == reference for layer in image.layers]
            known[reference] = await source.access(reference, own)
        return [
            _image_record(image, own, layers, known[image.reference]) for image, own in zip(images, notes, strict=True)
        ]

    def _document(
        self,
        bundle_id: str,
        platforms: Sequence[Platform],
        records: Iterable[ImageRecord],
    ) -> Bundle:
        return Bundle(
            id=bundle_id,
            created=self._clock.now().strftime("%Y-%m-%dT%H:%M:%SZ"),
            platforms=tuple(platforms),
            images=tuple(records),
        )

    def _commit(self, document: Bundle, images: Sequence[ResolvedImage]) -> Bundle:
        """Documents first, the bundle last: once it is visible, everything that it names exists."""
        document = self._sealed(document)
        for image in images:
            for descriptor, body in image.documents:
                self._store.blobs.put_verified(body, descriptor.digest)
        self._store.bundles.put(document)
        return document

    def _sealed(self, document: Bundle) -> Bundle:
        """With what fs-verity says of the layer images, now that nobody writes to them."""
        found = {name: self._store.layers.seal(name) for name in document.layer_names()}

        def sealed(image: ImageRecord) -> ImageRecord:
            layers = (msgspec.structs.replace(layer, verity=found[layer.name]) for layer in image.layers)
            return msgspec.structs.replace(image, layers=tuple(layers))

        return msgspec.structs.replace(document, images=tuple(map(sealed, document.images)))


def _possible_names(group: LayerGroup) -> list[LayerName]:
    """Every file that may serve one of the group's positions: leased before anything relies on one."""
    return [
        LayerName(Space.LAYERS, group.diff_id),
        *(LayerName(Space.CHAINS, position.chain_id) for position in group.positions),
    ]


def _by_reference(images: Iterable[ResolvedImage]) -> dict[str, list[ResolvedImage]]:
    """Events are about references: the images for several platforms are told as one."""
    found: dict[str, list[ResolvedImage]] = {}
    for image in images:
        found.setdefault(image.reference.original, []).append(image)
    return found


def _announce(images: Sequence[ResolvedImage], emit: Emit) -> None:
    for reference, own in _by_reference(images).items():
        unique = {layer.blob.digest: layer.blob.size for image in own for layer in image.layers}
        emit(
            ImageResolved(
                image=reference,
                digest=own[0].target.digest,
                layers=sum(len(image.layers) for image in own),
                size=sum(unique.values()),
            )
        )


def _layer_plan(layers: LayerBuilder, group: LayerGroup) -> LayerPlan:
    return LayerPlan(
        digest=group.blob.digest,
        size=group.blob.size,
        cached=all(layers.find(position) is not None for position in group.positions),
        images=group.images,
    )


def _image_record(image: ResolvedImage, notes: tuple[str, ...], layers: LayerBuilder, access: Access) -> ImageRecord:
    return ImageRecord(
        reference=image.reference.original,
        name=image.reference.name,
        repository=image.reference.repository,
        platform=image.platform,
        indexes=image.indexes,
        manifest=image.manifest,
        config=image.config,
        # The blob is the image's own: another one with the same layer may have it compressed otherwise.
        layers=tuple(
            msgspec.structs.replace(layers.record(layer.chain_id).result(), blob=layer.blob) for layer in image.layers
        ),
        private=access.private,
        verified=image.verified,
        notes=(*image.notes, *notes, *([access.note] if access.note else [])),
    )


async def _layer_notes(image: ResolvedImage, layers: LayerBuilder, source: ImageSource) -> tuple[str, ...]:
    """Notes about layers whose type says that they are tars as they are."""
    found: dict[str, None] = {}
    for blob in {layer.blob.digest: layer.blob for layer in image.layers}.values():
        if says_uncompressed(blob):
            known = layers.compressions.get(blob.digest)
            compression = Compression(known) if known else await _sniffed(image, blob, source)
            found |= dict.fromkeys(of_layer(blob, compression))
    return tuple(found)


async def _sniffed(image: ResolvedImage, blob: Descriptor, source: ImageSource) -> Compression:
    """By the blob's first bytes: the store had the layer, perhaps from another blob.

    When they cannot be had a note is missing, and nothing else.
    """
    with contextlib.suppress(RegistryError):
        async with contextlib.aclosing(source.stream(image.reference, blob)) as chunks:
            return sniff(await anext(chunks, b""))
    return Compression.NONE
