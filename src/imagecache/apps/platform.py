"""The OCI platform of this machine."""

from __future__ import annotations

import os
import sys

from imagecache.oci.descriptor import Platform
from imagecache.oci.platform import normalise

_NARROW = {"aarch64": "armv7l", "x86_64": "i386"}
"""What a 32-bit userland of a 64-bit kernel is: this program, kubelet and containerd are of the userland."""


def host_platform() -> Platform:
    machine = os.uname().machine
    if sys.maxsize < 1 << 32:
        machine = _NARROW.get(machine, machine)
    return normalise(Platform(os="linux", architecture=machine))
