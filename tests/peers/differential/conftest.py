"""One long-lived containerd of each version and one store for the tests of a file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from imagecache.store.store import Store
from testkit.peers.containerd import VERSIONS, Containerd
from testkit.peers.judge import Judge
from testkit.peers.registry import Registry
from testkit.peers.workspace import clean


@pytest.fixture(scope="module")
def judge(peers_directory: Path, registry: Registry) -> Iterator[Judge]:
    directory = peers_directory / f"differential-{uuid4().hex[:8]}"
    with contextlib.ExitStack() as stack:
        nodes = [stack.enter_context(Containerd(directory / version, version)) for version in VERSIONS]
        yield Judge(directory, registry, tuple(nodes), Store.open(directory / "store"))
    clean(directory)
