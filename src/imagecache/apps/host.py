"""This machine, wired: mounts of images straight from the store, and the checks of ``doctor``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imagecache.apps.doctor import checks
from imagecache.cli.application import Check, Mounted
from imagecache.clock import Clock
from imagecache.errors import InvalidInput, NotFound
from imagecache.host.mounter import KernelMounter
from imagecache.host.mountinfo import mounted_at
from imagecache.oci.reference import Reference
from imagecache.settings.table import Settings
from imagecache.store.model import Bundle, ImageRecord
from imagecache.store.store import Store

WORKPLACE = Path("/run/imagecache/mounts")
"""Where the layers of an image are mounted for a moment while it is put together."""


@dataclass(frozen=True, slots=True)
class LocalHost:
    """``cli.application.Host``."""

    settings: Settings
    clock: Clock
    mounter: KernelMounter

    def mount(self, image: str, directory: Path) -> Mounted:
        """Once mounted, it needs neither us nor the files' names: the kernel keeps the layer images open."""
        bundle, record = self._find(image)
        if not directory.is_dir():
            raise InvalidInput(f"{directory} is not a directory", hint=f"make it first: mkdir -p {directory}")
        if not record.layers:
            raise InvalidInput(f"{record.reference} has no layers, there is nothing to mount")
        store = Store(self.settings.store.absolute())
        files = [store.layers.path(layer.name) for layer in record.layers]
        self.mounter.mount_image(files, directory.resolve(), WORKPLACE)
        return Mounted(record.reference, bundle.id, len(record.layers), directory)

    def unmount(self, directory: Path) -> None:
        target = directory.resolve()
        found = mounted_at(target)
        places = {"erofs": str(self.settings.store.absolute()), "overlay": str(WORKPLACE)}
        if found is None or places.get(found.kind, "\0") not in found.source + found.data:
            raise NotFound(f"no image of this store is mounted at {directory}", hint="findmnt shows what is there")
        self.mounter.unmount(target)

    async def doctor(self) -> Sequence[Check]:
        return await checks(self.settings.store.absolute(), self.settings, self.clock)

    def _find(self, text: str) -> tuple[Bundle, ImageRecord]:
        """The newest bundle that has the image, by its text as written or normalised."""
        name = Reference.parse(text).name
        found = [
            (bundle, image)
            for bundle in Store.open(self.settings.store).bundles.all()
            for image in bundle.images
            if text == image.reference or name == image.name
        ]
        if not found:
            raise NotFound(
                f"no image cache of this store has {text}",
                hint="imagecache get shows the caches, describe their images",
            )
        return max(found, key=lambda pair: pair[0].created)
