"""Mounts of layer images: read-only, straight from the file, or on a loop device where that is asked for or needed.

All containers of a node share one EROFS mount per layer image, so its pages are cached once. A mount outlives this
process and not a reboot; both are normal, so every call looks at what is mounted first. It must not decide which layers
are mounted, when, or from what, and never unmounts by force: containers may use the mount.

A layer image that is mounted from its file and shall be on a loop device, or the other way round, is mounted once more,
over the first mount: containers that run keep that, new ones get the new one, and no moment has an empty directory
there. ``unmount`` takes all of them away.

``nosuid`` and ``nodev`` protect people who enter the mount on the host: overlayfs has flags of its own, so containers
keep setuid programs. ``noexec`` is not set: overlayfs would pass it on to containers.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from imagecache.errors import HostError, KernelUnsupported, MountFailed, PrivilegeMissing
from imagecache.host import loop_devices, syscalls
from imagecache.host.mountinfo import MOUNTINFO, Mount, mounted_at
from imagecache.host.realigned import Realign, RealignedCopies

if TYPE_CHECKING:  # prometheus_client is of no use to `imagecache mount`
    from imagecache.telemetry.metrics import Metrics

_LAYER_FLAGS = syscalls.MS_RDONLY | syscalls.MS_NOSUID | syscalls.MS_NODEV
_OPTIONS_MAX = 4000
"""mount(2) takes one page of options; the rest of it is for what the kernel adds."""
_SUPERBLOCK = struct.Struct("<I8xB")
_SUPERBLOCK_OFFSET = 1024
_EROFS_MAGIC = 0xE0F5E1E2


@dataclass(frozen=True, slots=True)
class OnLoop:
    """Which layer images are to be on a loop device. Called from any thread."""

    asked: Callable[[Path], bool] = lambda _: False
    """At each mount."""
    version: Callable[[], object] = lambda: None
    """Changes when ``asked`` may answer otherwise."""


class KernelMounter:
    """``snapshotter.dependencies.Mounter`` on the running kernel. Needs CAP_SYS_ADMIN. Safe to call from many threads.

    Args:
        realign: writes a layer image again with 4096-byte blocks, for kernels that refuse 512-byte ones (before 6.4).
        copies: directory for those copies, of this mounter alone; created when needed.
        overlays: options of every overlay besides its directories, as ``name=value``.
        on_loop: which layer images are to be on a loop device, although the kernel may not need one.
        mountinfo: the kernel's list of mounts.
        metrics: counts mounts of layer images, and how long they take.
    """

    def __init__(
        self,
        *,
        realign: Realign | None = None,
        copies: Path | None = None,
        overlays: Sequence[str] = (),
        on_loop: OnLoop = OnLoop(),
        mountinfo: Path = MOUNTINFO,
        metrics: Metrics | None = None,
    ) -> None:
        self._metrics = metrics
        self._copies = RealignedCopies(copies, realign) if realign is not None and copies is not None else None
        self._overlays = overlays
        self._on_loop = on_loop
        self._mountinfo = mountinfo
        self._locks: dict[Path, threading.Lock] = {}
        self._locks_lock = threading.Lock()
        self._seen: dict[Path, tuple[Path, int, bool]] = {}
        """Target -> image, device number and ``on_loop`` of a mount that this process has checked.

        Saves reading mountinfo again.
        """

    def mount(self, image: Path, target: Path) -> None:
        """Mount the layer image; a no-op when exactly that is mounted there."""
        with self._measured(), self._lock(target):
            on_loop = self._on_loop.asked(image)
            if self._is_there(image, target, on_loop=on_loop):
                return
            with _explained(image, target):
                self._mount(image, target, _through_loop if on_loop else _from_file)
            self._seen[target] = (image, target.stat().st_dev, on_loop)

    @contextlib.contextmanager
    def _measured(self) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        except HostError:
            if self._metrics is not None:
                self._metrics.mount_failures.inc()
            raise
        if self._metrics is not None:
            self._metrics.mount_seconds.observe(time.monotonic() - start)

    def unmount(self, target: Path) -> None:
        """Unmount; a no-op when nothing is mounted there. Raises MountFailed when the mount is in use."""
        with self._lock(target):
            self._seen.pop(target, None)
            found = self._at(target)
            file = backing(found) if found is not None else ""
            while found is not None and backing(found) == file:
                with _explained(Path(found.source), target):
                    syscalls.unmount(str(target))
                found = self._at(target)
            if self._copies is not None:
                self._copies.drop(file)

    def mounted(self, target: Path) -> bool:
        return self._at(target) is not None

    def version(self) -> object:
        return self._on_loop.version()

    def mount_overlay(self, lowers: Sequence[Path], target: Path) -> None:
        """Stack directories read-only, the bottom one first; a single one is bound. Long lists need kernel 6.5."""
        with self._lock(target), _explained(lowers[-1], target):
            if len(lowers) == 1:
                syscalls.mount(str(lowers[0]), str(target), "", syscalls.MS_BIND)
                # a bind mount takes its flags from the source; only a remount changes them
                flags = syscalls.MS_REMOUNT | syscalls.MS_BIND | _LAYER_FLAGS
                syscalls.mount("", str(target), "", flags)
                return
            stacked = "lowerdir=" + ":".join(_escaped(lower) for lower in reversed(lowers))
            options = ",".join([stacked, *self._overlays])
            if len(options) <= _OPTIONS_MAX:
                syscalls.mount("overlay", str(target), "overlay", _LAYER_FLAGS, options)
            else:
                top_first = [("lowerdir+", str(lower)) for lower in reversed(lowers)]
                others = [(name, value) for name, _, value in (option.partition("=") for option in self._overlays)]
                syscalls.mount_read_only("overlay", [*top_first, *others], str(target))

    def mount_image(self, images: Sequence[Path], target: Path, scratch: Path) -> None:
        """Mount the root filesystem of a whole image at ``target``: its layer images, the bottom one first.

        The layers are mounted below ``scratch`` and unmounted at once: the overlay keeps its lower filesystems, so that
        one ``unmount(target)`` releases everything.
        """
        if self.mounted(target):
            raise MountFailed(
                f"{target}: something is already mounted there", hint=f"umount {target}, or choose another directory"
            )
        if len(images) == 1:
            self.mount(images[0], target)
            return
        with self._temporarily(images, scratch) as lowers:
            self.mount_overlay(lowers, target)

    @contextlib.contextmanager
    def _temporarily(self, images: Sequence[Path], scratch: Path) -> Iterator[list[Path]]:
        scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(dir=scratch, ignore_cleanup_errors=True) as name,
            contextlib.ExitStack() as stack,
        ):
            lowers: list[Path] = []
            for number, image in enumerate(images):
                lower = Path(name, str(number))
                self.mount(image, lower)
                stack.callback(self.unmount, lower)
                lowers.append(lower)
            yield lowers

    def _mount(self, image: Path, target: Path, mount: Callable[[Path, Path], None]) -> None:
        """EINVAL for an image with 512-byte blocks means a kernel that needs 4096-byte ones."""
        try:
            mount(image, target)
        except OSError as error:
            if error.errno != errno.EINVAL or _block_bits(image) != 9:
                raise
            if self._copies is None:
                raise KernelUnsupported(
                    f"{image}: this kernel cannot mount an EROFS filesystem with 512-byte blocks",
                    hint="use a kernel of version 6.4 or later",
                ) from error
            mount(self._copies.of(image), target)

    def _is_there(self, image: Path, target: Path, *, on_loop: bool) -> bool:
        """Whether this layer image is mounted at ``target`` as it shall be. Raises MountFailed if another one is."""
        with _explained(image, target):
            device = _device(target)
            if device is not None and self._seen.get(target) == (image, device, on_loop):
                return True
            if device is None:
                target.mkdir(mode=0o755, parents=True)
                return False
            if device == target.parent.stat().st_dev:  # every EROFS mount has a device number of its own
                return False
        found = self._at(target)
        if found is None:
            return False
        self._check(found, image, target)
        if on_loop and not _is_loop(found):
            return False
        if _is_loop(found) and not on_loop:
            with contextlib.suppress(OSError):  # the kernel needs the loop device; what is there does
                syscalls.mount(str(image), str(target), "erofs", _LAYER_FLAGS)
                device = target.stat().st_dev
        self._seen[target] = (image, device, on_loop)
        return True

    def _check(self, found: Mount, image: Path, target: Path) -> None:
        expected = {os.path.realpath(image)}
        if self._copies is not None:
            expected.add(os.path.realpath(self._copies.path(image)))
        if found.kind != "erofs" or os.path.realpath(backing(found)) not in expected:
            raise MountFailed(
                f"{target}: {found.kind} {found.source} is mounted there, not {image}", hint=f"umount {target}"
            )

    def _at(self, target: Path) -> Mount | None:
        return mounted_at(target, self._mountinfo)

    def _lock(self, target: Path) -> threading.Lock:
        with self._locks_lock:
            return self._locks.setdefault(target, threading.Lock())


def _from_file(image: Path, target: Path) -> None:
    try:
        syscalls.mount(str(image), str(target), "erofs", _LAYER_FLAGS)
    except OSError as error:
        if error.errno != errno.ENOTBLK:  # "a block device is needed"
            raise
        _through_loop(image, target)


def _through_loop(image: Path, target: Path) -> None:
    with loop_devices.attached(image) as device:
        syscalls.mount(device, str(target), "erofs", _LAYER_FLAGS)


def _device(target: Path) -> int | None:
    """Device number of the directory; None when it does not exist."""
    try:
        return target.stat().st_dev
    except FileNotFoundError:
        return None


def backing(mount: Mount) -> str:
    """The file that is mounted, even through a loop device."""
    file = loop_devices.backing_file(mount.source) if _is_loop(mount) else mount.source
    return file.removesuffix(" (deleted)")


def _is_loop(mount: Mount) -> bool:
    return mount.source.startswith("/dev/loop")


def _block_bits(image: Path) -> int:
    """log2 of the block size in the superblock; 0 when it is not an EROFS filesystem."""
    with image.open("rb") as file:
        file.seek(_SUPERBLOCK_OFFSET)
        data = file.read(_SUPERBLOCK.size)
    magic, bits = _SUPERBLOCK.unpack(data) if len(data) == _SUPERBLOCK.size else (0, 0)
    return int(bits) if magic == _EROFS_MAGIC else 0


def _escaped(lower: Path) -> str:
    """A path for overlayfs' ``lowerdir``, where colons and commas separate."""
    return str(lower).replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


@contextlib.contextmanager
def _explained(source: Path, target: Path) -> Iterator[None]:
    """Convert an OSError of the kernel to an error of ours, with a hint."""
    try:
        yield
    except OSError as error:
        _explain(error, source, target)


def _explain(error: OSError, source: Path, target: Path) -> NoReturn:
    name = errno.errorcode.get(error.errno or 0, str(error.errno))
    message = f"mounting {source} at {target}: {error.strerror} ({name})"
    kind, hint = _MEANING.get(error.errno or 0, (MountFailed, "look at the last lines of dmesg"))
    if error.filename == str(loop_devices.CONTROL) and kind is MountFailed:
        hint = "the kernel gives no loop device: modprobe loop; why one is needed: imagecache doctor"
    if device := loop_devices.missing_node(error):  # not the file is missing
        message = f"mounting {source} at {target}: the kernel's {device} is not in this container's /dev ({name})"
        hint = f"give the container the host's /dev, or make the node: mknod {device} b 7 {device[9:]}"
    raise kind(message, hint=hint) from error


_MEANING: dict[int, tuple[Callable[..., HostError], str]] = {
    errno.EPERM: (PrivilegeMissing, "run as root, or give the process CAP_SYS_ADMIN"),
    errno.EACCES: (PrivilegeMissing, "run as root, or give the process CAP_SYS_ADMIN and access to the path"),
    errno.ENODEV: (KernelUnsupported, "the kernel lacks this filesystem: modprobe erofs overlay"),
    errno.ENOSYS: (KernelUnsupported, "the kernel is too old for this many layers: 6.5 or later is needed"),
    errno.EBUSY: (MountFailed, "it is in use: stop the containers or programs that use it"),
    errno.ENOENT: (MountFailed, "the file no longer exists; run: imagecache doctor"),
}
