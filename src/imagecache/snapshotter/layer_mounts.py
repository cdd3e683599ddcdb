"""Mounts of layer images: one for each layer image, shared by every snapshot that it serves.

Order of effects (docs/internals/snapshotter.md): record the intent (a row in ``layers``), lease the file, mount it, and
only then insert a snapshot's row that needs it; in reverse when the last such row is removed. So a crash leaves at most
a mount and a lease that the next ``release_unused`` finds by the intent. Mounts are made when they are needed, since a
reboot takes them all; an idle one does not stay. It must not unmount what a container stands on, and never by force.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import structlog

from imagecache.errors import BlobNotFound, ImageCacheError, StoreBusy
from imagecache.oserrors import converting
from imagecache.snapshotter.answer_cache import device_of
from imagecache.snapshotter.database import Database
from imagecache.snapshotter.dependencies import LayerProvider, Mounter, Observer
from imagecache.snapshotter.settings import SnapshotterSettings
from imagecache.snapshotter.snapshot import LayerRef
from imagecache.store.layer_name import LayerName

_log = structlog.get_logger(__name__)
_NOT_MOUNTING = 1.0
"""Seconds that a call waits for the lock of a layer that it does not mount: its thread must not wait for a mount."""


class LayerMounts:
    """Thread-safe; calls about one layer image wait for each other, at most ``settings.lock_wait`` seconds."""

    def __init__(
        self,
        root: Path,
        database: Database,
        provider: LayerProvider,
        mounter: Mounter,
        settings: SnapshotterSettings,
        observer: Observer,
    ) -> None:
        """``root`` has one mountpoint for each layer image; ``settings.holder`` is our name as a lease holder."""
        self._root = root
        self._database = database
        self._provider = provider
        self._mounter = mounter
        self._holder = settings.holder
        self._wait = settings.lock_wait
        self._observer = observer
        self._own_device = device_of(root)
        self._devices: dict[Path, int] = {}
        """Device numbers of the mountpoints, as they were after the last mount."""
        self._versions: dict[Path, object] = {}
        """The mounter's version, as it was before the last mount."""
        self._read: set[LayerName] = set()
        """Layer images that a container has stood on since we started."""
        self._locks: dict[LayerName, threading.Lock] = {}
        self._locks_lock = threading.Lock()

    def mountpoint(self, layer: LayerRef) -> Path:
        return self._root / str(layer.id)

    def file(self, layer: LayerRef) -> Path | None:
        """The layer image itself; None when it does not exist."""
        return self._provider.open_layer(layer.name)

    @contextlib.contextmanager
    def leased(self, name: LayerName, *, mount: bool) -> Iterator[LayerRef]:
        """Lease a layer image, and mount it now if asked; the block inserts the row that needs it.

        Raises:
            BlobNotFound: the file does not exist.
            StoreBusy, StoreError, HostError
        """
        with self._locked(name, self._wait if mount else _NOT_MOUNTING):
            layer = self._intend(name)
            try:
                self._provider.lease(self._holder, name)
                # Only now is it certain that the file stays: a collection may have taken it before the lease.
                if mount:
                    self._mount(layer)
                else:
                    self._required(layer, self.file(layer))
                yield layer
            except BaseException:
                self._release(layer)
                raise

    def version(self) -> object:
        """While it is equal, no layer image has to be mounted in another way."""
        return self._mounter.version()

    def ensure_mounted(self, layer: LayerRef, version: object) -> Path:
        """The mountpoint, mounted as this ``version`` demands. Raises BlobNotFound, StoreBusy, HostError."""
        target = self.mountpoint(layer)
        known = self._devices.get(target) if self._versions.get(target) == version else None
        if known is None or device_of(target) != known:  # one stat(2), no lock: the usual case at a container's start
            with self._locked(layer.name, self._wait):
                self._mount(layer)
        return target

    def devices(self, targets: Iterable[Path]) -> dict[Path, int] | None:
        """Device numbers of these mountpoints while they are mounted; None when one is not known."""
        found = {target: self._devices.get(target) for target in targets}
        known = {target: device for target, device in found.items() if device is not None}
        return known if len(known) == len(found) else None

    def keep_mounted(self, layers: Iterable[LayerRef]) -> None:
        """A container reads these: they stay mounted, with their pages in the cache, while any snapshot needs them."""
        self._read.update(layer.name for layer in layers)

    def unmount_idle(self) -> None:
        """Unmount layer images that were mounted to prove that it works, and not read since. Raises StoreError.

        Each start of a container reads the host's table of mounts several times, so it must not have a line for every
        layer image of every cache.
        """
        with self._database.read() as tx:
            layers = tx.layers()
        for layer in layers:
            if self.mountpoint(layer) in self._devices and layer.name not in self._read:
                with contextlib.suppress(StoreBusy), self._locked(layer.name, 0):
                    self._unmount_if_idle(layer)

    def renew_leases(self) -> None:
        """At the start: take the leases again that a power failure may have undone, before a collection runs."""
        with self._database.read() as tx:
            layers = tx.layers()
        for layer in layers:
            self._provider.lease(self._holder, layer.name)

    def release_unused(self) -> bool:
        """Unmount and release every layer image that no snapshot needs; False when one stays, busy or locked."""
        with self._database.read() as tx:
            unused = [layer for layer in tx.layers() if not tx.in_use(layer)]
        released = 0
        for layer in unused:
            with contextlib.suppress(StoreBusy), self._locked(layer.name, 0):
                released += self._release(layer)
        return released == len(unused)

    def remove_orphans(self) -> bool:
        """Unmount and remove mountpoints that no layer has, those of a lost database; False when one is busy."""
        with converting(self._root):
            present = list(self._root.iterdir())
        # Read after the listing: a layer gets its row before its mountpoint, so none of these is being made.
        with self._database.read() as tx:
            known = {str(layer.id) for layer in tx.layers()}
        orphans = [path for path in present if path.name not in known]
        return sum(map(self._unmount, orphans)) == len(orphans)

    def _intend(self, name: LayerName) -> LayerRef:
        with self._database.read() as tx:
            known = tx.layer(name)
        if known is not None:
            return known
        with self._database.write(durable=False) as tx:
            return tx.add_layer(name)

    def _mount(self, layer: LayerRef) -> None:
        target = self.mountpoint(layer)
        image = self.file(layer)
        if image is None and self._mounter.mounted(target):
            return  # a mount keeps its file, even if it was deleted
        version = self._mounter.version()  # before the mount: a change in between is then seen at the next start
        self._mounter.mount(self._required(layer, image), target)
        self._versions[target] = version
        device = device_of(target)
        if device is not None and device != self._own_device:  # every EROFS mount has a device number of its own
            self._devices[target] = device

    def _required(self, layer: LayerRef, image: Path | None) -> Path:
        if image is None:
            raise BlobNotFound(
                f"layer image {layer.name} is no longer in the store",
                hint="it was removed, or quarantined as corrupt: build the ImageCache again, then start the pod again",
            )
        return image

    def _release(self, layer: LayerRef) -> bool:
        """With the layer's lock held; False when it has to be tried again.

        The mount goes first and the intent last, so that a crash loses neither.
        """
        try:
            with self._database.read() as tx:
                if tx.in_use(layer):
                    return True
            if not self._unmount(self.mountpoint(layer)):
                return False
            self._provider.release(self._holder, layer.name)
            self._observer.released()
            self._read.discard(layer.name)
            with self._database.write(durable=False) as tx:
                tx.drop_layer(layer)
        except ImageCacheError as error:
            _log.warning("layer image not released, will retry", layer=str(layer.name), problem=str(error))
            return False
        return True

    def _unmount_if_idle(self, layer: LayerRef) -> None:
        """With the layer's lock held.

        The device is forgotten first, then the database is read. A ``prepare`` inserts its row first and then calls
        ``ensure_mounted`` again. So either its row is seen here, or it sees there that the mount is not known.
        """
        target = self.mountpoint(layer)
        device = self._devices.pop(target, None)
        if device is None:
            return
        with self._database.read() as tx:
            needed = tx.is_below_active(layer)
        if needed or layer.name in self._read:
            self._devices[target] = device
        else:
            self._unmount(target)

    def _unmount(self, target: Path) -> bool:
        """Unmount and remove a mountpoint; False when it is busy."""
        self._devices.pop(target, None)
        self._versions.pop(target, None)
        try:
            self._mounter.unmount(target)
            with converting(target), contextlib.suppress(FileNotFoundError):
                target.rmdir()
        except ImageCacheError as error:
            _log.info("mount stays for now", target=str(target), problem=str(error))
            return False
        return True

    @contextlib.contextmanager
    def _locked(self, name: LayerName, wait: float) -> Iterator[None]:
        with self._locks_lock:
            lock = self._locks.setdefault(name, threading.Lock())
        if not lock.acquire(timeout=wait):
            raise StoreBusy(
                f"layer image {name}: another mount of it has not ended", hint="look at the last lines of dmesg"
            )
        try:
            yield
        finally:
            lock.release()
