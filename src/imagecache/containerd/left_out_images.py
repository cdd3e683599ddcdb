"""Images that CRI leaves out when containerd starts, although their records are there.

CRI looks at every record once, when it starts, and asks the snapshotter for the image's uppermost snapshot. If a proxy
snapshotter does not answer then, because its agent is restarted at that moment or the machine is slow, CRI does not
have the image until something happens to its record: kubelet pulls it again. Sources: containerd
``internal/cri/server/images/check.go``, in 1.6 ``pkg/cri/server/restart.go``.
"""

from __future__ import annotations

from imagecache.containerd.api import Containerd
from imagecache.containerd.image_records import CRI_LABELS, CRI_NAMESPACE

_AT_ONCE = 64
"""Images that CRI is asked for at a time."""


async def restore(containerd: Containerd) -> tuple[str, ...]:
    """Let CRI look again at the records that it has handled before and does not have; returns their names.

    Raises ContainerdUnavailable, also while CRI starts.
    """
    images = containerd.session(CRI_NAMESPACE).images
    handled = [image.name for image in await images.all() if CRI_LABELS.items() <= image.labels.items()]
    left_out: list[str] = []
    for start in range(0, len(handled), _AT_ONCE):
        names = handled[start : start + _AT_ONCE]
        known = await containerd.cri_images(names)
        if known is None:
            return ()
        left_out += (name for name in names if name not in known)
    for name in left_out:
        await images.touch(name)
    return tuple(left_out)
