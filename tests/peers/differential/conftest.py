"""One long-lived containerd of each version and one store for the tests of a file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from imagecache.store.store import Store
from testkit.peers.containerd import VERSIONS, Containerd
from testkit.peers.judge import Judge
from testkit.peers.registry import Registry
from testkit.peers.static_registry import StaticRegistry
from testkit.peers.workspace import clean


@pytest.fixture(scope="module")
def judge(peers_directory: Path, registry: Registry) -> Iterator[Judge]:
    directory = peers_directory / f"differential-{uuid4().hex[:8]}"
    with contextlib.ExitStack() as stack:
        nodes = [stack.enter_context(Containerd(directory / version, version)) for version in VERSIONS]
        yield Judge(directory, registry, tuple(nodes), Store.open(directory / "store"))
    clean(directory)


@pytest.fixture(scope="module")
def static() -> Iterator[StaticRegistry]:
    with StaticRegistry() as running:
        yield running


@pytest.fixture
def anything(judge: Judge, static: StaticRegistry) -> Judge:
    """The judge of images that only a registry without an opinion takes."""
    return replace(judge, registry=static, by_cri=True)
