"""Where a path leads inside one tree: cleaning, and symlinks that never leave the tree's own root.

containerd resolves the directory part of every name with continuity's ``fs.RootPath``. That function has a character of
its own (it cleans a joined path by its text, one link at a time), and trees must equal, so this is the same algorithm.
Where it would look at the host instead of the layer (through an absolute link in the middle of a path), this one sees
nothing. It must not change a tree. Source: continuity ``fs/path.go``; Go ``path/filepath`` (Clean, Join, Split).
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
"""MAXSYMLINKS: how many links the kernel follows within one lookup."""
_STEPS = 10_000_000
"""Lookups for the paths of one tree that have symlinks. Real layers need some thousand, an attacker gets seconds."""
_DOTS = frozenset({b".", b".."})


def clean(name: bytes) -> bytes:
    """Go's ``filepath.Clean``: by the text alone; an empty name is ``.``."""
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
    """Paths of one tree. ``lookup`` finds children, so that it may be a tree in memory or a layer image."""

    def __init__(self, root: Inode, lookup: Lookup, limits: Limits) -> None:
        self._root = root
        self._lookup = lookup
        self._limits = limits
        self._steps = 0

    def resolve(self, path: bytes) -> ResolvedPath:
        """The place that ``path`` leads to, every symlink followed, the last one too; nothing need be there.

        Raises UnsafeLayer when the path goes through something that is not a directory, LimitExceeded.
        """
        parts = tuple(part for part in path.split(b"/") if part and part != b".")
        if b".." in parts or self._has_symlink(parts):
            parts = tuple(part for part in self._follow(path).split(b"/") if part)
        self._check(parts, path)
        return parts

    def find(self, parts: ResolvedPath) -> Inode | None:
        """What is at a resolved place. Raises UnsafeLayer when the path goes through a non-directory."""
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
        """Walk the whole path again and again, until a walk meets no symlink."""
        hops = 0
        while True:
            walked, links = self._walk(path, self._limits.symlink_hops - hops)
            if not links:
                return clean(b"/" + walked)
            hops += links
            path = walked

    def _walk(self, path: bytes, hops_left: int) -> tuple[bytes, int]:
        """One pass from left to right: each symlink met is replaced by its target, which is not walked itself."""
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
                current = here.target
            else:
                current = clean(current + b"/" + here.target)
        return current or b"/", links

    def _peek(self, path: bytes) -> Inode | None:
        """What lstat(2) would see at ``path``: links on the way there are followed by the kernel."""
        pending = [part for part in reversed(path.split(b"/")) if part]
        trail, hops = [self._root], 0
        while pending:
            part = pending.pop()
            if part == b"..":
                if len(trail) == 1:
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
            if inode.target.startswith(b"/"):
                return None
            if hops > _KERNEL_HOPS or len(pending) > self._limits.path_length:
                raise LimitExceeded(f"path {quoted(path)} leads over too many symlinks")
            pending.extend(piece for piece in reversed(inode.target.split(b"/")) if piece not in {b"", b"."})
        return trail[-1]

    def _step(self, directory: Inode | None, name: bytes, path: bytes) -> Inode | None:
        """One lookup on the way along ``path``."""
        self._steps += 1
        limits = self._limits
        if self._steps > _STEPS or len(path) > limits.path_length or len(name) > limits.name_length:
            raise LimitExceeded(f"path {quoted(path)} is too long, or leads over too many symlinks")
        if directory is None:
            return None
        if not directory.is_dir:
            raise UnsafeLayer(f"not a directory: a parent of {quoted(path)}")
        return self._lookup(directory, name)
