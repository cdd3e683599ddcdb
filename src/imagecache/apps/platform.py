"""The OCI platform of this machine."""

from __future__ import annotations

import os

from imagecache.oci.descriptor import Platform
from imagecache.oci.platform import normalise


def host_platform() -> Platform:
    return normalise(Platform(os="linux", architecture=os.uname().machine))
