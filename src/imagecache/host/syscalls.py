"""mount(2), umount2(2), unshare(2) and the file-descriptor mount calls, which Python's standard library does not have.

By ctypes with errno, and not through mount(8), which silently uses a buffered loop device where mount(2) mounts
straight from the file. Every function raises OSError and nothing else; ``mounter`` explains it. It must not keep
state.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_REMOUNT = 32
MS_BIND = 4096
_MS_PRIVATE = 1 << 18

# the same numbers on every architecture
_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT, _MOUNT_SETATTR = 428, 429, 430, 431, 432, 442
_CLOEXEC = 1
_SET_STRING, _CMD_CREATE = 1, 6
_FROM_EMPTY_PATH = 4
_AT_FDCWD = -100
_ATTR_RDONLY = 1
_OPEN_TREE_CLONE, _AT_RECURSIVE, _AT_EMPTY_PATH = 1, 0x8000, 0x1000
_ATTR_IDMAP = 0x100000
_CLONE_NEWNS, _CLONE_NEWUSER = 0x20000, 0x10000000
_NS_GET_NSTYPE = 0xB703

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _check(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)
    return result


def _text(value: str) -> ctypes.c_char_p:
    return ctypes.c_char_p(os.fsencode(value))


def mount(source: str, target: str, kind: str, flags: int = 0, options: str = "") -> None:
    """The classic call. ``kind`` is the filesystem type; ``options`` its comma-separated data, at most one page."""
    data = _text(options) if options else None
    _check(_libc.mount(_text(source), _text(target), _text(kind), ctypes.c_ulong(flags), data), target)


def unmount(target: str) -> None:
    """umount2(2) without flags: EBUSY while something uses the mount."""
    _check(_libc.umount2(_text(target), 0), target)


def mount_read_only(kind: str, options: list[tuple[str, str]], target: str) -> None:
    """fsopen, fsconfig, fsmount, move_mount (kernel 5.2): for more options than mount(2) takes.

    overlayfs accepts any number of ``lowerdir+`` this way since kernel 6.5.
    """
    context = _call(_FSOPEN, _text(kind), ctypes.c_uint(_CLOEXEC), what=kind)
    try:
        _configure(context, "source", kind)
        for key, value in options:
            _configure(context, key, value)
        _call(_FSCONFIG, ctypes.c_int(context), ctypes.c_uint(_CMD_CREATE), None, None, ctypes.c_int(0), what=kind)
        detached = _call(
            _FSMOUNT, ctypes.c_int(context), ctypes.c_uint(_CLOEXEC), ctypes.c_uint(_ATTR_RDONLY), what=kind
        )
    finally:
        os.close(context)
    try:
        _attach(detached, target)
    finally:
        os.close(detached)


def mount_mapped_clone(source: str, target: str, namespace: int) -> None:
    """open_tree, mount_setattr, move_mount (kernel 5.12): ``source`` and all mounts below it again, with mapped ids.

    ``namespace`` is a descriptor of the user namespace whose ids of the host the clone shows.
    """
    flags = _OPEN_TREE_CLONE | _AT_RECURSIVE | os.O_CLOEXEC
    clone = _call(_OPEN_TREE, ctypes.c_int(_AT_FDCWD), _text(source), ctypes.c_uint(flags), what=source)
    try:
        # struct mount_attr: set, clear, propagation, user namespace
        attributes = struct.pack("=4Q", _ATTR_IDMAP | _ATTR_RDONLY, 0, _MS_PRIVATE, namespace)
        _call(
            _MOUNT_SETATTR,
            ctypes.c_int(clone),
            _text(""),
            ctypes.c_uint(_AT_EMPTY_PATH | _AT_RECURSIVE),
            ctypes.c_char_p(attributes),
            ctypes.c_size_t(len(attributes)),
            what=source,
        )
        _attach(clone, target)
    finally:
        os.close(clone)


def leave_user_namespace() -> None:
    """unshare(2): this process, of one thread, is in a new user namespace. Its root becomes that of its mounts.

    The kernel refuses it below another root (user_namespaces(7)). To enter the mount namespace that one is in leaves
    that root (setns(2)); the host service, which is below no other, may not.
    """
    try:
        _check(_libc.unshare(ctypes.c_int(_CLONE_NEWUSER)), "user namespace")
    except OSError:
        mounts = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check(_libc.setns(ctypes.c_int(mounts), ctypes.c_int(_CLONE_NEWNS)), "mount namespace")
        finally:
            os.close(mounts)
        _check(_libc.unshare(ctypes.c_int(_CLONE_NEWUSER)), "user namespace")


def is_user_namespace(descriptor: int) -> bool:
    """ioctl_ns(2)."""
    try:
        return fcntl.ioctl(descriptor, _NS_GET_NSTYPE) == _CLONE_NEWUSER
    except OSError:  # it is no namespace
        return False


def _attach(detached: int, target: str) -> None:
    _call(
        _MOVE_MOUNT,
        ctypes.c_int(detached),
        _text(""),
        ctypes.c_int(_AT_FDCWD),
        _text(target),
        ctypes.c_uint(_FROM_EMPTY_PATH),
        what=target,
    )


def _configure(context: int, key: str, value: str) -> None:
    _call(
        _FSCONFIG,
        ctypes.c_int(context),
        ctypes.c_uint(_SET_STRING),
        _text(key),
        _text(value),
        ctypes.c_int(0),
        what=f"{key}={value}",
    )


_Argument = ctypes.c_char_p | ctypes.c_int | ctypes.c_uint | ctypes.c_size_t | None


def _call(number: int, *arguments: _Argument, what: str) -> int:
    return _check(_libc.syscall(ctypes.c_long(number), *arguments), what)
