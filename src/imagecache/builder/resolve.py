"""From a reference to an image that can be built: indexes, platform, manifest and config, all verified.

The choice is containerd's, so that a cache has what a pull would have: an index may list another index, the platform of
the entry that lists a manifest counts and not that of the config, and a manifest that no index lists is for every
platform. The os must be that of the config too: 2.4 unpacks no other. Source: containerd ``core/images/image.go``
(Manifest), ``core/images/handlers.go``, ``plugins/transfer/plugin.go`` (OnlyOS). It must not download layers.
"""

from __future__ import annotations

from dataclasses import dataclass

from imagecache.builder import notes
from imagecache.builder.image_source import ImageSource
from imagecache.digest import ChainID, DiffID, chain_ids
from imagecache.errors import LimitExceeded
from imagecache.limits import Limits
from imagecache.oci import mediatypes
from imagecache.oci.descriptor import Descriptor, Platform
from imagecache.oci.manifest import Manifest, chosen, parse_config, parse_index, parse_manifest
from imagecache.oci.platform import matches, no_match, normalise, select
from imagecache.oci.reference import Reference
from imagecache.oci.resolved import Resolved

_Document = tuple[Descriptor, bytes]


@dataclass(frozen=True, slots=True)
class LayerPosition:
    """One layer on top of certain others."""

    diff_id: DiffID
    chain_id: ChainID
    blob: Descriptor
    below: tuple[ChainID, ...]
    """ChainIDs of the layers below, top to bottom."""

    @property
    def bottom(self) -> bool:
        return not self.below


@dataclass(frozen=True, slots=True)
class ResolvedImage:
    reference: Reference
    platform: Platform
    """That it is used for."""
    indexes: tuple[Descriptor, ...]
    """From the one that the reference names to the one that lists the manifest."""
    manifest: Descriptor
    config: Descriptor
    layers: tuple[LayerPosition, ...]
    """Bottom first."""
    verified: bool
    """``Resolved.verified``, of what the reference names."""
    documents: tuple[_Document, ...]
    """Indexes, manifest and config, verified."""
    notes: tuple[str, ...] = ()
    """``ImageRecord.notes``, as far as the documents show them."""

    @property
    def target(self) -> Descriptor:
        """What the reference names."""
        return (*self.indexes, self.manifest)[0]


async def resolve(source: ImageSource, reference: Reference, platform: Platform, limits: Limits) -> ResolvedImage:
    """Read everything about an image except for its layers."""
    top = await source.resolve(reference)
    if len(top.body) > limits.resolved_size:
        raise LimitExceeded(f"{len(top.body)} bytes in the manifest; the limit is {limits.resolved_size}")
    walked = await _walk(source, reference, top, platform, limits)
    *indexes, (descriptor, body) = walked
    manifest = parse_manifest(body, descriptor.media_type, limits)
    _check_together([*(document for document, _ in walked), manifest.config], limits)
    config_body = await source.document(reference, manifest.config)
    config = parse_config(config_body, manifest, limits)
    listed = not indexes or descriptor.platform is not None  # then the config need not fit, but for its os
    if normalise(config.platform).os != normalise(platform).os or not (listed or matches(platform, config.platform)):
        raise no_match(platform, [config.platform])
    return ResolvedImage(
        reference=reference,
        platform=_used_for(descriptor.platform, config.platform, platform),
        indexes=tuple(index for index, _ in indexes),
        manifest=descriptor,
        config=manifest.config,
        layers=_layers(manifest, config.diff_ids),
        verified=top.verified,
        documents=(*walked, (manifest.config, config_body)),
        notes=notes.of_documents(
            top, manifest, config.platform, platform, [document.platform for document, _ in walked]
        ),
    )


async def _walk(
    source: ImageSource, reference: Reference, top: Resolved, platform: Platform, limits: Limits
) -> list[_Document]:
    """The documents from the one that the reference names down to the manifest."""
    found = [(top.descriptor, top.body)]
    while mediatypes.is_index(found[-1][0].media_type):
        if len(found) > limits.index_depth:
            raise LimitExceeded(f"more than {limits.index_depth} indexes, each inside the one before")
        index, body = found[-1]
        entry = chosen(select(parse_index(body, index.media_type, limits), platform), limits)
        _check_together([*(document for document, _ in found), entry], limits)
        found.append((entry, await source.document(reference, entry)))
    return found


def _check_together(documents: list[Descriptor], limits: Limits) -> None:
    """Before the last one of them is read. Raises LimitExceeded."""
    size = sum(document.size for document in documents)
    if size > limits.documents_size:
        raise LimitExceeded(f"{size} bytes in all documents of the image; the limit is {limits.documents_size}")


def _used_for(listed: Platform | None, stated: Platform, wanted: Platform) -> Platform:
    """The index decides; without one the config, unless it is for other machines, which containerd does not mind."""
    if listed is not None:
        return listed
    return stated if matches(wanted, stated) else normalise(wanted)


def _layers(manifest: Manifest, diff_ids: tuple[DiffID, ...]) -> tuple[LayerPosition, ...]:
    chain = chain_ids(diff_ids)
    return tuple(
        LayerPosition(diff_id=diff_id, chain_id=chain[depth], blob=blob, below=tuple(reversed(chain[:depth])))
        for depth, (diff_id, blob) in enumerate(zip(diff_ids, manifest.layers, strict=True))
    )
