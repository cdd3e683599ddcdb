"""Loop devices: for kernels that do not mount a filesystem straight from a file, and for reads with O_DIRECT (ADR 21).

Read-only, direct I/O (so that the page cache holds the data once) and autoclear (the kernel detaches the device after
its last mount, so nothing has to be cleaned up). Source: linux/loop.h. Every function raises OSError and nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path

CONTROL = Path("/dev/loop-control")
_DEVICE = re.compile(r"/dev/loop[0-9]+")
_CTL_GET_FREE = 0x4C82
_CONFIGURE = 0x4C0A
_FLAGS = 1 | 4
"""LO_FLAGS_READ_ONLY, LO_FLAGS_AUTOCLEAR."""
_DIRECT_IO = 16
"""LO_FLAGS_DIRECT_IO."""
_CONFIG = struct.Struct("=II 48x I I 176x 64x")
"""loop_config: fd, block_size, then loop_info64 (of which only lo_flags is set here), then 8 reserved words."""
_BLOCK_SIZE = 512
_ATTEMPTS = 64
"""Losing the race for a free device this often means that something else is wrong."""


@contextlib.contextmanager
def attached(image: Path, *, direct: bool = True) -> Iterator[str]:
    """Path of a loop device over ``image``. It can be mounted in the block; afterwards the mount keeps it.

    ``direct``: with direct I/O, where the disk can do that in blocks of 512 bytes.
    """
    backing = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
    try:
        path, device = _attach(backing, direct=direct)
    finally:
        os.close(backing)
    try:
        yield path
    finally:
        os.close(device)


def _attach(backing: int, *, direct: bool) -> tuple[str, int]:
    """Attach to a free device, or to the next one when another process was faster."""
    control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_ATTEMPTS):
            path = f"/dev/loop{fcntl.ioctl(control, _CTL_GET_FREE)}"
            device = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _configure(device, backing, direct=direct)
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY:
                    raise
            else:
                return path, device
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, "no free loop device", str(CONTROL))


def _configure(device: int, backing: int, *, direct: bool) -> None:
    if direct:
        try:
            fcntl.ioctl(device, _CONFIGURE, _CONFIG.pack(backing, _BLOCK_SIZE, 0, _FLAGS | _DIRECT_IO))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        else:
            return
    # also what is left on a disk with sectors of 4096 bytes; older kernels leave direct I/O out by themselves
    fcntl.ioctl(device, _CONFIGURE, _CONFIG.pack(backing, _BLOCK_SIZE, 0, _FLAGS))


def missing_node(error: OSError) -> str:
    """Path of the loop device that the kernel has and ``/dev`` of this process does not; empty for other errors.

    A container's /dev has the devices that there were when it started; the kernel makes more when they are asked for.
    """
    path = str(error.filename or "")
    return path if error.errno == errno.ENOENT and _DEVICE.fullmatch(path) else ""


def backing_file(device: str) -> str:
    """Path of the file behind ``/dev/loopN``; empty when it has none."""
    try:
        return Path(f"/sys/block/{Path(device).name}/loop/backing_file").read_text().rstrip("\n")
    except OSError:
        return ""
