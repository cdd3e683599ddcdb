"""What this kernel can do with a layer image, found by trying: mount it from the file, stack it, use a loop device.

Versions prove little, since distributions backport and disable features. So a small layer image is written beside the
store, on the same filesystem, and mounted as real ones are. Without CAP_SYS_ADMIN the checks report that. Everything is
removed again.
"""

from __future__ import annotations

import contextlib
import platform
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from imagecache.digest import DiffID, Digest
from imagecache.erofs.layer_header import DATA_START, LayerFlags, LayerHeader
from imagecache.erofs.writer import write_image
from imagecache.errors import ImageCacheError, PrivilegeMissing
from imagecache.host import loop_devices
from imagecache.host.checks import Check, failed, ok, problem, warning
from imagecache.host.erofs_kernel import FROM_FILE_SINCE, MENDED, may_read_zeros, needs_loop, version
from imagecache.host.mounter import KernelMounter, OnLoop
from imagecache.host.mountinfo import mounted_at
from imagecache.host.realigned import Realign
from imagecache.settings.choices import MountFrom
from imagecache.snapshotter.mounts import overlay_options
from imagecache.tree import Inode, directory

_CONTENT = b"imagecache\n"
PROBE_NAME = "probe"
"""Of the only file in the probe's image."""
_AREA = "kernel"
_ZEROS = "what is mounted from a file may read as zeros after a process that read it was killed"
_NEW = f"kernel {', '.join(f'{major}.{minor}.{patch}' for (major, minor), patch in MENDED.items())} and 7.0 are mended"
_REMEDY = f"{_NEW}; if the distribution has upstream eade54040384 in this one, set mount_from to file"


def nearest(path: Path) -> Path:
    """The closest existing parent directory: what ``path`` will be is on its filesystem."""
    return next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.is_dir())


def write_probe_image(path: Path, content: bytes = _CONTENT, *, owner: int = 0) -> None:
    """The smallest layer image with one file, ``probe``, of this user and group."""
    data = content.ljust(512, b"\0")
    root = directory()
    root.children[PROBE_NAME.encode()] = Inode(mode=stat.S_IFREG | 0o644, uid=owner, gid=owner, size=len(content))
    header = LayerHeader(tar_size=len(data), diff_id=DiffID(Digest.sha256(data)), entries=1, flags=LayerFlags(0))
    with path.open("x+b") as file:
        file.seek(DATA_START)
        file.write(data)
        file.flush()
        write_image(file.fileno(), root, header)


def check_kernel(
    beside: Path, realign: Realign | None = None, mount_from: MountFrom = MountFrom.AUTO, release: str = ""
) -> list[Check]:
    """Try everything on the filesystem of ``beside``. Blocking; never raises for what it finds.

    Args:
        beside: an existing writable directory, usually the store's.
        realign: as for ``KernelMounter``; with it 512-byte blocks are not required.
        mount_from: the setting.
        release: of the kernel; empty: the running one's.
    """
    release = release or platform.release()
    on_loop = needs_loop(mount_from, release)
    checks = [check_version(release, mount_from)]
    try:
        with tempfile.TemporaryDirectory(dir=beside, prefix=".probe-", ignore_cleanup_errors=True) as name:
            work = Path(name)
            image = work / "image.erofs"
            write_probe_image(image)
            overlays = overlay_options(layer_images=True, stable_inodes=True)
            mounter = KernelMounter(
                realign=realign, copies=work / "copies", overlays=overlays, on_loop=OnLoop(lambda _: on_loop)
            )
            checks.append(_tried("layer image", lambda: _mount(mounter, image, work / "mount")))
            checks.append(_tried("overlay", lambda: _stack(mounter, image, work)))
            checks.append(_tried("loop device", lambda: _loop(image, needed=on_loop)))
    except OSError as error:
        checks.append(problem(_AREA, "layer image", f"cannot write in {beside}: {error.strerror}", "run as root"))
    return checks


def check_version(release: str, mount_from: MountFrom = MountFrom.AUTO) -> Check:
    """How layer images are mounted on a kernel of this release (``uname -r``)."""
    series = version(release)[:2]
    if mount_from is MountFrom.LOOP and series >= (6, 4):
        return ok(_AREA, "version", f"{release}: layer images are on loop devices, as the setting mount_from says")
    if mount_from is MountFrom.AUTO and may_read_zeros(release):
        return warning(_AREA, "version", f"{release}: layer images are on loop devices, since {_ZEROS}", _REMEDY)
    if series >= FROM_FILE_SINCE:
        return ok(_AREA, "version", f"{release}: mounts layer images straight from the file")
    if series >= (6, 4):
        return warning(
            _AREA, "version", f"{release}: layer images need loop devices", "kernel 6.12 and later need none"
        )
    return warning(
        _AREA, "version", f"{release}: every layer image is copied once with 4096-byte blocks", "use 6.4 or later"
    )


def check_native(release: str) -> Check | None:
    """What containerd's erofs snapshotter does on such a kernel: it mounts from files; None: that is well."""
    if not may_read_zeros(release):
        return None
    detail = f"{release}: containerd mounts layer images from their files, and {_ZEROS}"
    return problem(_AREA, "native mode", detail, f"use proxy mode, which takes loop devices there; {_NEW}")


def _tried(name: str, attempt: Callable[[], Check]) -> Check:
    try:
        return attempt()
    except ImageCacheError as error:
        return failed(_AREA, name, error)
    except PermissionError as error:
        return failed(_AREA, name, PrivilegeMissing(f"{error.strerror}: {error.filename}", hint="run as root"))
    except OSError as error:
        return problem(_AREA, name, f"{error.strerror}: {error.filename}", "look at the last lines of dmesg")


def _mount(mounter: KernelMounter, image: Path, target: Path) -> Check:
    with _mounted(mounter, image, target):
        if (target / PROBE_NAME).read_bytes() != _CONTENT:
            return problem(_AREA, "layer image", "a mounted layer image reads wrong", "use another kernel")
        found = mounted_at(target)
    source = found.source if found else ""
    if source.startswith("/dev/loop"):
        return ok(_AREA, "layer image", "mounted on a loop device with direct I/O")
    if source != str(image):
        return warning(_AREA, "layer image", "mounted after a copy with 4096-byte blocks", "use kernel 6.4 or later")
    return ok(_AREA, "layer image", "mounted straight from the file, 512-byte blocks")


def _stack(mounter: KernelMounter, image: Path, work: Path) -> Check:
    """As for a container: a layer image below, a directory above."""
    upper, target = work / "upper", work / "merged"
    upper.mkdir()
    target.mkdir()
    with _mounted(mounter, image, work / "lower"):
        mounter.mount_overlay([work / "lower", upper], target)
        try:
            seen = (target / PROBE_NAME).read_bytes()
        finally:
            mounter.unmount(target)
    if seen != _CONTENT:
        return problem(_AREA, "overlay", "overlayfs over a layer image reads wrong", "use another kernel")
    return ok(_AREA, "overlay", "overlayfs over a layer image works")


def _loop(image: Path, *, needed: bool) -> Check:
    try:
        with loop_devices.attached(image) as device:
            return ok(_AREA, "loop device", f"{device} would work")
    except OSError as error:
        device = loop_devices.missing_node(error)
        words = f"{device} is not in /dev of this container" if device else f"none is available: {error.strerror}"
        if needed:
            return problem(_AREA, "loop device", words, "use the host's /dev" if device else "modprobe loop")
        return warning(_AREA, "loop device", words, "only needed before kernel 6.12, or for a store on overlayfs")


@contextlib.contextmanager
def _mounted(mounter: KernelMounter, image: Path, target: Path) -> Iterator[None]:
    mounter.mount(image, target)
    try:
        yield
    finally:
        mounter.unmount(target)
