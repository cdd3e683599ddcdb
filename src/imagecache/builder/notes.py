"""What is unusual about an image, in words for ``describe``: most of all that only the cache makes it usable.

A build takes a little more than containerd does, where that is safe. A node that has the image from a cache starts it;
one that has to pull it cannot. Pure; it must not refuse anything.
"""

from __future__ import annotations

from collections.abc import Iterable

from imagecache.layer.compression import Compression
from imagecache.oci import mediatypes
from imagecache.oci.descriptor import Descriptor, Platform
from imagecache.oci.manifest import Manifest
from imagecache.oci.platform import matches, normalise, shown
from imagecache.oci.resolved import Resolved

_WITHOUT = "will not pull without the cache"


def of_documents(
    top: Resolved, manifest: Manifest, stated: Platform, wanted: Platform, listed: Iterable[Platform | None]
) -> tuple[str, ...]:
    """Notes that follow from documents.

    Args:
        top: what the registry answered for the reference.
        manifest: of the image.
        stated: the platform in its config.
        wanted: the platform of the build.
        listed: the platforms of the entries of indexes that led to the manifest.
    """
    found = []
    if not top.typed:  # core/remotes/docker/resolver.go takes the type from the header alone
        found.append(f"{_WITHOUT}: the registry's Content-Type is not the type of the manifest")
    if stated.architecture and not matches(wanted, stated):  # a pull unpacks it (plugins/transfer/plugin.go, OnlyOS)
        found.append(
            f"its config says {shown(stated)}, and nodes of {normalise(wanted)} take it: its programs may not start"
            " there"
        )
    found += _only_1_6(stated, wanted, listed)
    types = {layer.media_type for layer in manifest.layers}
    if mediatypes.DOCKER_LAYER_ZSTD in types:
        found.append(f"{_WITHOUT} by containerd 1.6: it does not know the type {mediatypes.DOCKER_LAYER_ZSTD}")
    if any(layer.urls for layer in manifest.layers):  # core/remotes/docker/fetcher.go, of any type
        found.append("may not pull without the cache: containerd asks the servers in its layers' urls first")
    return tuple(found)


def _only_1_6(stated: Platform, wanted: Platform, listed: Iterable[Platform | None]) -> list[str]:
    """What containerd 2.4 does not take of platforms that 1.6 takes, and so do we."""
    node = normalise(wanted)
    reasons = [
        f"its index has it for {shown(entry)} and not {shown(node)}, and 2.4 takes no other"
        for entry in map(normalise, filter(None, listed))
        # of an index 2.4 fetches what is for the node's own platform (core/transfer/image/imagestore.go, ImageFilter)
        if (entry.os, entry.architecture, entry.variant) != (node.os, node.architecture, node.variant)
    ]
    # 2.4 fetches such an image, and does not unpack it (platforms, OnlyOS); 1.6 knows no os.features
    if not set(stated.os_features) <= set(node.os_features):
        reasons.append(f"its config says {shown(normalise(stated))}, and {shown(node)} has no such feature")
    return [f"{_WITHOUT} by containerd 2.4: {reason}" for reason in dict.fromkeys(reasons)]


def says_uncompressed(layer: Descriptor) -> bool:
    """Whether the layer's type makes containerd take it for a tar as it is; then its first bytes are of interest."""
    return not mediatypes.is_decompressed(layer.media_type)


def of_layer(layer: Descriptor, compression: Compression) -> tuple[str, ...]:
    """Notes about a layer whose bytes are known."""
    if compression is Compression.NONE or not says_uncompressed(layer):
        return ()
    return (f"{_WITHOUT}: layer {layer.digest.short} is compressed with {compression.value}, its type says it is not",)
