"""From a reference to an image that can be built: index, platform, manifest and config, all verified.

It must not download layers.
"""

from __future__ import annotations

from dataclasses import dataclass

from imagecache.builder.image_source import ImageSource
from imagecache.digest import ChainID, DiffID, chain_ids
from imagecache.limits import Limits
from imagecache.oci.descriptor import Descriptor, Platform
from imagecache.oci.manifest import Index, Manifest, parse_config, parse_document, parse_manifest
from imagecache.oci.platform import matches, no_match, select
from imagecache.oci.reference import Reference


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
    index: Descriptor | None
    manifest: Descriptor
    config: Descriptor
    layers: tuple[LayerPosition, ...]
    """Bottom first."""
    private: bool
    documents: tuple[tuple[Descriptor, bytes], ...]
    """Index, manifest and config, verified."""


async def resolve(source: ImageSource, reference: Reference, platform: Platform, limits: Limits) -> ResolvedImage:
    """Read everything about an image except for its layers."""
    top = await source.resolve(reference)
    documents = [(top.descriptor, top.body)]
    document = parse_document(top.body, top.descriptor.media_type, limits)
    index: Descriptor | None = None
    if isinstance(document, Index):
        index = top.descriptor
        manifest_descriptor = select(document, platform)
        body = await source.document(reference, manifest_descriptor)
        documents.append((manifest_descriptor, body))
        manifest = parse_manifest(body, manifest_descriptor.media_type, limits)
    else:
        manifest_descriptor, manifest = top.descriptor, document
    config_body = await source.document(reference, manifest.config)
    documents.append((manifest.config, config_body))
    config = parse_config(config_body, manifest, limits)
    # A single manifest, and an entry of an index without a platform, are known by their config only.
    if config.platform.architecture and not matches(platform, config.platform):
        raise no_match(platform, [config.platform])
    return ResolvedImage(
        reference=reference,
        platform=config.platform,
        index=index,
        manifest=manifest_descriptor,
        config=manifest.config,
        layers=_layers(manifest, config.diff_ids),
        private=top.private,
        documents=tuple(documents),
    )


def _layers(manifest: Manifest, diff_ids: tuple[DiffID, ...]) -> tuple[LayerPosition, ...]:
    chain = chain_ids(diff_ids)
    return tuple(
        LayerPosition(diff_id=diff_id, chain_id=chain[depth], blob=blob, below=tuple(reversed(chain[:depth])))
        for depth, (diff_id, blob) in enumerate(zip(diff_ids, manifest.layers, strict=True))
    )
