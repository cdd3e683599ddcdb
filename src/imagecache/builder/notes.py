"""What is unusual about an image, in words for ``describe``: most of all that only the cache makes it usable.

A build takes a little more than containerd does, where that is safe. A node that has the image from a cache starts it;
one that has to pull it cannot. Pure; it must not refuse anything.
"""

from __future__ import annotations

from imagecache.layer.compression import Compression
from imagecache.oci import mediatypes
from imagecache.oci.descriptor import Descriptor, Platform
from imagecache.oci.manifest import Manifest
from imagecache.oci.platform import matches, normalise, shown
from imagecache.oci.resolved import Resolved

_WITHOUT = "will not pull without the cache"


def of_documents(top: Resolved, manifest: Manifest, stated: Platform, wanted: Platform) -> tuple[str, ...]:
    """Notes that follow from documents.

    Args:
        top: what the registry answered for the reference.
        manifest: of the image.
        stated: the platform in its config.
        wanted: the platform of the build.
    """
    found = []
    if not top.typed:  # core/remotes/docker/resolver.go takes the type from the header alone
        found.append(f"{_WITHOUT}: the registry's Content-Type is not the type of the manifest")
    if stated.architecture and not matches(wanted, stated):  # a pull unpacks it (plugins/transfer/plugin.go, OnlyOS)
        found.append(
            f"its config says {shown(stated)}, and nodes of {normalise(wanted)} take it: "
            "its programs may not start there"
        )
    types = {layer.media_type for layer in manifest.layers}
    if mediatypes.DOCKER_LAYER_ZSTD in types:
        found.append(f"{_WITHOUT} by containerd 1.6: it does not know the type {mediatypes.DOCKER_LAYER_ZSTD}")
    if any(layer.urls for layer in manifest.layers):  # core/remotes/docker/fetcher.go, of any type
        found.append("may not pull without the cache: containerd asks the servers in its layers' urls first")
    return tuple(found)


def says_uncompressed(layer: Descriptor) -> bool:
    """Whether the layer's type makes containerd take it for a tar as it is; then its first bytes are of interest."""
    return not mediatypes.is_decompressed(layer.media_type)


def of_layer(layer: Descriptor, compression: Compression) -> tuple[str, ...]:
    """Notes about a layer whose bytes are known."""
    if compression is Compression.NONE or not says_uncompressed(layer):
        return ()
    return (f"{_WITHOUT}: layer {layer.digest.short} is compressed with {compression.value}, its type says it is not",)
