"""The comparison of the differential tests: one image, unpacked by containerds and by us, path by path."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from imagecache.store.bundle_document import ImageRecord
from imagecache.store.store import Store
from testkit.oci_layout import Image
from testkit.peers.containerd import Containerd
from testkit.peers.registry import Registry
from testkit.peers.scan import Tree, differences, scan
from testkit.peers.static_registry import StaticRegistry
from testkit.peers.unpack import Refused, build, containerd_tree, our_tree

_CLOCK_SLACK_NS = 10**9
"""Files get the kernel's coarse time, which is some milliseconds old."""


@dataclass(slots=True)
class Verdict:
    """What came of one image."""

    differences: list[str] = field(default_factory=list)
    """Also a refusal by one side only."""
    refused: str = ""
    """By both."""


@dataclass(frozen=True, slots=True)
class Judge:
    """Unpacks images by every containerd and by us, and compares."""

    directory: Path
    registry: Registry | StaticRegistry
    nodes: tuple[Containerd, ...]
    store: Store
    started_ns: int = field(default_factory=lambda: time.time_ns() - _CLOCK_SLACK_NS)
    """What was unpacked has no older time of its own; layers that images share were unpacked for the first of them."""
    by_cri: bool = False
    """``containerd_tree``."""

    async def compare(self, image: Image) -> Verdict:
        verdict = Verdict()
        ours = await self._ours(image)
        for node in self.nodes:
            theirs = self._theirs(node, image)
            if isinstance(theirs, str) and isinstance(ours, str):
                verdict.refused = ours
            elif isinstance(theirs, str):
                verdict.differences.append(f"only containerd {node.version} refuses: {theirs}")
            elif isinstance(ours, str):
                verdict.differences.append(f"only we refuse, not containerd {node.version}: {ours}")
            else:
                found = differences(theirs, ours, unpacked_after_ns=self.started_ns)
                verdict.differences += [f"containerd {node.version}: {line}" for line in found]
        return verdict

    async def build(self, image: Image) -> ImageRecord:
        """Through the registry when it serves whatever it is given. Raises Refused."""
        return await build(self.store, image, self.registry if isinstance(self.registry, StaticRegistry) else None)

    async def _ours(self, image: Image) -> Tree | str:
        try:
            record = await self.build(image)
        except Refused as refusal:
            return str(refusal)
        with our_tree(self.store, record, self._place()) as tree:
            return scan(tree)

    def _theirs(self, node: Containerd, image: Image) -> Tree | str:
        try:
            with containerd_tree(node, self.registry, image, self._place(), by_cri=self.by_cri) as tree:
                return scan(tree)
        except Refused as refusal:
            return str(refusal)

    def _place(self) -> Path:
        return self.directory / uuid4().hex[:12]
