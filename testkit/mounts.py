"""Mounts without a kernel: the fake ``Mounter``, and overlays made of copies.

``FakeMounter`` remembers what is mounted where; ``reboot`` forgets it. ``CopiedOverlay`` shows what containerd would
see after mounting: it merges the lower directories into a copy, and when the test is done with it, writes what changed
to the upper one. Both must not check more than the ports promise.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from imagecache.errors import MountFailed
from imagecache.snapshotter.mounts import Mount

_WHITEOUT = ".fake-whiteout."


class FakeMounter:
    """``snapshotter.dependencies.Mounter`` in memory. Thread-safe."""

    def __init__(self, exists: Callable[[Path], bool] = lambda _: True) -> None:
        """``exists`` says whether an image is there; made-up paths are."""
        self._exists = exists
        self.mounts: dict[Path, Path] = {}
        """Target -> image."""
        self.broken: set[Path] = set()
        """Images that cannot be mounted."""
        self.busy: set[Path] = set()
        """Targets that cannot be unmounted."""
        self.calls: list[tuple[str, Path]] = []
        self.gate = threading.Event()
        """Clear it to let mounts hang until it is set."""
        self.entered = threading.Event()
        """Set by every mount, before it may hang."""
        self.gate.set()
        self.unmounting = threading.Event()
        """Clear it to let unmounts hang until it is set."""
        self.unmounting.set()

    def mount(self, image: Path, target: Path) -> None:
        self.calls.append(("mount", target))
        self.entered.set()
        self.gate.wait()
        if not self._exists(image):
            raise MountFailed(f"mounting {image} at {target}: No such file or directory (ENOENT)")
        if image in self.broken:
            raise MountFailed(f"mounting {image} at {target}: Structure needs cleaning (EUCLEAN)")
        if self.mounts.get(target, image) != image:
            raise MountFailed(f"{target}: {self.mounts[target]} is mounted there, not {image}")
        target.mkdir(parents=True, exist_ok=True)
        self.mounts[target] = image

    def unmount(self, target: Path) -> None:
        self.calls.append(("unmount", target))
        self.unmounting.wait()
        if target in self.busy:
            raise MountFailed(f"unmounting {target}: Device or resource busy (EBUSY)")
        self.mounts.pop(target, None)

    def mounted(self, target: Path) -> bool:
        return target in self.mounts

    def version(self) -> object:
        return None  # it knows one way to mount

    def reboot(self) -> None:
        """Every mount is gone, the directories are there."""
        self.mounts.clear()


class CopiedOverlay:
    """Mounts of the snapshotter as plain copies below ``scratch``."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch

    @contextlib.contextmanager
    def mounted(self, mounts: Sequence[Mount]) -> Iterator[Path]:
        """The directory that a container would have as its root."""
        (mount,) = mounts
        options = dict(option.partition("=")[::2] for option in mount.options)
        if mount.type == "bind":
            lowers, upper = [Path(mount.source)], Path(mount.source) if "rw" in options else None
        else:
            lowers = [Path(lower) for lower in options["lowerdir"].split(":")]
            upper = Path(options["upperdir"]) if "upperdir" in options else None
        with tempfile.TemporaryDirectory(dir=self._scratch) as name:
            merged = Path(name)
            stack = [*reversed(lowers), *([upper] if upper is not None and upper not in lowers else [])]
            for layer in stack:
                _apply(layer, merged)
            before = _state(merged)
            yield merged
            if upper is not None:
                _write_back(merged, before, upper)


def _apply(layer: Path, merged: Path) -> None:
    _like(layer, merged)
    for path in sorted(layer.rglob("*")):
        place = merged / path.relative_to(layer)
        if path.name.startswith(_WHITEOUT):
            _remove(place.with_name(path.name.removeprefix(_WHITEOUT)))
        elif path.is_dir() and not path.is_symlink():
            place.mkdir(exist_ok=True)
            _like(path, place)
        else:
            _remove(place)
            shutil.copy2(path, place, follow_symlinks=False)
            _like(path, place)


def _write_back(merged: Path, before: dict[str, tuple[object, ...]], upper: Path) -> None:
    """What is new or different, and a mark for what is gone; a directory that was replaced is not opaque here."""
    after = _state(merged)
    for name in sorted(set(before) - set(after)):
        if Path(name).parent == Path() or str(Path(name).parent) in after:
            mark = upper / Path(name).with_name(_WHITEOUT + Path(name).name)
            _remove(upper / name)
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
    for name in sorted(after):
        if before.get(name) != after[name]:
            _copy_up(merged, Path(name), upper)
    _like(merged, upper)


def _copy_up(merged: Path, name: Path, upper: Path) -> None:
    for parent in reversed(name.parents[:-1]):
        (upper / parent).mkdir(exist_ok=True)
        _like(merged / parent, upper / parent)
    _remove((upper / name).with_name(_WHITEOUT + name.name))
    source, place = merged / name, upper / name
    if source.is_dir() and not source.is_symlink():
        place.mkdir(exist_ok=True)
    else:
        _remove(place)
        shutil.copy2(source, place, follow_symlinks=False)
    _like(source, place)


def _state(root: Path) -> dict[str, tuple[object, ...]]:
    """Everything that tells one version of a file from another."""
    found: dict[str, tuple[object, ...]] = {}
    for path in root.rglob("*"):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        found[str(path.relative_to(root))] = (status.st_mode, status.st_uid, status.st_gid, content)
    return found


def _like(source: Path, target: Path) -> None:
    status = source.lstat()
    os.chown(target, status.st_uid, status.st_gid, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        target.chmod(stat.S_IMODE(status.st_mode))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
