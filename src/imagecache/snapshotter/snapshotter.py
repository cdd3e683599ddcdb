"""The ten operations of containerd's snapshots API, on rows, directories and mounts.

Blocking and thread-safe; ``grpc_service`` runs them in threads with deadlines. What layer images serve is in
``served_snapshots`` and ``layer_mounts``; everything else does what containerd's own overlay snapshotter does, since a
node must work whatever the store has. An effect on the disk comes before the transaction that needs it, and its removal
after the transaction that ends the need. It must not call containerd, must not unmount when it stops, and must not use
the network.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import structlog

from imagecache.clock import Clock
from imagecache.errors import ImageCacheError, SnapshotNotFound, StoreBusy, WrongKind
from imagecache.oserrors import converting
from imagecache.snapshotter import filters
from imagecache.snapshotter.answer_cache import AnswerCache, MountsAnswer, Stack
from imagecache.snapshotter.database import Database, Found
from imagecache.snapshotter.dependencies import LayerProvider, Mounter, Observer
from imagecache.snapshotter.directories import Directories
from imagecache.snapshotter.id_map import IdMap, id_map_of
from imagecache.snapshotter.layer_mounts import LayerMounts
from imagecache.snapshotter.mounts import Mount, check_root, mounts_of, overlay_options
from imagecache.snapshotter.served_snapshots import ServedSnapshots
from imagecache.snapshotter.settings import DEFAULT, SnapshotterSettings
from imagecache.snapshotter.snapshot import (
    NOTHING,
    Info,
    Kind,
    LayerBelow,
    LayerExists,
    Lower,
    Row,
    Usage,
    is_unpack,
)
from imagecache.snapshotter.usage import Meter

_log = structlog.get_logger(__name__)


class NoObserver:
    """``Observer`` that ignores everything."""

    def used(self, layers: Sequence[Path]) -> None:
        pass

    def looked_up(self, *, found: bool) -> None:
        pass

    def released(self) -> None:
        pass


class Snapshotter:
    """All state is below ``root``; one process at a time."""

    def __init__(
        self,
        root: Path,
        provider: LayerProvider,
        mounter: Mounter,
        clock: Clock,
        settings: SnapshotterSettings = DEFAULT,
        observer: Observer | None = None,
    ) -> None:
        """Open the state, or make it. Mounts nothing.

        Args:
            root: of all state.
            provider: of layer images.
            mounter: of layer images.
            clock: for times of snapshots.
            settings: bounds.
            observer: None: nothing is recorded.

        Raises:
            InvalidSetting: the options of overlayfs cannot express this root.
            StoreBusy: another process serves it.
            StoreCorrupt, StoreDenied, StoreError: the database, or the disk.
        """
        check_root(root)
        with converting(root):
            for directory in (root, root / "snapshots", root / "m"):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                directory.chmod(0o700)
        self._lock_fd = _locked(root)  # before the database: two processes would assign the same directories
        self._clock = clock
        self.settings = settings
        self._observer = observer or NoObserver()
        self._directories = Directories(root / "snapshots")
        try:
            self._database = _opened(root, self._directories, settings.lock_wait)
        except BaseException:
            os.close(self._lock_fd)
            raise
        with self._database.read() as tx:
            self._lost_up_to = tx.lost_up_to()
        holder = f"{settings.holder}-{hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]}"
        own = replace(settings, holder=holder)
        self._mountpoints = root / "m"
        self._layers = LayerMounts(self._mountpoints, self._database, provider, mounter, own, self._observer)
        self._layers.renew_leases()
        self._served = ServedSnapshots(self._database, provider, self._layers, clock, self._observer)
        self._answers = AnswerCache()
        self._meter = Meter(clock, age=settings.usage_age, budget=settings.usage_budget)
        self._cleaning = threading.Lock()

    def close(self) -> None:
        """Close the files. Mounts stay: containers stand on them. Idempotent."""
        self._database.close()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def prepare(
        self, key: str, parent: str = "", labels: Mapping[str, str] | None = None
    ) -> tuple[Mount, ...] | LayerExists:
        """A writable snapshot on top of the committed ``parent``; or nothing, where the layer to unpack exists.

        Raises:
            SnapshotExists: the key is in use.
            SnapshotNotFound, InvalidSnapshotArgument: the parent is missing, or not committed.
            BlobNotFound, HostError: a layer image below does not exist or cannot be mounted.
            StoreError: the disk.
        """
        labels = labels or {}
        return self._served.register(key, parent, labels) or self._create(Kind.ACTIVE, key, parent, labels)

    def prepare_nowait(
        self, key: str, parent: str = "", labels: Mapping[str, str] | None = None
    ) -> tuple[Mount, ...] | None:
        """``prepare`` for a container, if nothing in it can block; None: call ``prepare``.

        That is so while everything below is mounted, a spare directory exists, and no transaction is running: no mount,
        no fsync, no wait for a lock. Raises SnapshotExists, StoreError.
        """
        stack = self._answers.stack(parent, self._layers.version())
        if stack is None or is_unpack(key) or not self._directories.has_spare:
            return None
        # Another transaction is running, or the parent was removed: then ``prepare`` waits, or recovers it.
        with contextlib.suppress(StoreBusy, SnapshotNotFound):
            return self._insert(Kind.ACTIVE, key, stack, labels or {}, wait=False)
        return None

    def view(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> tuple[Mount, ...]:
        """A read-only snapshot of the committed ``parent``. Raises as ``prepare``."""
        return self._create(Kind.VIEW, key, parent, labels or {})

    def mounts(self, key: str) -> tuple[Mount, ...]:
        """How to mount an active snapshot or a view; every layer image is mounted again if need be.

        Raises SnapshotNotFound; WrongKind for a committed one; BlobNotFound, HostError.
        """
        with self._database.read() as tx:
            row = tx.get(key)
            if row.info.kind is Kind.COMMITTED:
                raise WrongKind(f"snapshot {key!r} is committed, not active")
            chain = tx.chain(row.parent_id)
        lowers = self._mounted_lowers(chain)
        self._report_read(key, self._files(chain))
        return self._mounts_of(row.info.kind, row.id, lowers, _id_map(key, row.info.labels, lowers))

    def mounts_nowait(self, key: str) -> tuple[Mount, ...] | None:
        """The answer of ``mounts`` if it is known and still holds, without blocking; None: call ``mounts``."""
        answer = self._answers.mounts(key)
        if answer is None:
            return None
        if answer.files:
            self._observer.used(answer.files)
        return answer.mounts

    def commit(self, name: str, key: str, labels: Mapping[str, str] | None = None, parent: str = "") -> None:
        """Freeze the active snapshot ``key`` as ``name``. One transaction, no more: containerd holds its own meanwhile.

        Raises SnapshotExists, SnapshotNotFound, WrongKind, InvalidSnapshotArgument.
        """
        # Durable: containerd keeps the name of a pulled layer for good, and would not pull it again.
        with self._database.write() as tx:
            number = tx.commit(name, key, labels or {}, parent, self._clock.now())
            self._answers.forget(key)
        self._meter.forget(self._directories.own(number).fs)

    def remove(self, key: str) -> None:
        """Delete a snapshot's row. What may take long, unmounting included, is left to ``cleanup``.

        Raises SnapshotNotFound, HasChildren; nothing else but errors of the database: any other code ends containerd's
        garbage collection.
        """
        # Not durable: containerd removes again what a power failure brings back.
        with self._database.write(durable=False) as tx:
            row = tx.remove(key)
            self._answers.forget(key)
        self._served.forget(key)
        self._meter.forget(self._directories.own(row.id).fs)
        if row.layer is None:
            self._directories.retire(row.id)

    def stat(self, key: str) -> Info:
        """Raises SnapshotNotFound."""
        with self._database.read() as tx:
            row = tx.find(key)
        row = row or self._served.recover(key)  # containerd may know it from before the database was lost
        if row is None:
            raise SnapshotNotFound(f"snapshot {key!r} does not exist")
        return row.info

    def update(self, name: str, labels: Mapping[str, str], paths: Sequence[str] = ()) -> Info:
        """Change labels: all of them, or those named by ``paths``. Raises SnapshotNotFound, InvalidSnapshotArgument."""
        with self._database.write() as tx:
            return tx.relabel(name, labels, paths, self._clock.now())

    def walk(self, texts: Sequence[str] = ()) -> list[Info]:
        """Snapshots that match any of the filters, at one moment. Raises InvalidSnapshotArgument."""
        wanted = filters.parse(texts)
        with self._database.read() as tx:
            return tx.select(wanted)

    def below(self, key: str) -> tuple[LayerBelow, ...]:
        """The layers that a snapshot stands on, the uppermost first; empty when it does not exist."""
        with self._database.read() as tx:
            return tx.below(key)

    def usage(self, key: str) -> Usage:
        """Size of a snapshot without its parents. Raises SnapshotNotFound."""
        with self._database.read() as tx:
            row = tx.get(key)
        if row.info.kind is Kind.VIEW:
            return NOTHING
        if row.usage is not None:
            return row.usage
        measured = self._meter.measure(self._directories.own(row.id).fs)
        if measured.complete and row.info.kind is Kind.COMMITTED:
            with self._database.write() as tx:
                tx.set_usage(row.id, measured.usage)
        return measured.usage

    def prewarm(self) -> None:
        """Make spare directories for the next ``prepare``."""
        self._directories.make_spares()

    def unmount_idle(self) -> None:
        """Unmount layer images that no container has read; the next snapshot on one mounts it again. Never fails."""
        try:
            self._layers.unmount_idle()
        except ImageCacheError as error:
            _log.warning("idle layer images stay mounted for now", problem=str(error))

    def cleanup(self) -> bool:
        """Free what removed snapshots and crashes left.

        Returns False when something is left that a later call may free: a mount that is busy, a layer image that
        another call works on, or all of what was removed while another clean-up ran. Raises StoreError.
        """
        if not self._cleaning.acquire(blocking=False):
            return False
        try:
            # In a write transaction, no other call is between making a directory's name and committing its row.
            with self._database.write() as tx:
                self._directories.retire_orphans(tx.ids(), above=self._lost_up_to)
            self._directories.delete_retired()
            return all([self._layers.release_unused(), self._layers.remove_orphans()])
        finally:
            self._cleaning.release()

    def _create(self, kind: Kind, key: str, parent: str, labels: Mapping[str, str]) -> tuple[Mount, ...]:
        stack = self._stack(parent) if parent else Stack(None, devices={})
        reads = not is_unpack(key)
        if reads:
            self._layers.keep_mounted(lower.layer for lower in stack.chain if lower.layer)
        mounts = self._insert(kind, key, stack, labels)
        # Again: until the row existed, ``unmount_idle`` could find that nothing needs these mounts.
        self._mounted_lowers(stack.chain)
        if reads:
            self._answers.remember_stack(parent, stack)
        return mounts

    def _insert(
        self, kind: Kind, key: str, stack: Stack, labels: Mapping[str, str], *, wait: bool = True
    ) -> tuple[Mount, ...]:
        files = self._report_read(key, stack.files)
        id_map = _id_map(key, labels, stack.lowers)
        owner = id_map.root if id_map else _owner(stack.lowers)
        # The directory outside, the transaction inside: it is renamed into place before the commit, so that a row never
        # lacks its directory. Not durable: a container that a power failure ends is started again with a new key.
        with (
            self._directories.staged(kind, owner) as place,
            self._database.write(durable=False, wait=wait) as tx,
        ):
            number = tx.create(kind, key, stack.parent, labels, self._clock.now())
            place(number)
            mounts = self._mounts_of(kind, number, stack.lowers, id_map)
            if stack.devices is not None:
                self._answers.remember(key, MountsAnswer(mounts, files, stack.devices))
        return mounts

    def _stack(self, parent: str) -> Stack:
        """With every layer image mounted. Raises as ``prepare``."""
        try:
            row, chain = self._parent(parent)
        except SnapshotNotFound:
            self._served.recover(parent)
            row, chain = self._parent(parent)
        version = self._layers.version()
        lowers = self._mounted_lowers(chain)
        devices = self._layers.devices(self._layers.mountpoint(lower.layer) for lower in chain if lower.layer)
        return Stack(row, chain, lowers, self._files(chain), devices, version)

    def _parent(self, name: str) -> tuple[Row, tuple[Lower, ...]]:
        """With its chain. Raises SnapshotNotFound, InvalidSnapshotArgument."""
        with self._database.read() as tx:
            row = tx.committed_parent(name)
            return row, tx.chain(row.id)

    def _mounted_lowers(self, chain: Sequence[Lower]) -> list[Path]:
        """The chain as directories, every layer image mounted."""
        version = self._layers.version()
        return [
            self._layers.ensure_mounted(lower.layer, version)
            if lower.layer
            else self._directories.own(lower.snapshot_id).fs
            for lower in chain
        ]

    def _files(self, chain: Sequence[Lower]) -> list[Path]:
        return [file for lower in chain if lower.layer and (file := self._layers.file(lower.layer))]

    def _report_read(self, key: str, files: Sequence[Path]) -> Sequence[Path]:
        """Returns the files that a container is about to read: none for an unpack."""
        if is_unpack(key):
            return ()
        if files:
            self._observer.used(files)
        return files

    def _mounts_of(self, kind: Kind, number: int, lowers: Sequence[Path], id_map: IdMap | None) -> tuple[Mount, ...]:
        layer_images = any(lower.parent == self._mountpoints for lower in lowers)
        options = overlay_options(layer_images=layer_images, stable_inodes=self.settings.stable_inodes)
        return mounts_of(kind, self._directories.own(number), lowers, options, id_map=id_map)


def _id_map(key: str, labels: Mapping[str, str], lowers: Sequence[Path]) -> IdMap | None:
    """What is still to be mapped. Raises as ``id_map_of``.

    A containerd that does not know that we map has copied the image for the namespace, and sends the labels all the
    same (``resolveSnapshotOptions`` in client/snapshotter_opts_unix.go): then what is below belongs to the mapped root.
    """
    found = id_map_of(key, labels)
    return found if found is None or _owner(lowers) != found.root else None


def _owner(lowers: Sequence[Path]) -> tuple[int, int] | None:
    """User and group of the nearest directory; None when there is none."""
    if not lowers:
        return None
    with converting(lowers[0]):
        found = lowers[0].stat()
    return found.st_uid, found.st_gid


def _opened(root: Path, directories: Directories, wait: float) -> Database:
    """The database; instead of a lost one, a new one that never assigns the numbers that are on the disk."""
    layers = [int(path.name) for path in (root / "m").iterdir() if path.name.isdecimal()]
    found = Found(directories.highest(), max(layers, default=0))
    path = root / "metadata.db"
    if found.snapshots and not path.exists():
        _log.warning("database lost: earlier snapshots are kept but not served", root=str(root), up_to=found.snapshots)
    return Database(path, wait=wait, found=found)


def _locked(root: Path) -> int:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise StoreBusy(
            f"{root} is in use by another snapshotter", hint="stop the other agent, or give this one another root"
        ) from error
    return fd
