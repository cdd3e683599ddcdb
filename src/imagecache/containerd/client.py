"""``containerd.api.Containerd`` over the unix socket of a real containerd, 1.6 to 2.4."""

from __future__ import annotations

import contextlib
import datetime as dt
import secrets
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from pathlib import Path
from typing import Self

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from imagecache._proto.containerd import (
    containers_pb2,
    events_pb2,
    introspection_pb2,
    leases_pb2,
    namespaces_pb2,
    task_events_pb2,
    version_pb2,
)
from imagecache._proto.cri import runtime_pb2
from imagecache.clock import Clock
from imagecache.concurrency import run_all
from imagecache.containerd.api import SNAPSHOTTERS, ContainerRecord, Plugin, SnapshotMount, TaskStarted
from imagecache.containerd.handlers import snapshotters_in
from imagecache.containerd.pod_containers import CRI_EXTENSION
from imagecache.containerd.rpc import Connection, Reply
from imagecache.containerd.services import (
    LEASE_HEADER,
    LEASES,
    ContentService,
    DiffService,
    ImageService,
    SnapshotService,
)
from imagecache.digest import Digest
from imagecache.errors import AlreadyExists, ContainerdMisconfigured, ContainerdUnavailable, NotFound
from imagecache.oci.descriptor import Descriptor

_OURS = "imagecache-"
"""Begin of the names of our leases."""
DEADLINE = 60.0
"""Seconds for one call. Deleting an image with ``sync`` waits for containerd's collection, which may take many."""
_CRI = "type==io.containerd.grpc.v1,id==cri"
"""Filter of plugins: CRI, in every version."""


class ContainerdClient:
    """An asynchronous context manager; the connection is opened by the first call."""

    def __init__(self, address: Path, clock: Clock, *, deadline: float = DEADLINE) -> None:
        self.address = address
        self._clock = clock
        self._connection = Connection(address, deadline=deadline)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def session(self, namespace: str) -> ContainerdSession:
        return ContainerdSession(self._connection, self._clock, {"containerd-namespace": namespace})

    async def version(self) -> str:
        reply = await self._connection.call(
            "containerd.services.version.v1.Version/Version", Empty(), version_pb2.VersionResponse
        )
        return reply.version.removeprefix("v")

    async def snapshotter_plugins(self) -> tuple[Plugin, ...]:
        return await self._plugins(f"type=={SNAPSHOTTERS}")

    async def handler_snapshotters(self) -> dict[str, str]:
        request = runtime_pb2.StatusRequest(verbose=True)
        try:
            reply = await self._cri("RuntimeService/Status", request, runtime_pb2.StatusResponse)
        except ContainerdUnavailable:
            if await self._runs_cri():
                raise
            return {}
        return snapshotters_in(reply.info["config"])

    async def cri_images(self, names: Collection[str]) -> Mapping[str, str] | None:
        try:
            found = await run_all(*map(self._image_id, names))
        except ContainerdUnavailable:
            if await self._runs_cri():
                raise
            return None
        return {name: image_id for name, image_id in zip(names, found, strict=True) if image_id}

    async def _image_id(self, name: str) -> str:
        request = runtime_pb2.ImageStatusRequest(image=runtime_pb2.ImageSpec(image=name))
        reply = await self._cri("ImageService/ImageStatus", request, runtime_pb2.ImageStatusResponse)
        return reply.image.id

    async def _runs_cri(self) -> bool:
        """Docker's containerd does not. Asked after a call of CRI has failed: every attach makes two that work."""
        return any(not plugin.error for plugin in await self._plugins(_CRI))

    async def image_filesystem(self) -> str:
        request = runtime_pb2.ImageFsInfoRequest()
        reply = await self._cri("ImageService/ImageFsInfo", request, runtime_pb2.ImageFsInfoResponse)
        # the default snapshotter's comes first; 2.x lists those of other runtime handlers after it
        return next((each.fs_id.mountpoint for each in reply.image_filesystems), "")

    async def _cri(self, method: str, request: Message, reply: type[Reply]) -> Reply:
        try:
            return await self._connection.call(f"runtime.v1.{method}", request, reply)
        except ContainerdMisconfigured as error:  # 1.x says so while CRI starts, which 2.x calls unavailable
            raise ContainerdUnavailable(error.message, hint="look at containerd's log, then try again") from error

    async def _plugins(self, chosen: str) -> tuple[Plugin, ...]:
        reply = await self._connection.call(
            "containerd.services.introspection.v1.Introspection/Plugins",
            introspection_pb2.PluginsRequest(filters=[chosen]),
            introspection_pb2.PluginsResponse,
        )
        return tuple(
            Plugin(
                kind=plugin.type,
                id=plugin.id,
                exports=dict(plugin.exports),
                capabilities=tuple(plugin.capabilities),
                error=plugin.init_err.message if plugin.HasField("init_err") else "",
            )
            for plugin in reply.plugins
        )

    async def namespaces(self) -> tuple[str, ...]:
        reply = await self._connection.call(
            "containerd.services.namespaces.v1.Namespaces/List",
            namespaces_pb2.ListNamespacesRequest(),
            namespaces_pb2.ListNamespacesResponse,
        )
        return tuple(sorted(namespace.name for namespace in reply.namespaces))

    async def task_starts(self) -> AsyncIterator[TaskStarted]:
        envelopes = self._connection.stream(
            "containerd.services.events.v1.Events/Subscribe",
            events_pb2.SubscribeRequest(filters=['topic=="/tasks/start"']),
            events_pb2.Envelope,
            endless=True,  # events come at any time
        )
        async for envelope in envelopes:
            event = task_events_pb2.TaskStart.FromString(envelope.event.value)
            yield TaskStarted(envelope.namespace, event.container_id)
        # the stream has no end of its own, so a clean one means that containerd is shutting down
        raise ContainerdUnavailable(f"containerd at {self.address} ended its event stream")


class ContainerdSession:
    def __init__(self, connection: Connection, clock: Clock, metadata: dict[str, str], owner: str = "") -> None:
        """``owner`` of the lease, with a hyphen behind it."""
        self._connection = connection
        self._clock = clock
        self._metadata = metadata
        self._owner = owner
        self.content = ContentService(connection, metadata)
        self.images = ImageService(connection, metadata)
        self.snapshots = SnapshotService(connection, metadata)
        self._diff = DiffService(connection, metadata)

    @contextlib.asynccontextmanager
    async def leased(self, seconds: int, *, sync: bool = False, owner: str = "") -> AsyncIterator[ContainerdSession]:
        now = self._clock.now()
        name = lease_name(owner, now, seconds) if owner else f"{_OURS}{self._owner}{secrets.token_hex(8)}"
        # RFC 3339, as containerd's collector parses this label
        expires = (now + dt.timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
        create = leases_pb2.CreateRequest(id=name, labels={"containerd.io/gc.expire": expires})
        with contextlib.suppress(AlreadyExists):  # left by a block that has failed
            await self._connection.call(f"{LEASES}/Create", create, leases_pb2.CreateResponse, self._metadata)
        metadata = {**self._metadata, LEASE_HEADER: name}
        succeeded = False
        try:
            yield ContainerdSession(self._connection, self._clock, metadata, f"{owner}-" if owner else "")
            succeeded = True
        finally:
            if not owner:
                await self._end(name, sync=sync)
            elif succeeded:
                await self.end_leases(owner)

    async def end_leases(self, owner: str = "") -> None:
        reply = await self._connection.call(
            f"{LEASES}/List", leases_pb2.ListRequest(), leases_pb2.ListResponse, self._metadata
        )
        begin = f"{_OURS}{owner}-" if owner else _OURS
        for lease in reply.leases:
            if lease.id.startswith(begin):
                await self._end(lease.id, sync=True)

    async def _end(self, name: str, *, sync: bool) -> None:
        with contextlib.suppress(NotFound):  # it has expired
            await self._connection.command(
                f"{LEASES}/Delete", leases_pb2.DeleteRequest(id=name, sync=sync), self._metadata
            )

    async def apply(self, tar: Descriptor, mounts: Sequence[SnapshotMount]) -> Digest:
        return await self._diff.apply(tar, mounts)

    async def container(self, container_id: str) -> ContainerRecord | None:
        request = containers_pb2.GetContainerRequest(id=container_id)
        try:
            reply = await self._connection.call(
                "containerd.services.containers.v1.Containers/Get",
                request,
                containers_pb2.GetContainerResponse,
                self._metadata,
            )
        except NotFound:
            return None
        found = reply.container
        cri = found.extensions[CRI_EXTENSION].value if CRI_EXTENSION in found.extensions else b""
        return ContainerRecord(
            id=found.id,
            snapshotter=found.snapshotter,
            snapshot_key=found.snapshot_key,
            image=found.image,
            labels=dict(found.labels),
            created=found.created_at.ToDatetime(tzinfo=dt.UTC),
            cri=cri,
        )


def lease_name(owner: str, now: dt.datetime, seconds: int) -> str:
    """Of the lease that a block takes which begins now.

    containerd cannot prolong a lease. So every half of its life begins another one, which gets all that it needs of the
    one before while that lives.
    """
    return f"{_OURS}{owner}-{int(now.timestamp()) // max(1, seconds // 2)}"
