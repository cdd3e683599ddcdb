"""containerd's content, image, snapshot and diff services: the ports of ``containerd.api`` over gRPC.

One method, one or two calls. It must not decide anything.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence

from google.protobuf.field_mask_pb2 import FieldMask

from imagecache._proto.containerd import (
    content_pb2,
    descriptor_pb2,
    diff_pb2,
    images_pb2,
    leases_pb2,
    mount_pb2,
    snapshots_pb2,
)
from imagecache.containerd.api import SnapshotInfo, SnapshotKey, SnapshotMount, StoredImage
from imagecache.containerd.rpc import Connection
from imagecache.digest import Digest
from imagecache.errors import AlreadyExists, NotFound, SnapshotNotFound
from imagecache.oci.descriptor import Descriptor

LEASES = "containerd.services.leases.v1.Leases"
LEASE_HEADER = "containerd-lease"
"""Of every call that shall put what it makes under a lease."""
_SOURCE = "containerd.io/distribution.source."
_CONTENT = "containerd.services.content.v1.Content"
_IMAGES = "containerd.services.images.v1.Images"
_SNAPSHOTS = "containerd.services.snapshots.v1.Snapshots"
_DIFF = "containerd.services.diff.v1.Diff"
_LONG = 3600.0
"""Seconds for what takes a time that the size of a layer decides: to unpack it, to bring its last bytes to disk; or to
commit it, since a snapshotter measures what was written."""
_PREPARE = 600.0
"""Seconds; a snapshotter may copy what is below (native, blockfile)."""


class ContentService:
    def __init__(self, connection: Connection, metadata: dict[str, str]) -> None:
        self._connection = connection
        self._metadata = metadata

    async def write(self, data: bytes, labels: Mapping[str, str]) -> Digest:
        digest = Digest.sha256(data)
        request = content_pb2.WriteContentRequest(
            action=content_pb2.COMMIT,
            ref=_unique(digest),
            total=len(data),
            expected=digest,
            data=data,
            labels=labels,
        )
        try:
            await self._connection.exchange(
                f"{_CONTENT}/Write", request, content_pb2.WriteContentResponse, self._metadata
            )
        except AlreadyExists:
            await self._add_labels(digest, labels)
        return digest

    async def write_from(self, pieces: AsyncIterator[bytes], content: Descriptor) -> None:
        ref = _unique(content.digest)
        # all of them at the offset that the pieces will have reached; without one, it is the first request too
        last = content_pb2.WriteContentRequest(
            action=content_pb2.COMMIT, ref=ref, total=content.size, offset=content.size
        )
        requests = _writes(ref, pieces, content)
        # one that exists is refused, and containerd has added it to the lease of this session
        with contextlib.suppress(AlreadyExists):
            await self._connection.upload(
                f"{_CONTENT}/Write", requests, last, content_pb2.WriteContentResponse, self._metadata, seconds=_LONG
            )

    async def _add_labels(self, digest: Digest, labels: Mapping[str, str]) -> None:
        """For content that exists; the refused write has added it to the lease of this session."""
        labels = _merged(await self.labels(digest) or {}, labels)
        request = content_pb2.UpdateRequest(
            info=content_pb2.Info(digest=digest, labels=labels),
            # one path per label: a mask of "labels" alone would remove those of others
            update_mask=FieldMask(paths=[f"labels.{key}" for key in labels]),
        )
        await self._connection.call(f"{_CONTENT}/Update", request, content_pb2.UpdateResponse, self._metadata)

    async def labels(self, digest: Digest) -> dict[str, str] | None:
        request = content_pb2.InfoRequest(digest=digest)
        try:
            reply = await self._connection.call(f"{_CONTENT}/Info", request, content_pb2.InfoResponse, self._metadata)
        except NotFound:
            return None
        return dict(reply.info.labels)

    async def read(self, digest: Digest) -> bytes | None:
        request = content_pb2.ReadContentRequest(digest=digest)
        replies = self._connection.stream(f"{_CONTENT}/Read", request, content_pb2.ReadContentResponse, self._metadata)
        try:
            return b"".join([reply.data async for reply in replies])
        except NotFound:
            return None


def _unique(digest: Digest) -> str:
    """A name for a write: containerd refuses a second writer with the same one, such as another attach of the image."""
    return f"imagecache-{digest}-{secrets.token_hex(4)}"


async def _writes(
    ref: str, pieces: AsyncIterator[bytes], content: Descriptor
) -> AsyncIterator[content_pb2.WriteContentRequest]:
    offset = 0
    async for piece in pieces:
        yield content_pb2.WriteContentRequest(
            action=content_pb2.WRITE,
            ref=ref,
            total=content.size,
            expected=content.digest if offset == 0 else "",  # containerd looks for it each time that it is said
            offset=offset,
            data=piece,
        )
        offset += len(piece)


def _merged(found: Mapping[str, str], new: Mapping[str, str]) -> dict[str, str]:
    """``new`` on top of ``found``; source repositories are merged into one sorted list, as containerd does."""
    merged = {**found, **new}
    for key in new:
        if key.startswith(_SOURCE) and key in found:
            merged[key] = ",".join(sorted({*found[key].split(","), new[key]}))
    return merged


class ImageService:
    def __init__(self, connection: Connection, metadata: dict[str, str]) -> None:
        self._connection = connection
        self._metadata = metadata

    async def get(self, name: str) -> StoredImage | None:
        request = images_pb2.GetImageRequest(name=name)
        try:
            reply = await self._connection.call(f"{_IMAGES}/Get", request, images_pb2.GetImageResponse, self._metadata)
        except NotFound:
            return None
        return _stored(reply.image)

    async def with_target(self, target: Digest) -> list[StoredImage]:
        return await self._list([f"target.digest=={target}"])

    async def all(self) -> list[StoredImage]:
        return await self._list([])

    async def _list(self, filters: list[str]) -> list[StoredImage]:
        request = images_pb2.ListImagesRequest(filters=filters)
        reply = await self._connection.call(f"{_IMAGES}/List", request, images_pb2.ListImagesResponse, self._metadata)
        return sorted((_stored(image) for image in reply.images), key=lambda image: image.name)

    async def put(
        self, name: str, target: Descriptor, labels: Mapping[str, str], *, created: Mapping[str, str] = {}
    ) -> bool:
        image = images_pb2.Image(name=name, labels={**created, **labels}, target=_target(target))
        create = images_pb2.CreateImageRequest(image=image)
        try:
            await self._connection.call(f"{_IMAGES}/Create", create, images_pb2.CreateImageResponse, self._metadata)
        except AlreadyExists:
            found = await self.get(name)
            if found is not None and found.target == target.digest and _has(found.labels, labels):
                return False
            # without the labels in ``created``: what the mask does not name stays as it is
            mask = FieldMask(paths=["target", *(f"labels.{key}" for key in labels)])
            update = images_pb2.UpdateImageRequest(image=image, update_mask=mask)
            await self._connection.call(f"{_IMAGES}/Update", update, images_pb2.UpdateImageResponse, self._metadata)
        return True

    async def touch(self, name: str) -> None:
        # an empty target, which the mask leaves out: containerd 2.4 panics without one (plugins/services/images)
        image = images_pb2.Image(name=name, target=descriptor_pb2.Descriptor())
        # the mask names a label that is not there, and stays so without a value
        update = images_pb2.UpdateImageRequest(
            image=image, update_mask=FieldMask(paths=["labels.imagecache.dev/touched"])
        )
        with contextlib.suppress(NotFound):
            await self._connection.call(f"{_IMAGES}/Update", update, images_pb2.UpdateImageResponse, self._metadata)

    async def delete(self, name: str, target: Digest, *, sync: bool = False) -> bool:
        found = await self.get(name)
        if found is None or found.target != target:  # a pull has moved the name to a newer image
            return False
        # containerd 2 checks the target again, in its transaction; 1.x ignores the field
        request = images_pb2.DeleteImageRequest(name=name, sync=sync, target=descriptor_pb2.Descriptor(digest=target))
        with contextlib.suppress(NotFound):
            await self._connection.command(f"{_IMAGES}/Delete", request, self._metadata)
        return True


def _has(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return all(labels.get(key, "") == value for key, value in wanted.items())


def _stored(image: images_pb2.Image) -> StoredImage:
    target = image.target
    return StoredImage(image.name, Digest(target.digest), dict(image.labels), target.media_type, target.size)


def _target(target: Descriptor) -> descriptor_pb2.Descriptor:
    return descriptor_pb2.Descriptor(
        media_type=target.media_type, digest=target.digest, size=target.size, annotations=target.annotations
    )


class SnapshotService:
    def __init__(self, connection: Connection, metadata: dict[str, str]) -> None:
        self._connection = connection
        self._metadata = metadata

    async def prepare(self, snapshot: SnapshotKey) -> tuple[SnapshotMount, ...] | None:
        request = snapshots_pb2.PrepareSnapshotRequest(
            snapshotter=snapshot.snapshotter, key=snapshot.key, parent=snapshot.parent, labels=snapshot.labels
        )
        try:
            reply = await self._connection.call(
                f"{_SNAPSHOTS}/Prepare",
                request,
                snapshots_pb2.PrepareSnapshotResponse,
                self._metadata,
                seconds=_PREPARE,
            )
        except AlreadyExists:
            return None
        except NotFound as error:
            raise SnapshotNotFound(error.message, hint="its parent no longer exists; try again") from error
        return tuple(
            SnapshotMount(mount.type, mount.source, tuple(mount.options), mount.target) for mount in reply.mounts
        )

    async def commit(self, snapshot: SnapshotKey, name: str) -> bool:
        request = snapshots_pb2.CommitSnapshotRequest(
            snapshotter=snapshot.snapshotter,
            name=name,
            key=snapshot.key,
            labels=snapshot.labels,
            parent=snapshot.parent,
        )
        try:
            await self._connection.command(f"{_SNAPSHOTS}/Commit", request, self._metadata, seconds=_LONG)
        except AlreadyExists:
            return False
        return True

    async def remove(self, snapshotter: str, key: str) -> None:
        request = snapshots_pb2.RemoveSnapshotRequest(snapshotter=snapshotter, key=key)
        with contextlib.suppress(NotFound):
            await self._connection.command(f"{_SNAPSHOTS}/Remove", request, self._metadata)

    async def stat(self, snapshotter: str, name: str) -> SnapshotInfo | None:
        request = snapshots_pb2.StatSnapshotRequest(snapshotter=snapshotter, key=name)
        try:
            reply = await self._connection.call(
                f"{_SNAPSHOTS}/Stat", request, snapshots_pb2.StatSnapshotResponse, self._metadata
            )
        except NotFound:
            return None
        return _info(reply.info)

    async def keep(self, snapshotter: str, name: str) -> None:
        resource = leases_pb2.Resource(id=name, type=f"snapshots/{snapshotter}")
        request = leases_pb2.AddResourceRequest(id=self._metadata[LEASE_HEADER], resource=resource)
        await self._connection.command(f"{LEASES}/AddResource", request, self._metadata)
        if await self.stat(snapshotter, name) is None:  # it was collected just before
            raise SnapshotNotFound(f"snapshot {name} of {snapshotter} was removed", hint="try again")

    async def label(self, snapshotter: str, name: str, labels: Mapping[str, str]) -> None:
        request = snapshots_pb2.UpdateSnapshotRequest(
            snapshotter=snapshotter,
            info=snapshots_pb2.Info(name=name, labels=labels),
            update_mask=FieldMask(paths=[f"labels.{key}" for key in labels]),
        )
        try:
            await self._connection.call(
                f"{_SNAPSHOTS}/Update", request, snapshots_pb2.UpdateSnapshotResponse, self._metadata
            )
        except NotFound as error:
            raise SnapshotNotFound(error.message, hint="someone has removed it; try again") from error

    async def list(self, snapshotter: str) -> AsyncIterator[SnapshotInfo]:
        request = snapshots_pb2.ListSnapshotsRequest(snapshotter=snapshotter)
        replies = self._connection.stream(
            f"{_SNAPSHOTS}/List", request, snapshots_pb2.ListSnapshotsResponse, self._metadata
        )
        async for reply in replies:
            for info in reply.info:
                yield _info(info)


def _info(info: snapshots_pb2.Info) -> SnapshotInfo:
    committed = info.kind == snapshots_pb2.COMMITTED
    created = info.created_at.ToDatetime(tzinfo=dt.UTC)
    return SnapshotInfo(info.name, info.parent, dict(info.labels), committed=committed, created=created)


class DiffService:
    def __init__(self, connection: Connection, metadata: dict[str, str]) -> None:
        self._connection = connection
        self._metadata = metadata

    async def apply(self, tar: Descriptor, mounts: Sequence[SnapshotMount]) -> Digest:
        request = diff_pb2.ApplyRequest(
            diff=_target(tar),
            mounts=[
                mount_pb2.Mount(type=mount.kind, source=mount.source, target=mount.target, options=mount.options)
                for mount in mounts
            ],
        )
        reply = await self._connection.call(
            f"{_DIFF}/Apply", request, diff_pb2.ApplyResponse, self._metadata, seconds=_LONG
        )
        return Digest(reply.applied.digest)
