"""An image's root filesystem mounted read-only on this host, straight from the store: ``imagecache mount``.

The mount outlives this process and the names of its files: the kernel keeps the layer images open. It must not mount
what a container writes to.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from imagecache.errors import InvalidInput, NotFound
from imagecache.host.mounter import KernelMounter, backing
from imagecache.host.mountinfo import MOUNTINFO, mounted_at
from imagecache.oci.descriptor import Platform
from imagecache.oci.platform import same_machine
from imagecache.oci.reference import Reference
from imagecache.store.bundle_document import Bundle, ImageRecord
from imagecache.store.store import Store

SCRATCH = Path("/run/imagecache/mounts")
"""Where the layers of an image are mounted for a moment while its overlay is made."""


@dataclass(frozen=True, slots=True)
class ImageMounts:
    store: Store
    mounter: KernelMounter
    platform: Platform
    """Of this host."""
    mountinfo: Path = MOUNTINFO

    def mount(self, image: str, directory: Path) -> tuple[Bundle, ImageRecord]:
        """Mount at an existing directory; returns what was found under the name, as written or normalised.

        Raises NotFound, InvalidInput, HostError.
        """
        bundle, record = self._find(image)
        if not directory.is_dir():
            raise InvalidInput(f"{directory} is not a directory", hint=f"create it first: mkdir -p {directory}")
        if not record.layers:
            raise InvalidInput(f"{record.reference} has no layers, nothing can be mounted")
        files = [self.store.layers.path(layer.name) for layer in record.layers]
        self.mounter.mount_image(files, directory.resolve(), SCRATCH)
        return bundle, record

    def unmount(self, directory: Path) -> None:
        """Undo ``mount``. Raises NotFound when ``directory`` is not a mount of this store, HostError."""
        target = directory.resolve()
        found = mounted_at(target, self.mountinfo)
        # one layer is bound from the store itself; several are an overlay whose options name the scratch directories
        sources = {"erofs": str(self.store.root), "overlay": str(SCRATCH)}
        if found is None or sources.get(found.kind, "\0") not in backing(found) + found.data:
            raise NotFound(f"no image of this store is mounted at {directory}", hint=f"findmnt {directory}")
        self.mounter.unmount(target)

    def _find(self, text: str) -> tuple[Bundle, ImageRecord]:
        """In the newest bundle that has the image for this host; if none has, in the newest that has it at all."""
        name = Reference.parse(text).name
        found = [
            (bundle, image)
            for bundle in self.store.bundles.all()
            for image in bundle.images
            if text == image.reference or name == image.name
        ]
        if not found:
            raise NotFound(
                f"no image cache of this store has {text}",
                hint="list the caches with imagecache get, their images with imagecache describe",
            )
        return max(found, key=lambda pair: (same_machine(self.platform, pair[1].platform), pair[0].created))
