"""The image service of CRI (``runtime.v1``), as prepull mode uses it: any runtime that kubelet works with.

One method, one call. It must not decide anything, nor pass credentials: every pod may use what is pulled here.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from google.protobuf.message import Message

from imagecache._proto.cri import runtime_pb2 as pb
from imagecache.containerd.prepull import RuntimeImage
from imagecache.containerd.rpc import Connection, Reply
from imagecache.errors import AlreadyExists, ContainerdUnavailable, HostError, NotFound, PullFailed

_IMAGES = "runtime.v1.ImageService"
_RUNTIME = "runtime.v1.RuntimeService"
_DEADLINE = 60.0
_PULL_DEADLINE = 3600.0
"""Seconds. containerd sets no limit on a pull; some images take tens of minutes."""


class CriClient:
    """``containerd.prepull.Runtime``. The user calls ``close``."""

    def __init__(self, address: Path) -> None:
        self._quick = Connection(address, deadline=_DEADLINE)
        self._slow = Connection(address, deadline=_PULL_DEADLINE)

    def close(self) -> None:
        self._quick.close()
        self._slow.close()

    async def pull(self, name: str) -> None:
        request = pb.PullImageRequest(image=pb.ImageSpec(image=name))
        try:
            await self._slow.call(f"{_IMAGES}/PullImage", request, pb.PullImageResponse)
        except (HostError, NotFound, AlreadyExists) as error:
            if isinstance(error, ContainerdUnavailable):
                await self.image(name)  # an unreachable registry looks the same, but then the runtime answers this
            raise PullFailed(
                error.message, hint="can this node pull it? crictl pull shows the same", image=name
            ) from error

    async def image(self, name: str) -> RuntimeImage | None:
        request = pb.ImageStatusRequest(image=pb.ImageSpec(image=name))
        reply = await self._call(f"{_IMAGES}/ImageStatus", request, pb.ImageStatusResponse)
        if not reply.HasField("image"):
            return None
        image = reply.image
        return RuntimeImage(image.id, frozenset((*image.repo_tags, *image.repo_digests)), image.pinned)

    async def remove(self, name: str) -> None:
        request = pb.RemoveImageRequest(image=pb.ImageSpec(image=name))
        with contextlib.suppress(NotFound):
            await self._call(f"{_IMAGES}/RemoveImage", request, pb.RemoveImageResponse)

    async def in_use(self) -> frozenset[str]:
        reply = await self._call(f"{_RUNTIME}/ListContainers", pb.ListContainersRequest(), pb.ListContainersResponse)
        return frozenset(text for each in reply.containers for text in (each.image_ref, each.image_id) if text)

    async def _call(self, method: str, request: Message, reply: type[Reply]) -> Reply:
        return await self._quick.call(method, request, reply)
