"""What containerd records about a pulled image: its names, and the labels that keep its parts.

Attach writes what a pull would, so that containerd, CRI and kubelet see no difference and containerd's own
collector keeps and removes the parts. Sources: containerd ``core/images`` (ChildGCLabels),
``core/remotes/docker`` (distribution source), ``internal/cri/server/images`` (names and labels). Two labels are more
than a pull writes: ``PINNED`` and ``SERVED``. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from imagecache.containerd.api import StoredImage
from imagecache.oci.manifest import Index
from imagecache.oci.mediatypes import is_manifest
from imagecache.oci.reference import Reference
from imagecache.store.bundle_document import ImageRecord

CRI_NAMESPACE = "k8s.io"
CRI_LABELS = {"io.cri-containerd.image": "managed"}
PINNED = {"io.cri-containerd.pinned": "pinned"}
"""On a record: kubelet's image collection leaves the image alone, under all its names. containerd 1.6 ignores it."""
SERVED = {"imagecache.dev/layers": "layer images; before export, push or save: ctr content fetch"}
"""On a record: why its blobs are not there, and how to get them. `ctr images ls` shows it.

What exports or pushes an image fails with the digest alone (containerd, core/metadata/content.go, ``checkAccess``). A
pull or fetch replaces all labels of the record, so this one goes when it is no longer true.
"""
BEFORE = "imagecache.dev/before"
"""On a record that the node had before, and that points at an image of ours since: the digest of its own image."""
SNAPSHOT_REF = "containerd.io/snapshot.ref"
SNAPSHOT_DIFF_ID = "containerd.io/snapshot/diff-id"
_CONTENT_REF = "containerd.io/gc.ref.content."
_SNAPSHOT_ROOT = "containerd.io/gc.ref.snapshot."
_UNPACKED = "imagecache.dev/unpacked."
"""On a config, with the name of a snapshotter: we have unpacked the image there, so it is ours to take back."""
_SOURCE = "containerd.io/distribution.source."


def names(image: ImageRecord) -> tuple[str, ...]:
    """The names that a pull through CRI creates: by tag (unless the reference has a digest), and by digest."""
    digest = f"{image.repository}@{image.target.digest}"
    tag = tag_name(image)
    return (tag, digest) if tag else (digest,)


def by_digest(image: ImageRecord) -> str:
    """The name that means this image and no other."""
    return names(image)[-1]


def tag_name(image: ImageRecord) -> str:
    """The name that may come to mean another image; empty for a reference with a digest."""
    reference = Reference.parse(image.name)
    return "" if reference.digest else reference.cri_name


def is_ours(record: StoredImage) -> bool:
    """Whether we have made the record, or point it at an image of ours."""
    return SERVED.items() <= record.labels.items()


def is_pinned(record: StoredImage) -> bool:
    """By the node, such as the sandbox image."""
    return PINNED.items() <= record.labels.items() and not is_ours(record)


def labels_of(record: StoredImage | None, image: ImageRecord) -> dict[str, str]:
    """For a name of CRI's that is to mean this image; ``record`` is what it is by now."""
    if record is None or record.target == image.target.digest or is_ours(record):
        return dict(CRI_LABELS)
    return {**CRI_LABELS, **SERVED, BEFORE: record.target}


def image_id(image: ImageRecord) -> str:
    """CRI's name for the image itself, recorded beside its references."""
    return str(image.config.digest)


def index_labels(image: ImageRecord, index: Index) -> dict[str, str]:
    """Labels of the index: it keeps its manifests. Those of other platforms do not exist, which is harmless."""
    labels: dict[str, str] = {}
    counters = {"m.": 0, "": 0}
    for entry in index.manifests:
        kind = "m." if is_manifest(entry.media_type) else ""
        labels[f"{_CONTENT_REF}{kind}{counters[kind]}"] = entry.digest
        counters[kind] += 1
    return labels | _source(image)


def manifest_labels(image: ImageRecord) -> dict[str, str]:
    """Labels of the manifest: it keeps its config. Layers are listed as after a pull, although they do not exist."""
    layers = {f"{_CONTENT_REF}l.{number}": layer.blob.digest for number, layer in enumerate(image.layers)}
    return {f"{_CONTENT_REF}config": image.config.digest, **layers, **_source(image)}


def config_labels(image: ImageRecord, snapshotter: str) -> dict[str, str]:
    """Labels of the config: it keeps the top snapshot, which keeps its parents."""
    top = {_SNAPSHOT_ROOT + snapshotter: image.layers[-1].chain_id} if image.layers else {}
    return top | _source(image)


def unpacked_labels(image: ImageRecord, found: Mapping[str, str], snapshotters: Collection[str]) -> dict[str, str]:
    """Changes of the config's labels, by which it keeps the image's chain in ``snapshotters`` too.

    Chains that we have unpacked into other snapshotters are let go; those that a pull has unpacked stay the pull's.
    ``found`` are the labels of the config; an empty value removes one.
    """
    changes: dict[str, str] = {}
    for name in unpacked_into(found) - frozenset(snapshotters):
        changes |= {_SNAPSHOT_ROOT + name: "", _UNPACKED + name: ""}
    for name in snapshotters if image.layers else ():
        top = image.layers[-1].chain_id
        if found.get(_SNAPSHOT_ROOT + name) != top:
            changes |= {_SNAPSHOT_ROOT + name: top, _UNPACKED + name: "true"}
    return changes


def unpacked_into(labels: Mapping[str, str]) -> frozenset[str]:
    """Snapshotters that we have unpacked an image into, by the labels of its config."""
    return frozenset(key.removeprefix(_UNPACKED) for key in labels if key.startswith(_UNPACKED))


def _source(image: ImageRecord) -> dict[str, str]:
    """Where a push to the same registry finds the blobs, which then need not be here. Hosts without port, as there."""
    host, _, path = image.repository.partition("/")
    return {_SOURCE + re.sub(r":[0-9]+$", "", host).strip("[]"): path}
