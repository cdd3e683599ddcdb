"""Images that CRI leaves out when containerd starts, although their records are there.

CRI looks at every record once, when it starts, and asks the snapshotter for the image's uppermost snapshot. If a proxy
snapshotter does not answer then, because its agent is restarted at that moment or the machine is slow, CRI does not
have the image until something happens to its record: kubelet pulls it again. Sources: containerd
``internal/cri/server/images/check.go``, in 1.6 ``pkg/cri/server/restart.go``.
"""

from __future__ import annotations

from imagecache.containerd.api import Containerd, StoredImage
from imagecache.containerd.image_records import CRI_LABELS, CRI_NAMESPACE
from imagecache.errors import InvalidReference
from imagecache.oci.reference import Reference

_AT_ONCE = 64
"""Images that CRI is asked for at a time."""


async def restore(containerd: Containerd) -> tuple[str, ...]:
    """Let CRI look again at the records that it has handled before and does not have; returns their names.

    Raises ContainerdUnavailable, also while CRI starts.
    """
    session = containerd.session(CRI_NAMESPACE)
    handled = [image for image in await session.images.all() if _can_be_asked_for(image)]
    left_out: list[StoredImage] = []
    for start in range(0, len(handled), _AT_ONCE):
        images = handled[start : start + _AT_ONCE]
        known = await containerd.cri_images([image.name for image in images])
        if known is None:
            return ()
        left_out += (image for image in images if image.name not in known)
    # one whose document is gone is rightly left out, and CRI would try again without end
    found = [image for image in left_out if await session.content.labels(image.target) is not None]
    for image in found:
        await session.images.touch(image.name)
    return tuple(image.name for image in found)


def _can_be_asked_for(image: StoredImage) -> bool:
    """CRI has handled it, under the name that it looks up when it is asked for that: ``ctr`` makes others too.

    The record of an image's id comes and goes with those of its names.
    """
    try:
        normal = Reference.parse(image.name).cri_name
    except InvalidReference:
        return False
    return normal == image.name and CRI_LABELS.items() <= image.labels.items()
