"""Our snapshotter as a process, for containerd's Go code to talk to: ``serve.py ROOT SOCKET [DIFFID...]``.

The diffIDs are layers that it serves, bottom first, mounted in memory only; everything else is real.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from pathlib import Path

from imagecache.clock import SystemClock
from imagecache.digest import ChainID, DiffID, Digest
from imagecache.snapshotter.grpc_server import serve
from imagecache.snapshotter.snapshotter import Snapshotter
from testkit.mounts import FakeMounter
from testkit.store import MemoryLayers


async def main(root: Path, socket: Path, diff_ids: list[str]) -> None:
    layers = MemoryLayers()
    parent: ChainID | None = None
    for diff_id in diff_ids:
        parent = layers.add(DiffID(Digest(diff_id)), parent).chain_id
    snapshotter = Snapshotter(root, layers, FakeMounter(), SystemClock())
    serving = asyncio.create_task(serve(snapshotter, socket))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, serving.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await serving
    snapshotter.close()


asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
