"""How large the layers of an image are in a registry, by the documents that a pull has left in containerd.

By chainID, so that a size is that of a snapshot whatever the image's name points at by now. It must not fetch anything.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from imagecache.containerd.api import ContentStore, Session
from imagecache.digest import Digest, chain_ids
from imagecache.errors import ContentError, InvalidInput
from imagecache.oci.manifest import Index, Manifest, detect_media_type, parse_config, parse_document

_DOCUMENTS = 100
"""Most documents of an image that are looked for: an index has one for each platform, and only ours is there."""


async def layer_sizes(session: Session, image: str, chains: Collection[str]) -> dict[str, int]:
    """Compressed bytes of those of the layers that the documents of ``image`` have, by chainID.

    ``image`` is the name of a record. Raises ContainerdUnavailable.
    """
    record = await session.images.get(image)
    waiting = deque([record.target] if record is not None else [])
    found: dict[str, int] = {}
    for _ in range(_DOCUMENTS):
        if not waiting or found.keys() >= set(chains):
            break
        document = await _document(session.content, waiting.popleft())
        if isinstance(document, Index):
            waiting.extend(document.digests)
        elif document is not None:
            found |= await _sizes(session.content, document)
    return {chain: size for chain, size in found.items() if chain in chains}


async def _document(content: ContentStore, digest: Digest) -> Index | Manifest | None:
    """None when it is not there, or is no document of an image."""
    data = await content.read(digest)
    if data is None:
        return None
    try:
        return parse_document(data, detect_media_type(data, ""))
    except (ContentError, InvalidInput):
        return None


async def _sizes(content: ContentStore, manifest: Manifest) -> dict[str, int]:
    data = await content.read(manifest.config.digest)
    if data is None:
        return {}
    try:
        diff_ids = parse_config(data, manifest).diff_ids
    except ContentError:
        return {}
    return {chain: layer.size for chain, layer in zip(chain_ids(diff_ids), manifest.layers, strict=True)}
