"""Where a path leads inside one tree: cleaning, and symlinks that never leave the tree's own root.

containerd resolves the directory part of every name with continuity's ``fs.RootPath``. That function has quirks (it
cleans a joined path by its text, one link at a time), and our trees must equal containerd's, so this is the same
algorithm. Where it would look at the host's files (through an absolute link in the middle of a path), this one sees
nothing. It must not change a tree. Source: ``docs/internals/unpack-rules.md`` §6; continuity ``fs/path.go``; Go
``path/filepath`` (Clean, Join, Split).
"""

from __future__ import annotations

from collections.abc import Callable

from imagecache.errors import LimitExceeded, UnsafeLayer
from imagecache.layer.tar_entry import quoted
from imagecache.limits import Limits
from imagecache.tree import Inode

ResolvedPath = tuple[bytes, ...]
"""Names from the root on, without ``.``, ``..`` or symlinks."""

Lookup = Callable[[Inode, bytes], Inode | None]
"""The named child of a directory."""

_KERNEL_HOPS = 40
"""MAXSYMLINKS of Linux: links that it follows within one lookup before it answers ELOOP."""
_WALK = 4
"""Steps of the budget for one of a walk over symlinks, which also joins and cleans texts."""
_DOTS = frozenset({b".", b".."})


def clean(name: bytes) -> bytes:
    """Go's ``filepath.Clean``: by the text alone, symlinks ignored; an empty name becomes ``.``."""
    rooted = name.startswith(b"/")
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if parts and parts[-1] != b"..":
                parts.pop()
            elif not rooted:
                parts.append(part)
        elif part not in {b"", b"."}:
            parts.append(part)
    return (b"/" if rooted else b"") + b"/".join(parts) or b"."


def tree_lookup(directory: Inode, name: bytes) -> Inode | None:
    """The lookup of a tree in memory."""
    return directory.children.get(name)


class PathResolver:
    """Resolves paths in one tree. ``lookup`` finds children: the tree is in memory, or in a layer image."""

    def __init__(self, root: Inode, lookup: Lookup, limits: Limits, step: Callable[[int], None]) -> None:
        """``step`` gets the number of lookups before they are made; it raises LimitExceeded when there are too many."""
        self._root = root
        self._lookup = lookup
        self._limits = limits
        self._step_by = step

    def resolve(self, path: bytes) -> ResolvedPath:
        """Where ``path`` leads, with every symlink followed, the last one too. It need not exist.

        Raises UnsafeLayer when the path goes through something that is not a directory, LimitExceeded.
        """
        parts = tuple(part for part in path.split(b"/") if part and part != b".")
        self._step_by(len(parts) + len(path) // 64)
        if b".." in parts or self._has_symlink(parts):  # nearly every path has neither, and is resolved as it stands
            parts = tuple(part for part in self._follow(path).split(b"/") if part)
        self._check(parts, path)
        return parts

    def find(self, parts: ResolvedPath) -> Inode | None:
        """What exists at a resolved path. Raises UnsafeLayer when the path goes through a non-directory."""
        self._step_by(len(parts))
        inode: Inode | None = self._root
        for part in parts:
            if inode is None:
                return None
            if not inode.is_dir:
                raise UnsafeLayer(f"not a directory: a parent of {quoted(b'/'.join(parts))}")
            inode = self._lookup(inode, part)
        return inode

    def _check(self, parts: ResolvedPath, path: bytes) -> None:
        limits = self._limits
        if len(parts) > limits.path_depth:
            raise LimitExceeded(f"path {quoted(path)} is deeper than {limits.path_depth} directories")
        if sum(map(len, parts)) + len(parts) > limits.path_length:
            raise LimitExceeded(f"path {quoted(path)} is longer than {limits.path_length} bytes")
        for part in parts:
            if len(part) > limits.name_length:
                raise LimitExceeded(f"path {quoted(path)} has a name longer than {limits.name_length} bytes")

    def _has_symlink(self, parts: ResolvedPath) -> bool:
        inode: Inode | None = self._root
        for part in parts:
            if inode is None or not inode.is_dir:
                return False
            inode = self._lookup(inode, part)
            if inode is not None and inode.is_symlink:
                return True
        return False

    def _follow(self, path: bytes) -> bytes:
        """Walk the whole path until a walk meets no symlink (``fs.RootPath``)."""
        hops = 0
        while True:
            walked, links = self._walk(path, self._limits.symlink_hops - hops)
            if not links:
                return clean(b"/" + walked)
            hops += links
            path = walked

    def _walk(self, path: bytes, hops_left: int) -> tuple[bytes, int]:
        """One pass from left to right: each symlink is replaced by its target, which is not walked in this pass.

        ``walkLinks`` of continuity. While ``known``, ``here`` is the inode at ``current``, so the next lookup is one
        step; for ``..`` and behind a symlink only the text says where the path is, so the lookup starts at the root.
        """
        current, links = b"", 0
        here: Inode | None = self._root
        known = True
        for part in filter(None, path.split(b"/")):
            if known and part not in _DOTS:
                candidate = current.rstrip(b"/") + b"/" + part
                here = self._step(here, part, candidate)
            else:
                candidate = clean(b"/" + current + b"/" + part)
                here = self._peek(candidate)
            known = here is None or not here.is_symlink
            if here is None or known:
                current = candidate
                continue
            links += 1
            if links > hops_left:
                raise LimitExceeded(f"path {quoted(path)} leads over more than {self._limits.symlink_hops} symlinks")
            if here.target.startswith(b"/") or not (current or path.startswith(b"/")):
                current = here.target  # taken as it is, not cleaned: the next pass sees its ".." components
            else:
                current = clean(current + b"/" + here.target)
        return current or b"/", links

    def _peek(self, path: bytes) -> Inode | None:
        """What lstat(2) would see at ``path``: the kernel follows links on the way, not the last component."""
        pending = [part for part in reversed(path.split(b"/")) if part]
        trail, hops = [self._root], 0
        while pending:
            part = pending.pop()
            if part == b"..":
                if len(trail) == 1:  # above the layer's root: the host's files, which are not ours to see
                    return None
                trail.pop()
                continue
            inode = self._step(trail[-1], part, path)
            if inode is None or (inode.is_symlink and not pending):
                return inode
            if not inode.is_symlink:
                trail.append(inode)
                continue
            hops += 1
            if inode.target.startswith(b"/"):  # lstat(2) would follow it on the host
                return None
            if hops > _KERNEL_HOPS or len(pending) > self._limits.path_length:
                raise LimitExceeded(f"path {quoted(path)} leads over too many symlinks")
            pending.extend(piece for piece in reversed(inode.target.split(b"/")) if piece not in {b"", b"."})
        return trail[-1]

    def _step(self, directory: Inode | None, name: bytes, path: bytes) -> Inode | None:
        """One lookup on the way along ``path``; every one is counted."""
        self._step_by(_WALK + len(path) // 64)
        limits = self._limits
        if len(path) > limits.path_length or len(name) > limits.name_length:
            raise LimitExceeded(f"path {quoted(path)} is too long, or leads over too many symlinks")
        if directory is None:
            return None
        if not directory.is_dir:
            raise UnsafeLayer(f"not a directory: a parent of {quoted(path)}")
        return self._lookup(directory, name)
