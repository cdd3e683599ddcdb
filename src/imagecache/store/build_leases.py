"""Build leases: what a running build needs. They end with its process.

A lease is a locked file with one name in each line. A killed build leaves a file that is not locked: it has no effect,
and the next collection removes it. Nothing is fsynced: no build survives the power failure that an fsync is for. It
must not outlive the build; what must stay longer belongs to a bundle or a node lease.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import Self

from imagecache.digest import Digest
from imagecache.oserrors import converting
from imagecache.store.durable_files import write_all
from imagecache.store.layer_name import LayerName
from imagecache.store.locks import abandoned, locked, open_locked
from imagecache.store.paths import StorePaths


class BuildLease(AbstractContextManager["BuildLease"]):
    """Keeps layer images and documents from collection, before and after they are in the store."""

    def __init__(
        self, paths: StorePaths, names: Iterable[LayerName], digests: Iterable[Digest], *, build: str = ""
    ) -> None:
        """``build``: the id of the bundle that is being built, for ``layers_of``."""
        self._paths = paths
        self._path = paths.build_lease(build or str(os.getpid()), secrets.token_hex(8))
        self._end = 0
        with converting(self._path):
            self._fd = open_locked(self._path, create=os.O_CREAT | os.O_EXCL)
        try:
            self.add(names, digests)
        except BaseException:
            self._drop()
            raise

    def add(self, names: Iterable[LayerName] = (), digests: Iterable[Digest] = ()) -> None:
        """Keep these too. Check that they exist after this call, not before. Raises StoreError, NoSpace."""
        lines = "".join(f"{needed}\n" for needed in (*names, *digests)).encode()
        # Shared: a collection sees these names, or has ended before the caller checks that the files exist.
        with locked(self._paths.collect_lock, shared=True), converting(self._path):
            try:
                write_all(self._fd, lines, self._end)
            except OSError:
                os.ftruncate(self._fd, self._end)  # half a name would make the file malformed for a collection
                raise
        self._end += len(lines)

    def _drop(self) -> None:
        with converting(self._path):
            self._path.unlink(missing_ok=True)
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drop()


def layers_of(paths: StorePaths, build: str) -> tuple[LayerName, ...]:
    """Names that running builds of a bundle need, in their order, and perhaps those of a killed one.

    Raises StoreError, StoreDenied.
    """
    found: dict[LayerName, None] = {}
    for path in paths.build_leases_of(build):
        with converting(path), suppress(FileNotFoundError):
            *lines, _unfinished = path.read_text().split("\n")  # no lock: its build may be writing a line
            found |= {LayerName.parse(line): None for line in lines if "/" in line}
    return tuple(found)


def builds_with(paths: StorePaths, name: LayerName) -> tuple[str, ...]:
    """The builds, as they are named, that may need a layer image; perhaps killed ones too. Raises StoreError."""
    builds = {path.stem.rpartition("-")[0] for path in paths.build_leases.glob("*.lease")}
    return tuple(build for build in sorted(builds) if name in layers_of(paths, build))


def live_builds(paths: StorePaths) -> Iterator[tuple[str, frozenset[LayerName], frozenset[Digest]]]:
    """Every live build with what it needs. Removes leases of dead ones. Only with the collect lock held."""
    for path in sorted(paths.build_leases.glob("*.lease")):
        with converting(path), abandoned(path) as dead:
            if dead:
                path.unlink(missing_ok=True)
                continue
            try:
                lines = path.read_text().splitlines()
            except FileNotFoundError:
                continue
        names = frozenset(LayerName.parse(line) for line in lines if "/" in line)
        yield path.stem, names, frozenset(Digest(line) for line in lines if "/" not in line)
