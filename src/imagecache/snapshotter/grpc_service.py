"""The gRPC edge: containerd's ``Snapshots`` service, by grpclib (docs/adr/0008).

Requests become calls, results replies, errors codes. The calls block, so they run in threads. There are three pools: a
mount that hangs may use up all threads of its pool, and containerd holds a lock while it waits for Remove or List. A
call that a container's start waits for is answered in the event loop if it cannot block: waking a thread costs more
than the call. It must not decide anything about snapshots.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import TypeVar

import structlog
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from grpclib.server import Stream

from imagecache._proto.containerd import snapshots_pb2 as pb
from imagecache.errors import ImageCacheError, SnapshotError
from imagecache.snapshotter.grpc_errors import message_of, status_of
from imagecache.snapshotter.messages import info_message, mounts_message
from imagecache.snapshotter.mounts import Mount
from imagecache.snapshotter.snapshot import LayerExists
from imagecache.snapshotter.snapshotter import Snapshotter
from imagecache.snapshotter.thread_pools import Pool

SERVICE = "containerd.services.snapshots.v1.Snapshots"
BATCH = 100
"""Snapshots in one message of a list, as containerd's own service sends them."""
_PREWARM_AFTER = 0.5
"""Seconds from a Prepare until its spare directory is replaced: by then the container has started."""
_log = structlog.get_logger(__name__)
Request = TypeVar("Request", bound=Message)
Reply = TypeVar("Reply", bound=Message)


Answered = Callable[[str, str, str, float], None]
"""Called for every call, after its reply: method, the snapshot's key or empty, name of the gRPC code, seconds."""


def ignore(method: str, key: str, code: str, seconds: float) -> None:
    del method, key, code, seconds


class SnapshotsService:
    """Handlers for ``grpclib.server.Server``."""

    def __init__(self, snapshotter: Snapshotter, answered: Answered = ignore) -> None:
        settings = snapshotter.settings
        self._snapshotter = snapshotter
        self._answered = answered
        self._mounting = Pool("mounting", settings.mounting_threads, settings.mounting_deadline)
        self._metadata = Pool("metadata", settings.metadata_threads, settings.deadline)
        self._removing = Pool("removing", settings.removing_threads, settings.deadline)
        self.left = asyncio.Event()
        """The last clean-up could not free everything."""
        self._timers: dict[Callable[[], None], asyncio.TimerHandle] = {}
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def idle(self) -> None:
        """Wait until no call is being answered."""
        await self._idle.wait()

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        for pool in (self._mounting, self._metadata, self._removing):
            pool.close()

    async def clean_up(self) -> None:
        """Sets ``left`` unless all has been freed. A clean-up that takes long goes on in its thread."""
        complete = False
        try:
            complete = await self._removing.run(self._snapshotter.cleanup)
        except TimeoutError:
            _log.info("clean-up goes on in the background")
        finally:
            if not complete:
                self.left.set()

    def __mapping__(self) -> dict[str, Handler]:
        handlers = {
            "Prepare": self._unary(self._prepare, pb.PrepareSnapshotRequest, pb.PrepareSnapshotResponse),
            "View": self._unary(self._view, pb.ViewSnapshotRequest, pb.ViewSnapshotResponse),
            "Mounts": self._unary(self._mounts, pb.MountsRequest, pb.MountsResponse),
            "Commit": self._unary(self._commit, pb.CommitSnapshotRequest, Empty),
            "Remove": self._unary(self._remove, pb.RemoveSnapshotRequest, Empty),
            "Stat": self._unary(self._stat, pb.StatSnapshotRequest, pb.StatSnapshotResponse),
            "Update": self._unary(self._update, pb.UpdateSnapshotRequest, pb.UpdateSnapshotResponse),
            "Usage": self._unary(self._usage, pb.UsageRequest, pb.UsageResponse),
            "Cleanup": self._unary(self._cleanup, pb.CleanupRequest, Empty),
            "List": Handler(self._list, Cardinality.UNARY_STREAM, pb.ListSnapshotsRequest, pb.ListSnapshotsResponse),
        }
        return {f"/{SERVICE}/{name}": handler for name, handler in handlers.items()}

    async def _prepare(self, request: pb.PrepareSnapshotRequest) -> pb.PrepareSnapshotResponse:
        asked = request.key, request.parent, dict(request.labels)
        prepared: tuple[Mount, ...] | LayerExists | None = self._snapshotter.prepare_nowait(*asked)
        if prepared is None:
            prepared = await self._mounting.run(partial(self._snapshotter.prepare, *asked))
        if isinstance(prepared, LayerExists):
            self._later(self._snapshotter.settings.unmount_idle_after, self._snapshotter.unmount_idle)
            _log.debug("layer needs no pull", chain=prepared.chain, snapshot=prepared.name)
            # The remote snapshot protocol has no reply for this success, only this code
            # (containerd's docs/snapshotters/remote-snapshotter.md).
            raise GRPCError(Status.ALREADY_EXISTS, f"layer {prepared.chain} is served by snapshot {prepared.name!r}")
        self._later(_PREWARM_AFTER, self._snapshotter.prewarm)
        return pb.PrepareSnapshotResponse(mounts=mounts_message(prepared))

    def _later(self, seconds: float, work: Callable[[], None]) -> None:
        """In a thread, after the calls that a container's start waits for; once, however many ask until then."""
        if work not in self._timers:
            self._timers[work] = asyncio.get_running_loop().call_later(seconds, self._start, work)

    def _start(self, work: Callable[[], None]) -> None:
        del self._timers[work]
        with contextlib.suppress(RuntimeError):  # the pool is closed: we are stopping
            self._removing.start(work)

    async def _view(self, request: pb.ViewSnapshotRequest) -> pb.ViewSnapshotResponse:
        call = partial(self._snapshotter.view, request.key, request.parent, dict(request.labels))
        return pb.ViewSnapshotResponse(mounts=mounts_message(await self._mounting.run(call)))

    async def _mounts(self, request: pb.MountsRequest) -> pb.MountsResponse:
        mounts = self._snapshotter.mounts_nowait(request.key)
        if mounts is None:
            mounts = await self._mounting.run(partial(self._snapshotter.mounts, request.key))
        return pb.MountsResponse(mounts=mounts_message(mounts))

    async def _commit(self, request: pb.CommitSnapshotRequest) -> Empty:
        call = partial(self._snapshotter.commit, request.name, request.key, dict(request.labels), request.parent)
        await self._removing.run(call)
        return Empty()

    async def _remove(self, request: pb.RemoveSnapshotRequest) -> Empty:
        await self._removing.run(partial(self._snapshotter.remove, request.key))
        return Empty()

    async def _stat(self, request: pb.StatSnapshotRequest) -> pb.StatSnapshotResponse:
        info = await self._metadata.run(partial(self._snapshotter.stat, request.key))
        return pb.StatSnapshotResponse(info=info_message(info))

    async def _update(self, request: pb.UpdateSnapshotRequest) -> pb.UpdateSnapshotResponse:
        info, paths = request.info, tuple(request.update_mask.paths)
        call = partial(self._snapshotter.update, info.name, dict(info.labels), paths)
        return pb.UpdateSnapshotResponse(info=info_message(await self._metadata.run(call)))

    async def _usage(self, request: pb.UsageRequest) -> pb.UsageResponse:
        usage = await self._metadata.run(partial(self._snapshotter.usage, request.key))
        return pb.UsageResponse(size=usage.size, inodes=usage.inodes)

    async def _cleanup(self, _request: pb.CleanupRequest) -> Empty:
        await self.clean_up()
        return Empty()

    async def _list(self, stream: Stream[pb.ListSnapshotsRequest, pb.ListSnapshotsResponse]) -> None:
        request = await stream.recv_message()
        if request is None:
            return
        with self._answering("List", ""):
            infos = await self._metadata.run(partial(self._snapshotter.walk, tuple(request.filters)))
        for start in range(0, len(infos), BATCH):
            batch = [info_message(info) for info in infos[start : start + BATCH]]
            await stream.send_message(pb.ListSnapshotsResponse(info=batch))

    def _unary(
        self, answer: Callable[[Request], Awaitable[Reply]], request: type[Request], reply: type[Reply]
    ) -> Handler:
        name = answer.__name__.removeprefix("_").capitalize()

        async def handle(stream: Stream[Request, Reply]) -> None:
            message = await stream.recv_message()
            if message is None:
                return
            with self._answering(name, getattr(message, "key", "")):
                answered = await answer(message)
            await stream.send_message(answered)

        return Handler(handle, Cardinality.UNARY_UNARY, request, reply)

    @contextlib.contextmanager
    def _answering(self, method: str, key: str) -> Iterator[None]:
        """Count the call, and turn what it raises into a code: by itself, grpclib would answer UNKNOWN."""
        self._in_flight += 1
        self._idle.clear()
        start, code = time.monotonic(), Status.OK
        try:
            with self._as_code(method):
                yield
        except GRPCError as error:
            code = error.status
            raise
        finally:
            # Later, so that counting does not delay the reply.
            asyncio.get_running_loop().call_soon(self._answered, method, key, code.name, time.monotonic() - start)
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    @staticmethod
    @contextlib.contextmanager
    def _as_code(method: str) -> Iterator[None]:
        try:
            yield
        except GRPCError:
            raise
        except ImageCacheError as error:
            level = _log.debug if isinstance(error, SnapshotError) else _log.warning
            level("answered with a code", method=method, reason=error.reason, message=str(error))
            raise GRPCError(status_of(error), message_of(error)) from error
        except TimeoutError as error:
            _log.warning("call timed out", method=method)
            raise GRPCError(Status.DEADLINE_EXCEEDED, f"{method} timed out") from error
        except Exception as error:
            _log.exception("call failed", method=method)
            raise GRPCError(Status.INTERNAL, f"{method}: {error!r}") from error
