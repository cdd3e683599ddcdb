"""The ImageCache that a miss makes: everything that the pod starts from, under a name that follows from that.

So every pod with the same images and credentials asks the API server for the same object, and no memory is needed: the
second create says AlreadyExists, after a restart and from a second controller too. ECI's name has an opaque id in the
same place. Source: eci-api §4. Pure.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from imagecache.api import annotations as known
from imagecache.api.assignment import ARCHITECTURES
from imagecache.api.effective_spec import MAX_IMAGES, SIZE_MAX
from imagecache.api.parse import is_name
from imagecache.errors import InvalidManifest
from imagecache.limits import GIB
from imagecache.match.index import parsed
from imagecache.match.keys import EXTRA_STORAGE
from imagecache.match.views import AutoCache, PodView
from imagecache.written import refusal

PREFIX = "auto-create-for-"
MIRROR = "kubernetes.io/config.mirror"
"""Annotation of the API's copy of a static pod (core/v1 MirrorPodAnnotationKey)."""
SYSTEM = "kube-system"
_LETTERS = 20
_SIZE = 30
"""GiB, as ECI's."""
_QUANTITY = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,9}))?(Ki|Mi|Gi|Ti|k|M|G|T|)")
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def autocache(pod: PodView) -> tuple[AutoCache | None, tuple[str, ...]]:
    """The cache for this pod's images, and what of the pod is ignored; None with the reason when there can be none."""
    if pod.namespace == SYSTEM or MIRROR in pod.annotations:
        return None, (f"no cache is made for static pods and those of {SYSTEM}",)
    references = {image: parsed(image) for image in pod.images}
    images = tuple(sorted({reference.name for reference in references.values() if reference is not None}))
    strange = [image for image, reference in references.items() if reference is None]
    if strange:
        return None, (f"no cache is made: not an image reference: {strange[0][:80]!r}",)
    if len(images) > MAX_IMAGES:
        return None, (f"no cache is made: {len(images)} images, a cache has at most {MAX_IMAGES}",)
    notes: list[str] = []
    annotations = _annotations(pod, notes)
    secrets = tuple(sorted({f"{pod.namespace}:{name}" for name in pod.pull_secrets if is_name(name)}))
    name = _name(images, secrets, pod.architecture, annotations)
    return AutoCache(name, images, secrets, _size(pod, notes), annotations), tuple(notes)


def _name(images: tuple[str, ...], secrets: tuple[str, ...], architecture: str, annotations: Mapping[str, str]) -> str:
    """With the names of the secrets, so that two teams never share one cache of a private image."""
    registries = [f"{key}={annotations[key]}" for key in (known.PLAIN_HTTP, known.INSECURE) if key in annotations]
    text = "\n".join((architecture, *images, "", *secrets, *registries))
    return PREFIX + hashlib.sha256(text.encode(errors="replace")).hexdigest()[:_LETTERS]


def _annotations(pod: PodView, notes: list[str]) -> dict[str, str]:
    """Those that the build needs."""
    found = {}
    for key in (known.PLAIN_HTTP, known.INSECURE):
        try:
            hosts = known.registries(pod.annotations, key)
        except InvalidManifest as error:
            notes.append(f"pod: {error}; ignored")
            continue
        if hosts:
            found[key] = ",".join(sorted(hosts))
    if pod.architecture in ARCHITECTURES:  # of others the document knows none, and the nodes' are built for
        found[known.CPU_ARCH] = pod.architecture
    return found


def _size(pod: PodView, notes: list[str]) -> int:
    """GiB."""
    text = known.value(pod.annotations, EXTRA_STORAGE)
    if not text:
        return _SIZE
    found = _QUANTITY.fullmatch(text)
    if found is None:
        notes.append(refusal(f"pod: {EXTRA_STORAGE}: {text[:80]!r} is not a size, ignored", text[:80]))
        return _SIZE
    whole, fraction, unit = found[1], found[2] or "", found[3]
    scale: int = 10 ** len(fraction) * GIB
    extra = -(-int(whole + fraction) * _UNITS[unit] // scale)  # rounded up
    return min(_SIZE + extra, SIZE_MAX)
