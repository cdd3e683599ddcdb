"""The OCI image layout that a store is: its three documents.

A bundle is an OCI artifact: a manifest with an artifactType and the empty config, whose first layer is the bundle
document and whose other layers are the images' own indexes, manifests and configs. ``index.json`` names it by the cache
id, so ``skopeo inspect --raw oci:<root>:<cache id>`` and other tools can read it. Sources: OCI image-spec v1.1
image-layout.md, manifest.md "Guidelines for Artifact Usage". Pure. It must not do I/O.
"""

from __future__ import annotations

import msgspec

from imagecache.digest import Digest
from imagecache.oci.descriptor import Descriptor
from imagecache.oci.mediatypes import OCI_INDEX, OCI_MANIFEST
from imagecache.store.bundle_document import BUNDLE_MEDIA_TYPE, Bundle

REF_NAME = "org.opencontainers.image.ref.name"
WHOLE = "dev.imagecache.bundle.digest"
"""On an entry of ``index.json``: the digest of the bundle document, of which this store may have a part."""
OCI_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
EMPTY = b"{}"
EMPTY_CONFIG = Descriptor(media_type="application/vnd.oci.empty.v1+json", digest=Digest.sha256(EMPTY), size=len(EMPTY))


class LayoutIndex(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """``index.json``."""

    schema_version: int = 2
    media_type: str = OCI_INDEX
    manifests: tuple[Descriptor, ...] = ()

    @property
    def ids(self) -> tuple[str, ...]:
        """Cache ids, in the order in which the bundles were put."""
        return tuple(entry.annotations.get(REF_NAME, "") for entry in self.manifests)

    def find(self, bundle_id: str) -> Descriptor | None:
        return next((entry for entry in self.manifests if entry.annotations.get(REF_NAME) == bundle_id), None)

    def whole(self, bundle_id: str) -> str:
        """Digest of the bundle document that the bundle is, or is a part of; empty: not known, or no such bundle."""
        entry = self.find(bundle_id)
        return entry.annotations.get(WHOLE, "") if entry is not None else ""

    def without(self, bundle_id: str) -> LayoutIndex:
        kept = tuple(entry for entry in self.manifests if entry.annotations.get(REF_NAME) != bundle_id)
        return msgspec.structs.replace(self, manifests=kept)

    def with_entry(self, entry: Descriptor) -> LayoutIndex:
        return msgspec.structs.replace(self, manifests=(*self.manifests, entry))


class ArtifactManifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The manifest of one bundle."""

    schema_version: int = 2
    media_type: str = OCI_MANIFEST
    artifact_type: str = BUNDLE_MEDIA_TYPE
    config: Descriptor = EMPTY_CONFIG
    layers: tuple[Descriptor, ...]
    annotations: dict[str, str] = {}


def artifact_manifest(document: Bundle, body: Descriptor) -> ArtifactManifest:
    """The manifest of a bundle whose encoded document is the blob ``body``."""
    found = {
        descriptor.digest: Descriptor(media_type=descriptor.media_type, digest=descriptor.digest, size=descriptor.size)
        for image in document.images
        for descriptor in image.documents
    }
    return ArtifactManifest(
        layers=(body, *found.values()), annotations={"org.opencontainers.image.created": document.created}
    )


def index_entry(bundle_id: str, manifest: bytes, whole: Digest) -> Descriptor:
    return Descriptor(
        media_type=OCI_MANIFEST,
        digest=Digest.sha256(manifest),
        size=len(manifest),
        annotations={REF_NAME: bundle_id, WHOLE: str(whole)},
        artifact_type=BUNDLE_MEDIA_TYPE,
    )
