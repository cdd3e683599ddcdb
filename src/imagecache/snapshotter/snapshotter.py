"""The ten operations of containerd's snapshots API, on rows, directories and mounts.

Blocking and thread-safe; ``service`` runs them in threads with deadlines. What is served by layer images is in
``served`` and ``layers``; everything else is containerd's own overlay snapshotter once more, since a node must work
whatever we have. Effects on the disk come before the transaction that needs them, and after the one that ends the need.
It must not call containerd, must not unmount when it stops, and must not use the network.
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
from imagecache.snapshotter import filters, model
from imagecache.snapshotter.directories import Directories
from imagecache.snapshotter.known_answers import Answer, Ready, Stack
from imagecache.snapshotter.layer_mounts import LayerMounts
from imagecache.snapshotter.metadata import Found, Metadata
from imagecache.snapshotter.model import NOTHING, Info, Kind, LayerExists, Lower, Row, Usage
from imagecache.snapshotter.mounts import Mount, check_root, mounts_of
from imagecache.snapshotter.provider import LayerProvider, Mounter, Observer
from imagecache.snapshotter.rows import Reader
from imagecache.snapshotter.served_snapshots import ServedSnapshots
from imagecache.snapshotter.settings import DEFAULT, SnapshotterSettings
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
        """Open the state, or begin it. Mounts nothing.

        Raises:
            InvalidSetting: overlayfs cannot express this root.
            StoreBusy: another process serves it.
            StoreCorrupt, StoreDenied, StoreError: the database, or the disk.
        """
        check_root(root)
        with converting(root):
            for directory in (root, root / "snapshots", root / "m"):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                directory.chmod(0o700)
        self._lock_fd = _locked(root)
        self._clock = clock
        self.settings = settings
        self._observer = observer or NoObserver()
        self._directories = Directories(root / "snapshots")
        try:
            self._metadata = _opened(root, self._directories, settings.lock_wait)
        except BaseException:
            os.close(self._lock_fd)
            raise
        with self._metadata.read() as tx:
            self._foreign = tx.foreign()
        self._overlay_options = _overlay_options() if settings.overlay_options is None else settings.overlay_options
        holder = f"{settings.holder}-{hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]}"
        own = replace(settings, holder=holder)
        self._layers = LayerMounts(root / "m", self._metadata, provider, mounter, own, self._observer)
        self._layers.renew_leases()
        self._served = ServedSnapshots(self._metadata, provider, self._layers, clock, self._observer)
        self._ready = Ready()
        self._meter = Meter(clock, age=settings.usage_age, budget=settings.usage_budget)
        self._cleaning = threading.Lock()

    def close(self) -> None:
        """Let go of the files. Mounts stay: containers stand on them. Twice is fine."""
        self._metadata.close()
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
            BlobNotFound, HostError: a layer image below is gone or cannot be mounted.
            StoreError: the disk.
        """
        labels = labels or {}
        return self._served.register(key, parent, labels) or self._create(Kind.ACTIVE, key, parent, labels)

    def prepare_at_once(
        self, key: str, parent: str = "", labels: Mapping[str, str] | None = None
    ) -> tuple[Mount, ...] | None:
        """``prepare`` for a container, if nothing in it could block for long; None: use ``prepare``.

        That is when all below is mounted, a directory was made ahead, and nobody else is writing to the database. No
        mount, no fsync, no waiting for a lock. Raises SnapshotExists, StoreError.
        """
        stack = self._ready.stack(parent)
        if stack is None or model.is_unpack(key) or not self._directories.ahead:
            return None
        with contextlib.suppress(StoreBusy, SnapshotNotFound):
            return self._insert(Kind.ACTIVE, key, stack, labels or {}, wait=False)
        return None

    def view(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> tuple[Mount, ...]:
        """A read-only snapshot of the committed ``parent``. Raises as ``prepare``."""
        return self._create(Kind.VIEW, key, parent, labels or {})

    def mounts(self, key: str) -> tuple[Mount, ...]:
        """How to mount an active snapshot or a view, with every layer image mounted again if need be.

        Raises SnapshotNotFound; WrongKind for a committed one; BlobNotFound, HostError.
        """
        with self._metadata.read() as tx:
            row = tx.get(key)
            if row.info.kind is Kind.COMMITTED:
                raise WrongKind(f"snapshot {key!r} is committed, not active")
            chain = tx.chain(row.parent_id)
        lowers = self._paths(chain)
        self._tell_used(key, self._files(chain))
        return self._mounts(row.info.kind, row.id, lowers)

    def ready_mounts(self, key: str) -> tuple[Mount, ...] | None:
        """What ``mounts`` would answer, if that is known without waiting for anything; None if it is not."""
        answer = self._ready.answer(key)
        if answer is None:
            return None
        if answer.files:
            self._observer.used(answer.files)
        return answer.mounts

    def commit(self, name: str, key: str, labels: Mapping[str, str] | None = None, parent: str = "") -> None:
        """Freeze the active snapshot ``key`` as ``name``. Nothing but the transaction: containerd holds its own.

        Raises SnapshotExists, SnapshotNotFound, WrongKind, InvalidSnapshotArgument.
        """
        with self._metadata.write() as writer:
            number = writer.commit(name, key, labels or {}, parent, self._clock.now())
            self._ready.forget(key)
        self._meter.forget(self._directories.own(number).fs)

    def remove(self, key: str) -> None:
        """Forget a snapshot. What may take long, unmounting included, is left to ``cleanup``.

        Raises SnapshotNotFound, HasChildren; nothing else that is not the database's.
        """
        with self._metadata.write(durable=False) as writer:  # one that comes back is removed again by containerd
            row = writer.remove(key)
            self._ready.forget(key)
        self._served.removed(key)
        self._meter.forget(self._directories.own(row.id).fs)
        if row.layer is None:
            self._directories.retire(row.id)

    def stat(self, key: str) -> Info:
        """Raises SnapshotNotFound."""
        with self._metadata.read() as tx:
            row = tx.find(key)
        row = row or self._served.recover(key)
        if row is None:
            raise SnapshotNotFound(f"snapshot {key!r} does not exist")
        return row.info

    def update(self, name: str, labels: Mapping[str, str], paths: Sequence[str] = ()) -> Info:
        """Change labels: all of them, or those named by ``paths``. Raises SnapshotNotFound, InvalidSnapshotArgument."""
        with self._metadata.write() as writer:
            return writer.relabel(name, labels, paths, self._clock.now())

    def walk(self, texts: Sequence[str] = ()) -> list[Info]:
        """What matches any of the filters, of one moment. Raises InvalidSnapshotArgument."""
        wanted = filters.parse(texts)
        with self._metadata.read() as tx:
            return tx.select(wanted)

    def usage(self, key: str) -> Usage:
        """What a snapshot itself takes, without its parents. Raises SnapshotNotFound."""
        with self._metadata.read() as tx:
            row = tx.get(key)
        if row.info.kind is Kind.VIEW:
            return NOTHING
        if row.usage is not None:
            return row.usage
        measured = self._meter.measure(self._directories.own(row.id).fs)
        if measured.complete and row.info.kind is Kind.COMMITTED:
            with self._metadata.write() as writer:
                writer.set_usage(row.id, measured.usage)
        return measured.usage

    def prewarm(self) -> None:
        """Do ahead what the next ``prepare`` needs."""
        self._directories.make_spare()

    def unmount_idle(self) -> None:
        """Unmount layer images that no container has read; whoever needs one mounts it again. Never fails."""
        try:
            self._layers.unmount_idle()
        except ImageCacheError as error:
            _log.warning("layer images that nobody reads stay mounted for now", problem=str(error))

    def cleanup(self) -> None:
        """Free what removed snapshots and crashes left. A no-op while another call does it."""
        if not self._cleaning.acquire(blocking=False):
            return
        try:
            with self._metadata.write() as writer:
                self._directories.retire_orphans(writer.ids(), above=self._foreign)
            self._directories.delete_retired()
            self._layers.drop_unused()
            self._layers.drop_strays()
        finally:
            self._cleaning.release()

    def _create(self, kind: Kind, key: str, parent: str, labels: Mapping[str, str]) -> tuple[Mount, ...]:
        stack = self._stack(parent) if parent else Stack(None, devices={})
        reads = not model.is_unpack(key)
        if reads:
            self._layers.will_be_read(lower.layer for lower in stack.chain if lower.layer)
        mounts = self._insert(kind, key, stack, labels)
        self._paths(stack.chain)  # again: before the row was there, somebody may have found that nobody needs them
        if reads:
            self._ready.remember_stack(parent, stack)
        return mounts

    def _insert(
        self, kind: Kind, key: str, stack: Stack, labels: Mapping[str, str], *, wait: bool = True
    ) -> tuple[Mount, ...]:
        files = self._tell_used(key, stack.files)
        with (
            self._directories.staged(kind, owner=stack.lowers[0] if stack.lowers else None) as place,
            self._metadata.write(durable=False, wait=wait) as writer,
        ):
            number = writer.create(kind, key, stack.parent, labels, self._clock.now())
            place(number)
            mounts = self._mounts(kind, number, stack.lowers)
            if stack.devices is not None:
                self._ready.remember(key, Answer(mounts, files, stack.devices))
        return mounts

    def _stack(self, parent: str) -> Stack:
        """With every layer image mounted. Raises as ``prepare``."""
        row, chain = self._parent(parent)
        lowers = self._paths(chain)
        devices = self._layers.devices(self._layers.mountpoint(lower.layer) for lower in chain if lower.layer)
        return Stack(row, chain, lowers, self._files(chain), devices)

    def _parent(self, name: str) -> tuple[Row, tuple[Lower, ...]]:
        """With its chain. Raises SnapshotNotFound, InvalidSnapshotArgument."""
        try:
            with self._metadata.read() as tx:
                return _with_chain(tx, name)
        except SnapshotNotFound:
            self._served.recover(name)
        with self._metadata.read() as tx:
            return _with_chain(tx, name)

    def _paths(self, chain: Sequence[Lower]) -> list[Path]:
        """The chain as directories, every layer image mounted."""
        return [
            self._layers.ensure(lower.layer) if lower.layer else self._directories.own(lower.snapshot_id).fs
            for lower in chain
        ]

    def _files(self, chain: Sequence[Lower]) -> list[Path]:
        return [file for lower in chain if lower.layer and (file := self._layers.file(lower.layer))]

    def _tell_used(self, key: str, files: Sequence[Path]) -> Sequence[Path]:
        """The layer images that a container is about to read; none for who only unpacks."""
        if model.is_unpack(key):
            return ()
        if files:
            self._observer.used(files)
        return files

    def _mounts(self, kind: Kind, number: int, lowers: Sequence[Path]) -> tuple[Mount, ...]:
        return mounts_of(kind, self._directories.own(number), lowers, self._overlay_options)


def _with_chain(tx: Reader, name: str) -> tuple[Row, tuple[Lower, ...]]:
    row = tx.committed_parent(name)
    return row, tx.chain(row.id)


def _opened(root: Path, directories: Directories, wait: float) -> Metadata:
    """The database; when it is lost, one that never gives out the numbers of what is on the disk."""
    layers = [int(path.name) for path in (root / "m").iterdir() if path.name.isdecimal()]
    found = Found(directories.highest(), max(layers, default=0))
    path = root / "metadata.db"
    if found.snapshots and not path.exists():
        _log.warning(
            "database lost: snapshots of before are kept but not served", root=str(root), up_to=found.snapshots
        )
    return Metadata(path, wait=wait, found=found)


def _overlay_options() -> tuple[str, ...]:
    """EROFS has no file handles for ``index=on``, and an index forbids to mount an upper directory twice."""
    return ("index=off",) if Path("/sys/module/overlay/parameters/index").exists() else ()


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
