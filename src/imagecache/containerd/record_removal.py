"""Take back the image records that attach has made, and leave the node as it would be without them.

A record is ours by its label (``image_records.SERVED``), which a pull removes: an image that the node had before, or
has pulled since, is the node's own and stays. It must not look at snapshots; those go with the records.
"""

from __future__ import annotations

from collections.abc import Sequence

from imagecache.containerd import image_records
from imagecache.containerd.api import Session, StoredImage
from imagecache.digest import Digest
from imagecache.errors import InvalidDigest
from imagecache.oci.descriptor import Descriptor
from imagecache.store.bundle_document import Bundle, ImageRecord

_NO_LONGER_OURS = dict.fromkeys((*image_records.SERVED, *image_records.PINNED, image_records.BEFORE), "")


class RecordRemoval:
    """Of one bundle, while those in ``keep`` stay: of several that have a name, the first."""

    def __init__(self, session: Session, keep: Sequence[Bundle]) -> None:
        self._images = session.images
        self._heirs: dict[str, ImageRecord] = {}
        for image in [image for other in keep for image in other.images]:
            for name in (*image_records.names(image), image_records.image_id(image)):
                self._heirs.setdefault(name, image)

    async def remove(self, bundle: Bundle) -> tuple[str, ...]:
        """Returns the names that are gone."""
        # ordered, so that names go before the id: CRI would otherwise report an image without a name
        leaving: dict[str, Digest] = {}
        for image in bundle.images:
            for record in await self._leaving(image):
                after = await self._after(record)
                if after is None:
                    leaving[record.name] = image.target.digest
                else:
                    await self._images.put(record.name, *after)
        removed = []
        for number, (name, target) in enumerate(leaving.items(), start=1):
            if await self._images.delete(name, target, sync=number == len(leaving)):
                removed.append(name)
        return tuple(removed)

    async def _leaving(self, image: ImageRecord) -> list[StoredImage]:
        """Records of ours that point at the image and have no reason to; names first, then the id."""
        found = {record.name: record for record in await self._images.with_target(image.target.digest)}
        ours = [found[name] for name in image_records.names(image) if name in found and self._is_to_go(found[name])]
        own = found.get(image_records.image_id(image))
        if own is None or own.name in self._heirs or not image_records.is_ours(own):
            return ours
        if found.keys() == {own.name, *(record.name for record in ours)}:
            return [*ours, own]
        await self._images.put(own.name, image.target, _NO_LONGER_OURS)  # another name keeps it: it is kubelet's now
        return ours

    def _is_to_go(self, record: StoredImage) -> bool:
        heir = self._heirs.get(record.name)
        return image_records.is_ours(record) and (heir is None or heir.target.digest != record.target)

    async def _after(self, record: StoredImage) -> tuple[Descriptor, dict[str, str]] | None:
        """What the name means from now on, and changes of its labels; None: nothing."""
        heir = self._heirs.get(record.name)
        if heir is not None:
            own = await self._images.get(image_records.image_id(heir))
            if own is not None and own.target == heir.target.digest:  # else it is not there, and nobody could use it
                return heir.target, {}
        try:
            before = await self._images.with_target(Digest(record.labels.get(image_records.BEFORE, "")))
        except InvalidDigest:
            return None
        return (before[0].descriptor, _NO_LONGER_OURS) if before else None
