"""Prepull mode: the runtime has the images of a cache before pods need them. For runtimes that cannot do more.

containerd unpacks them from the store's layer images, without a registry; any other runtime pulls them. Either way they
are the runtime's own then, and pods skip the pull, once. Every pod may use what the runtime has, so images are pulled
without credentials, and private ones are left out unless the administrator allows them, as are those whose names no
cache may record. It must not touch what containers use.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import msgspec

from imagecache.containerd import image_records
from imagecache.containerd.api import ALONE, Attached, Beside, UnpackedChain
from imagecache.containerd.attach import NodeAttacher, taken_of
from imagecache.containerd.handlers import Handlers
from imagecache.containerd.image_records import CRI_NAMESPACE
from imagecache.containerd.reserved import ReservedNames
from imagecache.errors import ImageNotListed, ImageWithheld
from imagecache.oci.reference import Reference
from imagecache.store.bundle_document import Bundle, ImageRecord


@dataclass(frozen=True, slots=True)
class RuntimeImage:
    id: str
    names: frozenset[str]
    """References by tag and by digest."""
    pinned: bool = False
    """By the node, such as the sandbox image."""


class Runtime(Protocol):
    """A container runtime behind CRI. Every method raises ContainerdUnavailable when it does not answer."""

    async def pull(self, name: str) -> None:
        """Without credentials. Idempotent. Raises PullFailed."""

    async def image(self, name: str) -> RuntimeImage | None:
        """None when the runtime does not have it."""

    async def remove(self, name: str) -> None:
        """The image with all its names. Idempotent."""

    async def in_use(self) -> frozenset[str]:
        """Ids or names of the images of all containers, running or stopped."""


class Prepuller:
    """``agent.dependencies.Attacher`` for prepull mode, on one runtime."""

    mode = "prepull"

    def __init__(
        self,
        runtime: Runtime,
        allow_private_names: Collection[str] = (),
        attacher: NodeAttacher | None = None,
        *,
        reserved: ReservedNames | None = None,
    ) -> None:
        """``attacher``: of the same runtime, for prepull mode, with the same names; without it, it pulls."""
        self._runtime = runtime
        self._attacher = attacher
        self._private = CRI_NAMESPACE in allow_private_names
        self._reserved = reserved or ReservedNames()

    async def attach(self, bundle: Bundle, also: Collection[str] = (), beside: Beside = ALONE) -> Attached:
        """Unpack the images, or pull those that are missing.

        Raises ImageWithheld when one of them is private, from a registry that nobody has verified, or of a reserved
        name; PullFailed, ImageNotListed, or what ``NodeAttacher.attach`` raises.
        """
        # it comes before the error: the other images of the cache are useful
        withheld = [image for image in bundle.images if self._is_withheld(image)]
        public = tuple(image for image in bundle.images if image not in withheld)
        own = {name: image for image in public if (name := name_of(image)) not in beside.taken}
        if containerd := await self._containerd():
            unpacked = await containerd.attach(msgspec.structs.replace(bundle, images=public), also, beside)
            attached = replace(unpacked, images={name: image_records.image_id(image) for name, image in own.items()})
        else:
            pulled, had = dict[str, str](), []
            for name in own:
                found = await self._runtime.image(name)
                if found is not None and name not in beside.made:
                    had.append(name)
                pulled[name] = (found or await self._pull(name)).id
            attached = Attached(pulled, taken=taken_of(bundle, beside), had=tuple(had))
        if withheld:
            raise self._withheld(withheld)
        return attached

    async def _pull(self, name: str) -> RuntimeImage:
        await self._runtime.pull(name)
        found = await self._runtime.image(name)
        if found is None:
            raise ImageNotListed(f"the runtime has pulled {name} and does not have it", hint="its log says why")
        return found

    def _is_withheld(self, image: ImageRecord) -> bool:
        return not image.verified or (image.private and not self._private) or image.name in self._reserved

    def _withheld(self, images: Sequence[ImageRecord]) -> ImageWithheld:
        """About those of one kind; what is wrong with the others shows when these are gone."""
        reserved = ", ".join(image.reference for image in images if image.name in self._reserved)
        if reserved:
            return ImageWithheld(
                f"{reserved}: a name that no cache may record, since pods that every node needs use it",
                hint="remove it from the cache, or an administrator changes the setting reserved_names",
            )
        unverified = ", ".join(image.reference for image in images if not image.verified)
        if unverified:
            return ImageWithheld(
                f"{unverified}: from a registry that nobody has verified, and every pod would use it by its name",
                hint="give the registry a certificate, or an administrator adds it to the setting insecure_registries",
            )
        private = ", ".join(image.reference for image in images)
        return ImageWithheld(
            f"{private}: private, and every pod could use it once it is on the node",
            hint=f"remove it from the cache, or set allow_private_names to {CRI_NAMESPACE} for nodes of one tenant",
        )

    async def handlers(self) -> Handlers:
        containerd = await self._containerd()
        return await containerd.handlers() if containerd else Handlers()

    async def lost(self, chains: Collection[UnpackedChain]) -> frozenset[UnpackedChain]:
        containerd = await self._containerd()
        return await containerd.lost(chains) if containerd else frozenset()

    async def detach(self, bundle: Bundle, keep: Sequence[Bundle], had: Collection[str] = ()) -> None:
        """Remove the images that no container uses and no bundle in ``keep`` has.

        But none of a reserved name, none that the node ``had`` before, and none that it has pinned.
        """
        if containerd := await self._containerd():
            await containerd.give_up(bundle)
        kept = {name_of(image) for other in keep for image in other.images}
        kept_ids = {found.id for name in sorted(kept) if (found := await self._runtime.image(name)) is not None}
        used = await self._runtime.in_use()
        ours = {name_of(image) for image in bundle.images if image.name not in self._reserved}
        for name in ours - kept - set(had):
            found = await self._runtime.image(name)
            # CRI removes an image with all its names, also those of another cache
            if found is None or found.pinned or found.id in kept_ids or found.id in had:
                continue
            if not used & {found.id, *found.names}:
                await self._runtime.remove(name)

    async def missing(self, names: Mapping[str, str]) -> frozenset[str]:
        found = {name: await self._runtime.image(name) for name in names}
        return frozenset(name for name, image in found.items() if image is None or image.id != names[name])

    async def _containerd(self) -> NodeAttacher | None:
        """None: the runtime is another one, and pulls."""
        return self._attacher if self._attacher is not None and await self._attacher.answers() else None


def name_of(image: ImageRecord) -> str:
    """The name that kubelet asks for."""
    return Reference.parse(image.name).cri_name
