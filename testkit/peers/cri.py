"""The kubelet's side of CRI, as far as tests need it: pull, list, run, exec, remove.

Speaks ``runtime.v1`` to containerd over its unix socket. Pods use the node's network, so no CNI is needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar
from uuid import uuid4

from google.protobuf.message import Message
from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from imagecache._proto.cri import runtime_pb2 as pb

_Reply = TypeVar("_Reply", bound=Message)
_IMAGES = "/runtime.v1.ImageService/"
_RUNTIME = "/runtime.v1.RuntimeService/"
_AGAIN = 20  # seconds
_SEEN = 30  # seconds that CRI has for containerd's events


@dataclass(frozen=True, slots=True)
class Pod:
    id: str
    config: pb.PodSandboxConfig


@dataclass(frozen=True, slots=True)
class Executed:
    code: int
    stdout: str
    stderr: str


class Cri:
    """A client. An asynchronous context manager; errors are grpclib's GRPCError.

    What containerd refuses while it has no connection to a snapshotter is tried again, as kubelet does: it gives one
    that was away a second or three for the handshake, and finds it at the next try.
    """

    def __init__(self, address: Path, *, seconds: float = 120) -> None:
        self._channel = Channel(path=str(address))
        self._seconds = seconds

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._channel.close()

    async def _call(self, path: str, request: Message, reply: type[_Reply]) -> _Reply:
        method: UnaryUnaryMethod[Message, _Reply] = UnaryUnaryMethod(self._channel, path, type(request), reply)
        deadline = time.monotonic() + _AGAIN
        while True:
            try:
                return await method(request, timeout=self._seconds)
            except GRPCError as error:
                if error.status is not Status.UNAVAILABLE or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(0.1)

    # images

    async def pull(self, image: str, *, auth: tuple[str, str] | None = None) -> str:
        """Pull and return the image's id. ``auth`` is user and password."""
        request = pb.PullImageRequest(image=pb.ImageSpec(image=image))
        if auth:
            request.auth.username, request.auth.password = auth
        return (await self._call(_IMAGES + "PullImage", request, pb.PullImageResponse)).image_ref

    async def images(self) -> list[pb.Image]:
        reply = await self._call(_IMAGES + "ListImages", pb.ListImagesRequest(), pb.ListImagesResponse)
        return list(reply.images)

    async def image_status(self, image: str) -> pb.Image | None:
        """None when it is not there, which makes a kubelet pull."""
        request = pb.ImageStatusRequest(image=pb.ImageSpec(image=image))
        reply = await self._call(_IMAGES + "ImageStatus", request, pb.ImageStatusResponse)
        return reply.image if reply.HasField("image") else None

    async def until_present(self, image: str) -> None:
        """CRI follows containerd's events: what was attached or pulled elsewhere is there some moments later."""
        await self._until(image, present=True)

    async def until_absent(self, image: str) -> None:
        """As ``until_present``, of what was detached or deleted elsewhere."""
        await self._until(image, present=False)

    async def _until(self, image: str, *, present: bool) -> None:
        deadline = time.monotonic() + _SEEN
        while (await self.image_status(image) is not None) != present:
            assert time.monotonic() < deadline, f"{image} is not {'present' if present else 'absent'}"
            await asyncio.sleep(0.05)

    async def remove_image(self, image: str) -> None:
        request = pb.RemoveImageRequest(image=pb.ImageSpec(image=image))
        await self._call(_IMAGES + "RemoveImage", request, pb.RemoveImageResponse)

    async def image_filesystems(self) -> list[Path]:
        """Directories on the filesystems whose space kubelet looks after, the default snapshotter's first."""
        reply = await self._call(_IMAGES + "ImageFsInfo", pb.ImageFsInfoRequest(), pb.ImageFsInfoResponse)
        return [Path(each.fs_id.mountpoint) for each in reply.image_filesystems]

    # pods and containers

    async def version(self) -> pb.VersionResponse:
        return await self._call(_RUNTIME + "Version", pb.VersionRequest(version="v1"), pb.VersionResponse)

    async def conditions(self) -> dict[str, bool]:
        """RuntimeReady and NetworkReady."""
        reply = await self._call(_RUNTIME + "Status", pb.StatusRequest(), pb.StatusResponse)
        return {condition.type: condition.status for condition in reply.status.conditions}

    async def run_pod(
        self,
        name: str,
        *,
        namespace: str = "default",
        log_directory: Path | None = None,
        handler: str = "",
        privileged: bool = False,
    ) -> Pod:
        """A pod sandbox in the node's network. ``handler`` is what a RuntimeClass names; empty: the default.

        ``privileged``: its containers may be.
        """
        metadata = pb.PodSandboxMetadata(name=name, uid=str(uuid4()), namespace=namespace)
        config = pb.PodSandboxConfig(
            metadata=metadata,
            log_directory=str(log_directory or ""),
            labels=_labels(metadata),
            linux=pb.LinuxPodSandboxConfig(
                security_context=pb.LinuxSandboxSecurityContext(
                    namespace_options=_node_network(), privileged=privileged
                )
            ),
        )
        request = pb.RunPodSandboxRequest(config=config, runtime_handler=handler)
        reply = await self._call(_RUNTIME + "RunPodSandbox", request, pb.RunPodSandboxResponse)
        return Pod(reply.pod_sandbox_id, config)

    async def create_container(  # noqa: PLR0913 - what differs between containers
        self,
        pod: Pod,
        image: str,
        command: Sequence[str] = (),
        *,
        name: str = "main",
        log_path: str = "",
        mounts: Sequence[pb.Mount] = (),
        memory: int = 0,
        security: pb.LinuxContainerSecurityContext | None = None,
        devices: Sequence[str] = (),
        attempt: int = 0,
    ) -> str:
        """``command`` replaces the image's entry point; empty keeps it. ``log_path`` is below the pod's directory.

        ``memory``: the limit in bytes; 0: none. ``security`` is merged over the node's network and a pid namespace of
        its own. ``devices``: names of CDI. ``attempt``: how often a container of this name was started before.
        """
        # without a limit there are no resources: containerd reads settings out of empty ones too
        resources = pb.LinuxContainerResources(memory_limit_in_bytes=memory) if memory else None
        context = pb.LinuxContainerSecurityContext(namespace_options=_node_network())
        if security is not None:
            context.MergeFrom(security)
        config = pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name=name, attempt=attempt),
            image=pb.ImageSpec(image=image),
            command=command,
            log_path=log_path,
            labels={**_labels(pod.config.metadata), "io.kubernetes.container.name": name},
            mounts=mounts,
            linux=pb.LinuxContainerConfig(resources=resources, security_context=context),
            CDI_devices=[pb.CDIDevice(name=name) for name in devices],
        )
        request = pb.CreateContainerRequest(pod_sandbox_id=pod.id, config=config, sandbox_config=pod.config)
        return (await self._call(_RUNTIME + "CreateContainer", request, pb.CreateContainerResponse)).container_id

    async def start(self, container: str) -> None:
        request = pb.StartContainerRequest(container_id=container)
        await self._call(_RUNTIME + "StartContainer", request, pb.StartContainerResponse)

    async def stop(self, container: str, *, grace: int = 0) -> None:
        """``grace`` in seconds; 0 kills at once."""
        request = pb.StopContainerRequest(container_id=container, timeout=grace)
        await self._call(_RUNTIME + "StopContainer", request, pb.StopContainerResponse)

    async def remove_container(self, container: str) -> None:
        request = pb.RemoveContainerRequest(container_id=container)
        await self._call(_RUNTIME + "RemoveContainer", request, pb.RemoveContainerResponse)

    async def container_status(self, container: str) -> pb.ContainerStatus:
        request = pb.ContainerStatusRequest(container_id=container)
        return (await self._call(_RUNTIME + "ContainerStatus", request, pb.ContainerStatusResponse)).status

    async def exec_sync(self, container: str, argv: Sequence[str]) -> Executed:
        request = pb.ExecSyncRequest(container_id=container, cmd=argv, timeout=int(self._seconds))
        reply = await self._call(_RUNTIME + "ExecSync", request, pb.ExecSyncResponse)
        return Executed(reply.exit_code, reply.stdout.decode(errors="replace"), reply.stderr.decode(errors="replace"))

    async def written(self, container: str) -> int:
        """Bytes in the container's writable layer, as counted last: every ten seconds."""
        request = pb.ContainerStatsRequest(container_id=container)
        reply = await self._call(_RUNTIME + "ContainerStats", request, pb.ContainerStatsResponse)
        return reply.stats.writable_layer.used_bytes.value

    async def remove_pod(self, pod: Pod) -> None:
        """Stops what runs in it and removes it. Idempotent."""
        stop = pb.StopPodSandboxRequest(pod_sandbox_id=pod.id)
        await self._call(_RUNTIME + "StopPodSandbox", stop, pb.StopPodSandboxResponse)
        remove = pb.RemovePodSandboxRequest(pod_sandbox_id=pod.id)
        await self._call(_RUNTIME + "RemovePodSandbox", remove, pb.RemovePodSandboxResponse)

    # convenience

    @contextlib.asynccontextmanager
    async def running(
        self,
        image: str,
        command: Sequence[str] = ("/bin/sleep", "1000000"),
        *,
        handler: str = "",
        memory: int = 0,
    ) -> AsyncIterator[str]:
        """A started container in a pod of its own; its id. Gone afterwards. ``memory`` as for ``create_container``."""
        pod = await self.run_pod(f"test-{uuid4().hex[:12]}", handler=handler)
        try:
            container = await self.create_container(pod, image, command, memory=memory)
            await self.start(container)
            yield container
        finally:
            await self.remove_pod(pod)

    async def run(self, image: str, argv: Sequence[str], *, handler: str = "") -> str:
        """Standard output of ``argv`` in a fresh container of the image (which needs ``/bin/sleep``)."""
        async with self.running(image, handler=handler) as container:
            done = await self.exec_sync(container, argv)
        assert done.code == 0, f"{argv} ended with {done.code}: {done.stdout}{done.stderr}"
        return done.stdout


def _labels(pod: pb.PodSandboxMetadata) -> dict[str, str]:
    """As kubelet says whose a sandbox or a container is."""
    parts = {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid}
    return {f"io.kubernetes.pod.{key}": value for key, value in parts.items()}


def _node_network() -> pb.NamespaceOption:
    return pb.NamespaceOption(network=pb.NODE, ipc=pb.NODE, pid=pb.CONTAINER)
