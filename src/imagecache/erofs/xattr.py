"""Extended attributes as EROFS stores them behind an inode. Pure.

A 12-byte header, then entries of four bytes (length of the name, prefix, length of the value), name and value, each
entry padded to four bytes. A number stands for the prefix of the name. We write no shared attributes and no filter, and
order entries by name, so equal attributes give equal bytes. Source: Linux ``fs/erofs/erofs_fs.h`` and ``xattr.c``. It
must not know which attributes mean something to overlayfs.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

from imagecache.erofs.format import align
from imagecache.errors import LimitExceeded, MalformedLayer
from imagecache.limits import DEFAULT, Limits

_HEADER: Final = bytes(12)
"""struct erofs_xattr_ibody_header: no name filter, no shared attributes."""
_ENTRY: Final = struct.Struct("<BBH")
_WHOLE_NAMES: Final = {b"system.posix_acl_access": 2, b"system.posix_acl_default": 3}
_PREFIXES: Final = {b"user.": 1, b"trusted.": 4, b"security.": 6}
_BY_INDEX: Final = {index: prefix for prefix, index in (_WHOLE_NAMES | _PREFIXES).items()}


def count(size: int) -> int:
    """``i_xattr_icount`` for a body of ``size`` bytes: 0, or a multiple of four from 16 on.

    It counts units of four bytes, and the whole header as one (``erofs_xattr_ibody_size``).
    """
    return (size - len(_HEADER)) // 4 + 1 if size else 0


def size(icount: int) -> int:
    """Bytes of the body for an ``i_xattr_icount``."""
    return len(_HEADER) + (icount - 1) * 4 if icount else 0


def encode(xattrs: Mapping[bytes, bytes], limits: Limits = DEFAULT) -> bytes:
    """The body; empty without attributes. Raises LimitExceeded, and MalformedLayer for a name EROFS cannot store."""
    if not xattrs:
        return b""
    body = _HEADER + b"".join(_entry(name, xattrs[name], limits) for name in sorted(xattrs))
    if len(body) > limits.xattrs_size:
        raise LimitExceeded(f"xattrs take {len(body)} bytes, xattrs_size is {limits.xattrs_size}")
    return body


def _entry(name: bytes, value: bytes, limits: Limits) -> bytes:
    index, suffix = _split(name)
    if len(suffix) > limits.name_length:
        raise LimitExceeded(f"xattr name of {len(suffix)} bytes, name_length is {limits.name_length}")
    if len(value) > limits.xattr_value:
        raise LimitExceeded(f"xattr {name!r} has {len(value)} bytes, xattr_value is {limits.xattr_value}")
    entry = _ENTRY.pack(len(suffix), index, len(value)) + suffix + value
    return entry.ljust(align(len(entry), 4), b"\0")


def _split(name: bytes) -> tuple[int, bytes]:
    index = _WHOLE_NAMES.get(name)
    if index is not None:
        return index, b""
    prefix, dot, suffix = name.partition(b".")
    index = _PREFIXES.get(prefix + dot)
    if index is None or not suffix or b"\0" in suffix:
        raise MalformedLayer(f"xattr {name[:80]!r} is in no namespace that EROFS can store")
    return index, suffix


def decode(body: bytes) -> dict[bytes, bytes]:
    """Full names to values. Raises MalformedLayer for a body that ``encode`` does not write."""
    if len(body) < len(_HEADER) + _ENTRY.size or body[: len(_HEADER)] != _HEADER:
        raise MalformedLayer("xattrs that are empty, shared or filtered do not occur in layer images")
    result: dict[bytes, bytes] = {}
    offset = len(_HEADER)
    while offset < len(body):
        name, value, offset = _decode_entry(body, offset)
        if name in result:
            raise MalformedLayer(f"xattr {name!r} occurs twice")
        result[name] = value
    return result


def _decode_entry(body: bytes, offset: int) -> tuple[bytes, bytes, int]:
    name_length, index, value_length = _ENTRY.unpack_from(body, offset)
    start = offset + _ENTRY.size
    end = start + name_length + value_length
    prefix = _BY_INDEX.get(index)
    if prefix is None or end > len(body) or (name_length == 0) != (prefix in _WHOLE_NAMES):
        raise MalformedLayer("an xattr entry leaves its inode or has an unknown prefix")
    return prefix + body[start : start + name_length], body[start + name_length : end], align(end, 4)
