"""ImageCache objects as files: ``caches/<name>.json`` in the store, one document each.

Written whole or not at all, so that anybody may read at any time; changed only under the object's lock, which ends with
the process that holds it. An object that says "being built" while nobody holds its lock was interrupted. It must not
know what a change means.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from imagecache.api.parse import is_name
from imagecache.api.types import RESOURCES, ImageCache
from imagecache.errors import NotFound, StoreBusy, StoreCorrupt
from imagecache.oserrors import converting
from imagecache.store.files import write_atomic
from imagecache.store.locks import abandoned, open_locked
from imagecache.store.paths import StorePaths

_STEM = 200
"""Longest name that is a file name as it is: NAME_MAX is 255, and temporaries add to it."""


class ObjectFiles:
    def __init__(self, paths: StorePaths) -> None:
        self._paths = paths

    def get(self, name: str) -> ImageCache:
        """Raises NotFound, StoreCorrupt, StoreDenied, StoreError."""
        path = self._path(name)
        with converting(path):
            try:
                return _decode(path, path.read_bytes())
            except (FileNotFoundError, NotADirectoryError):
                raise not_found(name) from None

    def find(self, name: str) -> ImageCache | None:
        try:
            return self.get(name)
        except NotFound:
            return None

    def all(self) -> list[ImageCache]:
        """Every object, by name; none when there is no store. Raises StoreCorrupt, StoreDenied, StoreError."""
        directory = self._paths.caches
        found = []
        with converting(directory):
            for path in sorted(directory.glob("*.json")) if directory.is_dir() else ():
                try:
                    found.append(_decode(path, path.read_bytes()))
                except FileNotFoundError:
                    continue  # deleted since it was listed
        return sorted(found, key=lambda cache: cache.name)

    def put(self, cache: ImageCache) -> None:
        """Create or replace, durably. The caller holds the lock. Raises NoSpace, StoreDenied, StoreError."""
        path = self._path(cache.name)
        self._prepare(path.parent)
        write_atomic(path, msgspec.json.encode(cache))

    def remove(self, name: str) -> None:
        """The caller holds the lock. Idempotent. Raises StoreDenied, StoreError."""
        for path in (self._path(name), self._lock(name)):
            with converting(path):
                path.unlink(missing_ok=True)

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Be the only one who changes the object. Raises StoreBusy at once when another process is."""
        path = self._lock(name)
        self._prepare(path.parent)
        with converting(path):
            try:
                fd = open_locked(path, wait=False)
            except StoreBusy as error:
                raise StoreBusy(
                    f"{name} is being worked on by another process",
                    hint=f"watch it with 'imagecache get {name} -w', or try again when that has ended",
                ) from error
        try:
            yield
        finally:
            os.close(fd)

    def busy(self, name: str) -> bool:
        """Whether a process holds the object's lock right now."""
        path = self._lock(name)
        if not path.exists():
            return False
        with abandoned(path) as free:
            return not free

    def _path(self, name: str) -> Path:
        return self._paths.caches / f"{_stem(name)}.json"

    def _lock(self, name: str) -> Path:
        return self._paths.locks / f"cache-{_stem(name)}.lock"

    def _prepare(self, directory: Path) -> None:
        for needed in (self._paths.root, directory):
            with converting(needed):
                needed.mkdir(0o700, parents=True, exist_ok=True)


def not_found(name: str) -> NotFound:
    """An object that is not there, in kubectl's words."""
    return NotFound(f'{RESOURCES} "{name}" not found', hint="list them with 'imagecache get'")


def _stem(name: str) -> str:
    """A name as part of a file name; text that no object can have as its name never reaches the file system."""
    if not is_name(name):
        raise not_found(name)
    if len(name) <= _STEM:
        return name
    return f"{name[: _STEM - 33]}-{hashlib.sha256(name.encode()).hexdigest()[:32]}"


def _decode(path: Path, data: bytes) -> ImageCache:
    try:
        return msgspec.json.decode(data, type=ImageCache)
    except msgspec.DecodeError as error:
        raise StoreCorrupt(
            f"{path} is malformed: {error}", hint="delete the file and create the cache again"
        ) from error
