"""ImageCache objects as files: ``caches/<name>.json`` in a store, one JSON document each.

Each is replaced whole, so any process may read at any time. There are two kinds of lock, which end with their process:
one for the moment of a write, and a claim on one object for as long as a process works on it. An object in the middle
of a build that no process has claimed was interrupted. It must not know what a change means.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from imagecache.api.own_status import with_own_status
from imagecache.api.parse import is_name
from imagecache.api.types import RESOURCES, ImageCache
from imagecache.errors import NotFound, StoreBusy, StoreCorrupt
from imagecache.kube.api import Object
from imagecache.oserrors import converting
from imagecache.store.durable_files import write_atomic
from imagecache.store.locks import abandoned, locked, open_locked
from imagecache.store.owner import make_directory
from imagecache.store.paths import StorePaths

_STEM = 200
"""Longest name that is a file name as it is: NAME_MAX is 255, and temporaries add to it."""
_POLL = 0.02
"""Seconds between two tries of a claim."""
_SUFFIX = ".json"
Stamp = tuple[int, int]
"""Time of the last change and inode: another one for every version of a file."""

_T = TypeVar("_T")
_objects: msgspec.json.Decoder[Object] = msgspec.json.Decoder(dict)
_caches = msgspec.json.Decoder(ImageCache)


class ObjectFiles:
    """Calls block. Raises StoreError, StoreDenied, NoSpace wherever the file system refuses."""

    def __init__(self, paths: StorePaths) -> None:
        self._paths = paths

    def read(self, name: str) -> Object | None:
        """None when there is no such object. Raises StoreCorrupt."""
        data = self._data(self._path(name)) if is_name(name) else None
        return None if data is None else _decoded(self._path(name), data, _objects)

    def cache(self, name: str) -> ImageCache:
        """Raises NotFound, StoreCorrupt."""
        data = self._data(self._path(name)) if is_name(name) else None
        if data is None:
            raise not_found(name)
        return with_own_status(_decoded(self._path(name), data, _caches))

    def caches(self) -> list[ImageCache]:
        """Every object, by name; none when there is no store. Raises StoreCorrupt."""
        found = [(path, self._data(path)) for path in self._files()]
        caches = [with_own_status(_decoded(path, data, _caches)) for path, data in found if data is not None]
        return sorted(caches, key=lambda cache: cache.name)

    def ids(self) -> frozenset[str]:
        """``status.imageCacheId`` of every object. Raises StoreCorrupt."""
        return frozenset(cache.status.image_cache_id for cache in self.caches() if cache.status)

    def stamps(self) -> dict[Path, Stamp]:
        """Every object's file as it is now."""
        found = {}
        for path in self._files():
            try:
                status = path.stat()
            except FileNotFoundError:
                continue  # deleted since it was listed
            found[path] = (status.st_mtime_ns, status.st_ino)
        return found

    def read_file(self, path: Path) -> Object | None:
        """The object in a file of ``stamps``; None when it is gone. Raises StoreCorrupt."""
        data = self._data(path)
        return None if data is None else _decoded(path, data, _objects)

    def write(self, name: str, item: Object) -> None:
        """Create or replace, durably. Inside ``writing``."""
        write_atomic(self._path(name), msgspec.json.encode(item))

    def remove(self, name: str) -> None:
        """Idempotent. Inside ``writing``."""
        path = self._path(name)
        with converting(path):
            path.unlink(missing_ok=True)

    def writing(self) -> AbstractContextManager[None]:
        """Held from reading an object until its next version is written, so that no change is lost."""
        self._prepare()
        return locked(self._paths.caches_lock)

    @contextmanager
    def claimed(self, name: str, *, wait: float = 0.0) -> Iterator[None]:
        """Be the only one who works on the object. Raises NotFound for no name, StoreBusy while another process is.

        ``wait``: seconds; it blocks.
        """
        path = self._claim(name)
        self._prepare()
        deadline = time.monotonic() + wait
        with converting(path):
            while True:
                try:
                    fd = open_locked(path, wait=False)
                    break
                except StoreBusy as error:
                    if time.monotonic() >= deadline:
                        raise StoreBusy(
                            f"{name} is being worked on by another process",
                            hint=f"watch it with 'imagecache get {name} -w', or try again when that has ended",
                        ) from error
                time.sleep(_POLL)
        try:
            yield
        finally:
            try:
                if not self._path(name).exists():  # the claim's file goes with its object
                    path.unlink(missing_ok=True)
            finally:
                os.close(fd)

    def busy(self, name: str) -> bool:
        """Whether a process has claimed the object right now. Raises NotFound for no name."""
        path = self._claim(name)
        if not path.exists():
            return False
        with abandoned(path) as free:
            return not free

    def _data(self, path: Path) -> bytes | None:
        with converting(path):
            try:
                return path.read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def _files(self) -> list[Path]:
        directory = self._paths.caches
        with converting(directory):
            return sorted(directory.glob(f"*{_SUFFIX}")) if directory.is_dir() else []

    def _path(self, name: str) -> Path:
        return self._paths.caches / f"{_stem(name)}{_SUFFIX}"

    def _claim(self, name: str) -> Path:
        return self._paths.locks / f"cache-{_stem(name)}.lock"

    def _prepare(self) -> None:
        """A store that no command has opened yet has no directories."""
        for needed in (self._paths.root, self._paths.caches, self._paths.locks):
            with converting(needed):
                needed.parent.mkdir(parents=True, exist_ok=True)
                make_directory(needed)


def not_found(name: str) -> NotFound:
    """There is no object of that name, in kubectl's words."""
    return NotFound(f'{RESOURCES} "{name}" not found', hint="list them with 'imagecache get'")


def _stem(name: str) -> str:
    """A name as part of a file name; text that no object can have as its name never reaches the file system."""
    if not is_name(name):
        raise not_found(name)
    if len(name) <= _STEM:
        return name
    # an underscore is in no name, so no shorter name is this one
    return f"{name[: _STEM - 33]}_{hashlib.sha256(name.encode()).hexdigest()[:32]}"


def _decoded(path: Path, data: bytes, decoder: msgspec.json.Decoder[_T]) -> _T:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise StoreCorrupt(
            f"{path} is malformed: {error}", hint="delete the file and create the cache again"
        ) from error
