"""Take back the image records that attach has made, and leave the node as it would be without them.

What the node had before is its own and stays, and so does what it has pinned. A record of ours goes even when a pull
has replaced its labels since: what holds its layers would never be free otherwise. It must not look at snapshots; those
go with the records.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from imagecache.containerd import image_records
from imagecache.containerd.api import Session, StoredImage
from imagecache.digest import Digest
from imagecache.errors import InvalidDigest
from imagecache.oci.descriptor import Descriptor
from imagecache.store.bundle_document import Bundle, ImageRecord

_NO_LONGER_OURS = dict.fromkeys((*image_records.SERVED, *image_records.PINNED, image_records.BEFORE), "")


class RecordRemoval:
    """Of one bundle, while those in ``keep`` stay: of several that have a name, the first."""

    def __init__(
        self,
        session: Session,
        keep: Sequence[Bundle],
        had: Collection[str],
        is_reserved: Callable[[ImageRecord], bool],
    ) -> None:
        """``had``: names that the node had before. Of a reserved image it has every record that we have not made."""
        self._had = frozenset(had)
        self._is_reserved = is_reserved
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
        ours = [
            found[name] for name in image_records.names(image) if name in found and self._is_to_go(image, found[name])
        ]
        own = found.get(image_records.image_id(image))
        if own is None or own.name in self._heirs or self._is_the_nodes(image, own):
            return ours
        if found.keys() == {own.name, *(record.name for record in ours)}:
            return [*ours, own]
        await self._images.put(own.name, image.target, _NO_LONGER_OURS)  # another name keeps it: it is kubelet's now
        return ours

    def _is_to_go(self, image: ImageRecord, record: StoredImage) -> bool:
        heir = self._heirs.get(record.name)
        # one that meant something else before, which ``_after`` brings back, is not the node's while it means ours
        own = self._is_the_nodes(image, record) and image_records.BEFORE not in record.labels
        return not own and (heir is None or heir.target.digest != record.target)

    def _is_the_nodes(self, image: ImageRecord, record: StoredImage) -> bool:
        if self._is_reserved(image) and not image_records.is_ours(record):
            return True
        return record.name in self._had or image_records.is_pinned(record)

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
