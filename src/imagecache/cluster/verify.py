"""What proves a layer image that came from elsewhere.

``WorkerVerifier`` parses foreign bytes, so it does that in the builder's unprivileged worker processes, where it also
does not hold up the snapshotter. ``TrustingVerifier`` is for a store whose writers are trusted like the node itself:
the digests of tar and file are checked all the same.
"""

from __future__ import annotations

from imagecache.build.messages import Verify
from imagecache.build.pool import WorkerPool
from imagecache.store.model import LayerRecord, Space


class WorkerVerifier:
    """``cluster.ports.Verifier``. The pool is the caller's."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool

    def proves(self, layer: LayerRecord) -> bool:
        """Attributes that a layer image keyed by chainID has from the layers below are taken from the file itself."""
        return layer.name.space is Space.LAYERS

    async def verify(self, fd: int, layer: LayerRecord) -> None:
        async with self._pool.worker() as worker:
            worker.start(Verify(diff_id=layer.diff_id, tar_size=layer.tar_size), [fd])
            await worker.result(lambda _consumed: None)


class TrustingVerifier:
    """``cluster.ports.Verifier``."""

    def proves(self, layer: LayerRecord) -> bool:
        del layer
        return False

    async def verify(self, fd: int, layer: LayerRecord) -> None:
        pass
