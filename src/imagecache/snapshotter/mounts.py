"""What containerd has to mount for a snapshot.

Only ``bind`` and ``overlay``, which every containerd version mounts everywhere: layer images are mounted by us before
(``layer_mounts``) and appear as directories. The forms are those of containerd's overlay snapshotter
(plugins/snapshots/overlay/overlay.go), so that its differ recognises them. An active snapshot is never read-only:
containerd >= 2.4 takes a read-only last mount for a layer that is unpacked already. Pure: it must not do I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imagecache.errors import InvalidSetting
from imagecache.snapshotter.id_map import IdMap
from imagecache.snapshotter.snapshot import Kind

STABLE_INODES = "xino=on"
"""The option of overlayfs that makes several filesystems look like one.

Without it no regular file of a layer image has the ``st_dev`` of its directory, and a directory gets another inode
number whenever the kernel has dropped and read it again. Its price: the numbers need 64 bits, since their high bits say
which layer they are of (Linux, fs/overlayfs/inode.c, ``ovl_map_dev_ino``).
"""
SHORT_INODES = "xino=off"
"""The opposite, said as well: what a kernel does without either depends on how it was built."""


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount as containerd describes it: type, source and options as for mount(8)."""

    type: str
    source: str
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Own:
    """A snapshot's own directories."""

    fs: Path
    work: Path


def mounts_of(
    kind: Kind,
    own: Own,
    lowers: Sequence[Path],
    overlay_options: Sequence[str] = (),
    *,
    id_map: IdMap | None = None,
) -> tuple[Mount, ...]:
    """How to mount a snapshot.

    Args:
        kind: ACTIVE or VIEW.
        own: where an active snapshot writes, and what a view without a parent shows.
        lowers: directories of the committed snapshots below, the nearest one first; a layer may be repeated.
        overlay_options: added to every overlay.
        id_map: what is below appears with these ids.
    """
    if kind is Kind.COMMITTED:
        raise ValueError("a committed snapshot is never mounted itself")
    # overlayfs refuses a directory twice (ELOOP). The nearest position is enough: it shows, and hides, all that the
    # farther ones of the same layer do.
    lowers = tuple(dict.fromkeys(lowers))
    mapping = id_map.options if id_map else ()
    if not lowers:
        return (_bind(own.fs, mapping, writable=kind is Kind.ACTIVE),)
    if kind is Kind.VIEW and len(lowers) == 1:
        return (_bind(lowers[0], mapping, writable=False),)
    stacked = f"lowerdir={':'.join(map(str, lowers))}"
    upper = (f"workdir={own.work}", f"upperdir={own.fs}") if kind is Kind.ACTIVE else ()
    return (Mount("overlay", "overlay", (*mapping, *upper, stacked, *overlay_options)),)


def overlay_options(*, layer_images: bool, stable_inodes: bool) -> tuple[str, ...]:
    """Options of an overlay besides its directories.

    The kernel is not asked what it knows: while overlayfs is a module that is not loaded yet, it could not answer. Both
    options are older (4.13, 4.17) than the oldest kernel that mounts layer images (5.4).

    Args:
        layer_images: whether one is among the lower directories. Everything else is on one filesystem, where
            ``STABLE_INODES`` changes nothing, and the kernel writes a line into its log for each mount that has it.
        stable_inodes: ``STABLE_INODES``, not ``SHORT_INODES``.
    """
    numbers = STABLE_INODES if stable_inodes else SHORT_INODES
    # As containerd sets it: EROFS has no file handles, which an index needs, and with an index an upper directory
    # cannot be mounted twice.
    return ("index=off", numbers) if layer_images else ("index=off",)


def check_root(root: Path) -> None:
    """Raises InvalidSetting for a root that overlay options cannot express."""
    if not root.is_absolute() or set(str(root)) & set(":,\\"):
        raise InvalidSetting(
            f"snapshotter root {root} is not an absolute path without colon, comma and backslash",
            hint="choose another directory: these characters separate the options of overlayfs",
        )


def _bind(source: Path, mapping: Sequence[str], *, writable: bool) -> Mount:
    # as containerd's own overlay snapshotter
    return Mount("bind", str(source), (*mapping, "rw" if writable else "ro", "rbind"))
