"""Which extended attributes of a tar entry an inode gets, as ``setxattr(2)`` on ext4 would decide.

containerd drops every ``trusted.*``, sets the rest and lets the kernel judge. We also drop ``user.overlay.*``: see
``docs/adr/0005-overlay-xattrs-from-tars-are-dropped.md``. It must not change an inode. Source:
``docs/internals/unpack-rules.md`` §13; containerd ``pkg/archive/tar_unix.go`` (setxattr), Linux ``fs/xattr.c``,
``security/commoncap.c``.
"""

from __future__ import annotations

from collections.abc import Mapping

from imagecache.errors import LimitExceeded, UnsafeLayer
from imagecache.layer.tar_entry import quoted
from imagecache.limits import Limits

CAPABILITY = b"security.capability"
OPAQUE = b"trusted.overlay.opaque"
ORIGIN = b"trusted.overlay.origin"

_DROPPED = (b"trusted.", b"user.overlay.")
_SUPPORTED = (b"user.", b"security.")
"""``system.posix_acl_*`` is not here: a layer has no ACLs, as on a filesystem without them (ADR 4)."""
_CAPABILITY_FORMS = {2: 20, 3: 24}
"""Revision (top byte of the first word, little-endian) to size: ``struct vfs_cap_data`` and ``vfs_ns_cap_data``."""


def settable(name: bytes, given: Mapping[bytes, bytes], *, user: bool, limits: Limits) -> dict[bytes, bytes]:
    """The attributes that the entry ``name`` keeps; ``user``: files and directories, which alone can have ``user.*``.

    Raises UnsafeLayer where the kernel refuses and the pull fails, LimitExceeded.
    """
    kept: dict[bytes, bytes] = {}
    for key, value in given.items():
        if key.startswith(_DROPPED):
            continue
        # Before the namespace is looked at, as in the kernel: ERANGE fails the pull, EOPNOTSUPP does not.
        if not 0 < len(key) <= limits.name_length:
            raise UnsafeLayer(f"tar entry {quoted(name)} has an xattr name of {len(key)} bytes")
        if not key.startswith(_SUPPORTED) or (key.startswith(b"user.") and not user):
            continue
        _check(name, key, value, limits)
        kept[key] = value
    return kept


def _check(name: bytes, key: bytes, value: bytes, limits: Limits) -> None:
    if key in _SUPPORTED:
        raise UnsafeLayer(f"tar entry {quoted(name)} has an xattr without a name: {quoted(key)}")
    if len(value) > limits.xattr_value:
        raise LimitExceeded(f"xattr {quoted(key)} of {quoted(name)} is over {limits.xattr_value} bytes")
    if key == CAPABILITY and (len(value) < 4 or _CAPABILITY_FORMS.get(value[3]) != len(value)):
        raise UnsafeLayer(f"tar entry {quoted(name)} has a malformed {key.decode()}")


def check_total(name: bytes, xattrs: Mapping[bytes, bytes], limits: Limits) -> None:
    """All attributes of one inode together. Raises LimitExceeded."""
    total = sum(len(key) + len(value) for key, value in xattrs.items())
    if total > limits.xattrs_size:
        raise LimitExceeded(f"the xattrs of {quoted(name)} take {total} bytes, over the limit of {limits.xattrs_size}")
