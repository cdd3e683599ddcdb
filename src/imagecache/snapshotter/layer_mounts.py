"""Mounts of layer images: one for each layer image, shared by every snapshot that it serves.

Order of effects (docs/internals/snapshotter.md): remember the intent, hold the file, mount it, and only then say so in
a snapshot's row; backwards when the last row has gone. So a crash leaves at most a mount and a hold that the next
``drop_unused`` finds by the intent. Mounts are made when they are needed, since a reboot takes them all; what is only
cached does not stay mounted. It must not unmount what a container stands on, and never by force.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import structlog

from imagecache.errors import BlobNotFound, ImageCacheError, StoreBusy
from imagecache.oserrors import converting
from imagecache.snapshotter.known_answers import device_of
from imagecache.snapshotter.metadata import Metadata
from imagecache.snapshotter.model import LayerRef
from imagecache.snapshotter.provider import LayerProvider, Mounter, Observer
from imagecache.snapshotter.settings import SnapshotterSettings
from imagecache.store.model import LayerName

_log = structlog.get_logger(__name__)
_NOT_MOUNTING = 1.0
"""Seconds that a call waits for a layer that it does not want to mount: it has a thread that no mount may keep."""


class LayerMounts:
    """Thread-safe; calls about the same layer image wait for each other, at most ``wait`` seconds."""

    def __init__(
        self,
        root: Path,
        metadata: Metadata,
        provider: LayerProvider,
        mounter: Mounter,
        settings: SnapshotterSettings,
        observer: Observer,
    ) -> None:
        """``root`` gets one mountpoint for each layer image; ``settings.holder`` names us to the provider."""
        self._root = root
        self._metadata = metadata
        self._provider = provider
        self._mounter = mounter
        self._holder = settings.holder
        self._wait = settings.lock_wait
        self._observer = observer
        self._own_device = device_of(root)
        self._devices: dict[Path, int] = {}
        """Of the mountpoints, as they were when mounted last."""
        self._read: set[LayerName] = set()
        """Layer images that containers have stood on since we started."""
        self._locks: dict[LayerName, threading.Lock] = {}
        self._locks_lock = threading.Lock()

    def mountpoint(self, layer: LayerRef) -> Path:
        return self._root / str(layer.id)

    def file(self, layer: LayerRef) -> Path | None:
        """The layer image itself; None when it is gone."""
        return self._provider.open_layer(layer.name)

    @contextlib.contextmanager
    def taken(self, name: LayerName, *, mount: bool) -> Iterator[LayerRef]:
        """Hold a layer image, and mount it now if asked; the block inserts the row that needs it.

        Raises:
            BlobNotFound: the file is gone.
            StoreBusy, StoreError, HostError
        """
        with self._locked(name, self._wait if mount else _NOT_MOUNTING):
            layer = self._intent(name)
            try:
                self._provider.lease(self._holder, name)
                if mount:
                    self._mount(layer)
                else:
                    self._required(layer, self.file(layer))
                yield layer
            except BaseException:
                self._drop(layer)
                raise

    def ensure(self, layer: LayerRef) -> Path:
        """The mountpoint, mounted. Raises BlobNotFound, StoreBusy, HostError."""
        target = self.mountpoint(layer)
        known = self._devices.get(target)
        if known is None or device_of(target) != known:
            with self._locked(layer.name, self._wait):
                self._mount(layer)
        return target

    def devices(self, targets: Iterable[Path]) -> dict[Path, int] | None:
        """Of these mountpoints, while they are mounted; None when one is not known to have its own."""
        found = {target: self._devices.get(target) for target in targets}
        known = {target: device for target, device in found.items() if device is not None}
        return known if len(known) == len(found) else None

    def will_be_read(self, layers: Iterable[LayerRef]) -> None:
        """By a container: they stay mounted, with their pages, while any snapshot needs them."""
        self._read.update(layer.name for layer in layers)

    def unmount_idle(self) -> None:
        """Unmount what was mounted to see that it can be, and no container has read since. Raises StoreError.

        Each start of a container reads the host's table of mounts several times, so it must not have a line for every
        layer image of every cache. Whoever makes a snapshot asks for its mounts again behind the transaction: either
        its row is seen here, or there that the mount is gone.
        """
        with self._metadata.read() as tx:
            known = tx.layers()
        for layer in known:
            if self.mountpoint(layer) in self._devices and layer.name not in self._read:
                with contextlib.suppress(StoreBusy), self._locked(layer.name, 0):
                    self._rest(layer)

    def renew_leases(self) -> None:
        """When we start: a hold that a power failure took is said once more, before a collection can act on it."""
        with self._metadata.read() as tx:
            known = tx.layers()
        for layer in known:
            self._provider.lease(self._holder, layer.name)

    def drop_unused(self) -> None:
        """Let go of every layer image that no snapshot needs. What is busy or being mounted stays for now."""
        with self._metadata.read() as tx:
            unused = [layer for layer in tx.layers() if not tx.in_use(layer)]
        for layer in unused:
            with contextlib.suppress(StoreBusy), self._locked(layer.name, 0):
                self._drop(layer)

    def drop_strays(self) -> None:
        """Unmount and remove mountpoints that no layer has: those of a database that is lost."""
        with converting(self._root):
            there = list(self._root.iterdir())
        with self._metadata.read() as tx:  # afterwards: a layer is known before it has a mountpoint
            known = {str(layer.id) for layer in tx.layers()}
        for path in there:
            if path.name not in known:
                self._clear(path)

    def _intent(self, name: LayerName) -> LayerRef:
        with self._metadata.read() as tx:
            known = tx.layer(name)
        if known is not None:
            return known
        with self._metadata.write(durable=False) as writer:
            return writer.add_layer(name)

    def _mount(self, layer: LayerRef) -> None:
        target = self.mountpoint(layer)
        image = self.file(layer)
        if image is None and self._mounter.mounted(target):
            return  # the kernel keeps the file
        self._mounter.mount(self._required(layer, image), target)
        device = device_of(target)
        if device is not None and device != self._own_device:  # every EROFS mount has a number of its own
            self._devices[target] = device

    def _required(self, layer: LayerRef, image: Path | None) -> Path:
        if image is None:
            raise BlobNotFound(
                f"layer image {layer.name} is not in the store any more",
                hint="it was removed or set aside as corrupt: build the ImageCache again, then start the pod again",
            )
        return image

    def _drop(self, layer: LayerRef) -> None:
        """With the layer's lock. The mount goes first, the intent last."""
        try:
            with self._metadata.read() as tx:
                if tx.in_use(layer):
                    return
            if self._clear(self.mountpoint(layer)):
                self._provider.release(self._holder, layer.name)
                self._observer.released()
                self._read.discard(layer.name)
                with self._metadata.write(durable=False) as writer:
                    writer.drop_layer(layer)
        except ImageCacheError as error:
            _log.warning("layer image not let go, trying again later", layer=str(layer.name), problem=str(error))

    def _rest(self, layer: LayerRef) -> None:
        """With the layer's lock. Nobody finds the mount before it is known that nobody has found it."""
        target = self.mountpoint(layer)
        device = self._devices.pop(target, None)
        if device is None:
            return
        with self._metadata.read() as tx:
            needed = tx.stood_on(layer)
        if needed or layer.name in self._read:
            self._devices[target] = device
        else:
            self._clear(target)

    def _clear(self, target: Path) -> bool:
        """Unmount and remove a mountpoint; False when it is busy."""
        self._devices.pop(target, None)
        try:
            self._mounter.unmount(target)
            with converting(target), contextlib.suppress(FileNotFoundError):
                target.rmdir()
        except ImageCacheError as error:
            _log.info("mount stays for now", target=str(target), problem=str(error))
            return False
        return True

    def _lock(self, name: LayerName) -> threading.Lock:
        with self._locks_lock:
            return self._locks.setdefault(name, threading.Lock())

    @contextlib.contextmanager
    def _locked(self, name: LayerName, wait: float) -> Iterator[None]:
        lock = self._lock(name)
        if not lock.acquire(timeout=wait):
            raise StoreBusy(
                f"layer image {name}: another mount of it does not end", hint="look at the last lines of dmesg"
            )
        try:
            yield
        finally:
            lock.release()
