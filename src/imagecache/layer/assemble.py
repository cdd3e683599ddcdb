"""Entries to a tree: what containerd's unpack would leave in this layer's own directory, rule by rule.

The rules are ``docs/internals/unpack-rules.md`` (§2 to §14, §16); sections in this file are that page's. It must not
look at any other layer (``implied_directories`` does) and must not read content.
Source: containerd ``pkg/archive/tar.go`` (applyNaive, createTarFile).
"""

from __future__ import annotations

import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from imagecache.errors import LimitExceeded, UnsafeLayer
from imagecache.layer import tar_entry as types
from imagecache.layer.attributes import UNCHANGED, is_plain, owner, time
from imagecache.layer.budget import Budget
from imagecache.layer.partial_tree import ImpliedDirectory, LayerDirectory, PartialTree, directories
from imagecache.layer.tar_entry import TarEntry, quoted
from imagecache.layer.tar_header import PlainFile
from imagecache.layer.tar_reader import TarSource, entries
from imagecache.layer.tar_xattrs import CAPABILITY, ORIGIN, check_total, settable
from imagecache.layer.whiteout import PREFIX, BottomWhiteouts, UpperWhiteouts, Whiteouts
from imagecache.limits import Limits
from imagecache.tree import Inode

_FILE_TYPES = {
    types.FILE: stat.S_IFREG,
    types.SYMLINK: stat.S_IFLNK,
    types.CHARACTER_DEVICE: stat.S_IFCHR,
    types.BLOCK_DEVICE: stat.S_IFBLK,
    types.FIFO: stat.S_IFIFO,
}
_UINT32_MAX = 0xFFFF_FFFF


@dataclass(slots=True)
class LayerTree:
    """A finished tree."""

    root: Inode
    entries: int
    """Names in the tree, the root not counted."""
    implied: list[ImpliedDirectory]
    """Directories whose attributes come from the layers below, parents first: see ``resolve_implied``."""
    has_whiteouts: bool
    """The tar has whiteout entries: its tree differs between the bottom of an image and anywhere above."""


def assemble(source: TarSource, *, bottom: bool, limits: Limits) -> LayerTree:
    """The tree of a layer. ``bottom``: it is the lowest layer of its image. Bytes behind the archive stay unread.

    Raises MalformedLayer, UnsafeLayer, LimitExceeded.
    """
    budget = Budget(limits)
    assembler = Assembler(bottom=bottom, limits=limits, budget=budget)
    add = assembler.add
    for entry in entries(source, limits, budget, assembler.take):
        add(entry)
    return assembler.finish()


class Assembler:
    """Applies the entries of one layer in order; ``finish`` returns the tree."""

    def __init__(self, *, bottom: bool, limits: Limits, budget: Budget) -> None:
        self._limits = limits
        self._budget = budget
        self._tree = PartialTree(limits, budget, remembers=bottom)
        self._whiteouts: Whiteouts = BottomWhiteouts(self._tree, limits) if bottom else UpperWhiteouts(limits)
        self._has_whiteouts = False
        self._hiding: list[tuple[Inode, bytes]] = []
        """Directory and name of every whiteout made so far; a later entry may have replaced it."""
        self._linked: set[Inode] = set()
        self._times: list[tuple[bytes, tuple[int, int]]] = []
        """Name and time of every directory's entry."""
        self._makers = {
            types.HARD_LINK: self._make_link,
            types.SYMLINK: self._make_symlink,
            types.CHARACTER_DEVICE: self._make_device,
            types.BLOCK_DEVICE: self._make_device,
            types.FIFO: self._make_device,
            types.DIRECTORY: self._make_directory,
            types.FILE: self._make_file,
            types.PAX_GLOBAL: self._make_nothing,
        }

    def add(self, entry: TarEntry) -> None:
        """Apply one entry. Raises UnsafeLayer where containerd fails the pull, LimitExceeded."""
        location = self._tree.locate(entry.name)
        if location is None:  # §7: the root takes nothing from the tar
            return
        parent, base = location
        if base.startswith(PREFIX):  # by name alone, before the type is looked at, as containerd does (§9)
            self._has_whiteouts = True
            if self._whiteouts.apply(entry, parent, base) is not None:
                self._hiding.append((parent, base.removeprefix(PREFIX)))
            return
        if len(base) > self._limits.name_length:
            raise LimitExceeded(f"tar entry {quoted(entry.name)} has a name over {self._limits.name_length} bytes")
        make = self._makers.get(entry.type)
        if make is None:
            raise UnsafeLayer(f"tar entry {quoted(entry.name)} is of the unknown type {chr(entry.type)!r}")
        # §8: the last entry of a path wins; only a directory on a directory keeps what is inside. The old one goes
        # first, so a hard link to itself finds no target, as in containerd.
        old = parent.children.get(base)
        if old is not None and not (entry.type == types.DIRECTORY and old.is_dir):
            self._tree.remove(parent, base, old)
        make(entry, parent, base)

    def take(self, file: PlainFile, data: int) -> bool:
        """What ``add`` does with nearly every file: a new name in a directory that is known, and nothing besides.

        False, with nothing done, when ``add`` has to look at it.
        """
        name, mode, uid, gid, size, mtime = file
        parent, base = self._tree.known(name)
        if parent is None or base in parent.children or base.startswith(PREFIX) or not is_plain(mtime):
            return False
        parent.children[base] = Inode(stat.S_IFREG | mode & 0o7777, uid, gid, mtime, 0, size, data)
        return True

    def _new(self, entry: TarEntry, parent: Inode) -> Inode:
        """A new inode of the entry's type with the entry's attributes.

        Order of the effects (§14): create, owner, xattrs, mode, times. So setuid survives the change of owner.
        """
        uid, gid = entry.uid, entry.gid
        if not (0 <= uid < UNCHANGED and 0 <= gid < UNCHANGED):
            uid, gid = owner(entry, 0, PartialTree.inherited_gid(parent))
        mtime, nanoseconds = time(entry)
        inode = Inode(_FILE_TYPES[entry.type] | entry.mode & 0o7777, uid, gid, mtime, nanoseconds)
        if entry.xattrs:
            self._add_xattrs(inode, entry.name, entry.xattrs)
        return inode

    def _add_xattrs(self, inode: Inode, name: bytes, xattrs: Mapping[bytes, bytes]) -> None:
        user = inode.is_file or inode.is_dir
        self._budget.step(len(inode.xattrs))  # those of earlier entries are counted again below
        inode.xattrs = {**inode.xattrs, **settable(name, xattrs, user=user, limits=self._limits)}
        check_total(name, inode.xattrs, self._limits)

    def _make_file(self, entry: TarEntry, parent: LayerDirectory, base: bytes) -> None:
        inode = parent.children[base] = self._new(entry, parent)
        inode.size = entry.size
        inode.data = entry.data
        inode.sparse = entry.sparse

    def _make_directory(self, entry: TarEntry, parent: LayerDirectory, base: bytes) -> None:
        """A new directory, or new attributes for an existing one (§8): its contents and other xattrs stay."""
        mtime = time(entry)
        self._times.append((entry.name, mtime))
        old = parent.children.get(base)
        if isinstance(old, LayerDirectory):
            if old.implied is not None:
                old.implied.overridden = True
            self._set(old, entry)
            return
        uid, gid = owner(entry, 0, PartialTree.inherited_gid(parent))
        mode = stat.S_IFDIR | (entry.mode & 0o7777)
        inode = LayerDirectory(mode, uid, gid, *mtime, place=parent.place.below(base))
        if entry.xattrs:
            self._add_xattrs(inode, entry.name, entry.xattrs)
        parent.children[base] = inode

    def _set(self, inode: Inode, entry: TarEntry) -> None:
        """The entry's attributes on an existing inode: the last entry wins (§5)."""
        inode.uid, inode.gid = owner(entry, inode.uid, inode.gid)
        if CAPABILITY in inode.xattrs and not inode.is_dir:
            # chown(2) drops file capabilities; the entry may set them again below
            inode.xattrs = {key: value for key, value in inode.xattrs.items() if key != CAPABILITY}
        if entry.xattrs:
            self._add_xattrs(inode, entry.name, entry.xattrs)
        if not inode.is_symlink:  # Linux has no lchmod(2): a symlink is always 0777
            inode.mode = stat.S_IFMT(inode.mode) | (entry.mode & 0o7777)
        inode.mtime, inode.mtime_nsec = time(entry)

    def _make_symlink(self, entry: TarEntry, parent: LayerDirectory, base: bytes) -> None:
        if not entry.target:
            raise UnsafeLayer(f"symlink {quoted(entry.name)} has no target")
        if len(entry.target) > self._limits.link_target:
            raise LimitExceeded(f"symlink {quoted(entry.name)} has a target over {self._limits.link_target} bytes")
        inode = parent.children[base] = self._new(entry, parent)
        inode.mode = stat.S_IFLNK | 0o777
        inode.target = entry.target
        inode.size = len(entry.target)

    def _make_device(self, entry: TarEntry, parent: LayerDirectory, base: bytes) -> None:
        """Devices and fifos (§16). mknod(2) takes a dev_t of 32 bits: 12 of the major, 20 of the minor."""
        if not (0 <= entry.major <= _UINT32_MAX and 0 <= entry.minor <= _UINT32_MAX):
            raise UnsafeLayer(f"device {quoted(entry.name)} has numbers out of range: {entry.major}:{entry.minor}")
        inode = parent.children[base] = self._new(entry, parent)
        if inode.is_device:
            inode.major, inode.minor = entry.major & 0xFFF, entry.minor & 0xFFFFF
        if inode.is_whiteout:  # §12: a device 0:0 in the tar is overlayfs' own mark
            self._hiding.append((parent, base))

    def _make_link(self, entry: TarEntry, parent: LayerDirectory, base: bytes) -> None:
        """Another name (§4). The inode takes this entry's attributes (§5)."""
        inode = self._tree.link_target(entry.target)
        if inode is None:
            raise UnsafeLayer(
                f"hard link {quoted(entry.name)} points to {quoted(entry.target)}, which does not exist in its layer"
            )
        if inode.is_dir:
            raise UnsafeLayer(f"hard link {quoted(entry.name)} points to the directory {quoted(entry.target)}")
        parent.children[base] = inode
        self._linked.add(inode)
        self._set(inode, entry)
        if inode.is_whiteout:
            self._hiding.append((parent, base))

    def _make_nothing(self, _entry: TarEntry, parent: LayerDirectory, base: bytes) -> None:
        """A global PAX header (§15): what had its name is removed, and the name counts as written (§11)."""
        self._tree.note_written(parent, base)

    def finish(self) -> LayerTree:
        """Complete the tree: times of directories, marks of overlayfs, link counts."""
        # Without removals every directory still has the time that its entry set, so the second pass has no effect.
        timed = self._repeat_directory_times() if self._tree.reshaped else frozenset()
        for parent, name in self._hiding:
            child = parent.children.get(name)
            if child is not None and child.is_whiteout:
                # Without this mark the kernel lists the whiteouts of a directory that only one layer has (ADR 5).
                parent.xattrs = {**parent.xattrs, ORIGIN: b""}
        implied = self._tree.implied()
        # Children before parents: a directory's newest child may be an implied directory itself.
        for record in reversed(implied):
            record.timed = record.inode in timed
            if not (record.overridden or record.timed):
                _take_newest_time(record.inode)
        _take_newest_time(self._tree.root)
        names = _count_links(self._tree.root, self._linked)
        return LayerTree(self._tree.root, names, implied, self._has_whiteouts)

    def _repeat_directory_times(self) -> frozenset[Inode]:
        """Set the times of directories again, by name, as containerd does at the end (§8); returns what got one.

        Whatever has the name by then gets the time, also a directory that a later entry implied at the same path.
        """
        timed = set()
        for name, mtime in self._times:
            inode = self._tree.find(name)
            if inode is None:
                raise UnsafeLayer(f"directory {quoted(name)} was removed by a later entry of its own layer")
            inode.mtime, inode.mtime_nsec = mtime
            timed.add(inode)
        return frozenset(timed)


def _take_newest_time(inode: Inode) -> None:
    """The time of a directory without an entry (§3): that of its newest child, else the epoch."""
    newest = max(((child.mtime, child.mtime_nsec) for child in inode.children.values()), default=(0, 0))
    inode.mtime, inode.mtime_nsec = newest


def _count_links(root: Inode, linked: Collection[Inode]) -> int:
    """Set the link counts of directories and of ``linked``, the files that got another name; returns how many names."""
    names = 0
    for inode in linked:
        inode.nlink = 0
    for directory in directories(root):
        children = directory.children.values()
        names += len(children)
        directory.nlink = 2 + sum(child.mode & 0o170000 == stat.S_IFDIR for child in children)
        if linked:
            for child in children:
                child.nlink += child in linked
    return names
