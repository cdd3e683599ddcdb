"""Whether this kernel shows layer images with the ids of a user namespace, found by trying what containerd does.

Kernel versions prove little here too: distributions backport, and a filesystem below decides as well (overlayfs, which
is under every node that is a container itself, cannot be mapped). The source is ``prepareIDMappedOverlay`` in
containerd's core/mount/mount_linux.go: a recursive clone of the directory that has the layers, with the ids mapped, is
what the overlay stands on.
"""

from __future__ import annotations

import array  # noqa: F401 - socket imports it when it sends, too late in a process whose / is the host's (chroot.py)
import contextlib
import errno
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from imagecache.errors import ImageCacheError
from imagecache.host import syscalls
from imagecache.host.mounter import KernelMounter
from imagecache.host.probe_kernel import PROBE_NAME, nearest, write_probe_image
from imagecache.host.systemd_units import USER_NAMESPACE

_OWNER = 666
"""Of the file in the image. A process without rights in the namespace above may map one id, its own, to any."""


def why_ids_are_not_mapped(root: Path, namespace: Path = USER_NAMESPACE) -> str:
    """One clause; empty when it works on the filesystem of ``root``, which need not exist. Blocking, some 20 ms.

    ``namespace`` is a user namespace for this, when it is there: the host service may make none.
    """
    beside = nearest(root)
    try:
        with tempfile.TemporaryDirectory(dir=beside, prefix=".probe-", ignore_cleanup_errors=True) as name:
            owner = _seen_owner(Path(name), namespace)
    except ImageCacheError as error:
        return str(error)
    except OSError as error:
        return f"{error.strerror} ({error.filename or beside})"
    return "" if owner == os.geteuid() else f"a mapped file of user {_OWNER} belongs to user {owner}"


def _seen_owner(work: Path, pinned: Path) -> int:
    """Of the image's file, through an overlay over a mapped clone."""
    mounter = KernelMounter()
    layers, mapped, upper, merged = (work / name for name in ("layers", "mapped", "upper", "merged"))
    for directory in (layers, mapped, upper, merged):
        directory.mkdir()
    image = work / "image.erofs"
    write_probe_image(image, owner=_OWNER)
    with contextlib.ExitStack() as undo:
        mounter.mount(image, layers / "1")
        undo.callback(mounter.unmount, layers / "1")
        with _user_namespace(pinned) as namespace:
            syscalls.mount_mapped_clone(str(layers), str(mapped), namespace)
        undo.callback(mounter.unmount, mapped)
        undo.callback(mounter.unmount, mapped / "1")
        mounter.mount_overlay([mapped / "1", upper], merged)
        undo.callback(mounter.unmount, merged)
        return (merged / PROBE_NAME).stat().st_uid


@contextlib.contextmanager
def _user_namespace(pinned: Path) -> Iterator[int]:
    """A descriptor of one in which this user is ``_OWNER``: the pinned one, or a new one. Raises OSError."""
    descriptor = _open_namespace(pinned)
    if descriptor is None:
        descriptor = _new_namespace()
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _open_namespace(path: Path) -> int | None:
    """None where there is no user namespace."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    if syscalls.is_user_namespace(descriptor):
        return descriptor
    os.close(descriptor)
    return None


def _new_namespace() -> int:
    """Raises OSError.

    Only a process that leaves its namespace can make one, so a child does, and sends it here: below another root, /proc
    may number processes differently.
    """
    ours, childs = socket.socketpair()
    with ours, childs:
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):  # the parent's code must not go on in here
                _send_namespace(childs)
            os._exit(0)
        childs.close()
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
        os.waitpid(child, 0)
    if not descriptors:
        raise OSError(errno.EPERM, "no user namespace can be made here")
    return descriptors[0]


def _send_namespace(to: socket.socket) -> None:
    user, group = os.geteuid(), os.getegid()
    syscalls.leave_user_namespace()
    Path("/proc/self/setgroups").write_text("deny")  # else one's own group cannot be mapped (user_namespaces(7))
    Path("/proc/self/uid_map").write_text(f"{_OWNER} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{_OWNER} {group} 1")
    descriptor = os.open("/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    socket.send_fds(to, [b"."], [descriptor])
