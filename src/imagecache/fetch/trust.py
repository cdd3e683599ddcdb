"""A bundle document against the documents that it names: from the image's digest to every layer's diffID. Pure.

The document itself is the controller's (``store.expected_bundle``). The digest of each reference proves the manifest,
or the indexes above it one after the other, the manifest its config, the config the diffIDs, and a diffID the tar in a
layer image, from which the rest of it follows (``builder.prove``). So a wrong link is found before a byte of a layer is
fetched, also one that the controller has made.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from imagecache.digest import Digest, chain_ids
from imagecache.erofs.layer_header import DATA_START
from imagecache.errors import LimitExceeded, StoreCorrupt
from imagecache.limits import DEFAULT, Limits
from imagecache.oci.manifest import parse_config, parse_index, parse_manifest
from imagecache.store.bundle_document import Bundle, ImageRecord, LayerRecord
from imagecache.store.layer_name import LayerName, Space


def check(document: Bundle, bodies: Mapping[Digest, bytes], limits: Limits = DEFAULT) -> None:
    """``bodies`` are the documents that it names, already verified by their digests.

    Raises StoreCorrupt, LimitExceeded, and what malformed documents raise.
    """
    files: dict[LayerName, LayerRecord] = {}
    for image in document.images:
        _check_documents(image, bodies)
        for layer in image.layers:
            _check_layer(image, layer, limits)
            same = files.setdefault(layer.name, layer)
            # A layer is fetched once, by the first record: the others must mean the same file.
            _agree((same.digest, same.size) == (layer.digest, layer.size), image, f"two files for {layer.name}")


def _check_documents(image: ImageRecord, bodies: Mapping[Digest, bytes]) -> None:
    for index, below in pairwise((*image.indexes, image.manifest)):
        listed = parse_index(bodies[index.digest], index.media_type).digests
        _agree(below.digest in listed, image, "a manifest that its index does not list")
    manifest = parse_manifest(bodies[image.manifest.digest], image.manifest.media_type)
    _agree(manifest.config.digest == image.config.digest, image, "another config than its manifest")
    config = parse_config(bodies[image.config.digest], manifest)
    layers = image.layers
    _agree(
        [layer.digest for layer in manifest.layers] == [layer.blob.digest for layer in layers], image, "other layers"
    )
    _agree(list(config.diff_ids) == [layer.diff_id for layer in layers], image, "other diffIDs than its config")
    _agree(list(chain_ids(config.diff_ids)) == [layer.chain_id for layer in layers], image, "wrong chainIDs")


def _check_layer(image: ImageRecord, layer: LayerRecord, limits: Limits) -> None:
    names = (LayerName(Space.LAYERS, layer.diff_id), LayerName(Space.CHAINS, layer.chain_id))
    _agree(layer.name in names, image, f"layer image {layer.name} for {layer.diff_id}")
    _agree(
        layer.tar_size >= 0 and layer.size >= DATA_START + layer.tar_size,
        image,
        "a layer image that is too small for its tar",
    )
    _agree({layer.digest.algorithm, layer.diff_id.algorithm} == {"sha256"}, image, "another algorithm than sha256")
    most = limits.layer_uncompressed  # before it is fetched: the proof would find it too, but with the disk full
    if layer.size > most:
        raise LimitExceeded(f"layer image {layer.name} has {layer.size} bytes; the limit is {most}")


def _agree(holds: bool, image: ImageRecord, what: str) -> None:
    if not holds:
        raise StoreCorrupt(
            f"the store's bundle has {what}", hint="delete the image cache and create it again", image=image.reference
        )
