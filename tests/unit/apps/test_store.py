"""Which store a process opens, and what a node serves of one that it shares before anything was checked."""

from __future__ import annotations

from pathlib import Path

from imagecache.agent.state import NodeState
from imagecache.apps.store import open_node_store, open_store, serve_remembered, store_paths
from imagecache.digest import ChainID, DiffID, Digest
from imagecache.settings.table import Settings
from testkit.clock import FakeClock
from testkit.store import put_bundle

A, B = (f"imc-{letter * 20}" for letter in "ab")
BASE, APP = (DiffID(Digest.sha256(text)) for text in (b"base", b"app"))


def test_a_node_with_a_store_of_its_own(tmp_path: Path) -> None:
    settings = Settings(store=tmp_path / "store", node_name="worker", store_url="https://controller")
    store = open_node_store(settings, FakeClock())
    put_bundle(store, A, [BASE], [b"base"])

    serve_remembered(settings, store)

    assert store.provider.lookup(ChainID(BASE)) is not None
    assert not store.paths.is_shared


def test_a_node_serves_what_it_had_attached_until_its_agent_has_looked(tmp_path: Path) -> None:
    settings = Settings(store=tmp_path / "store", leases=str(tmp_path / "leases"), node_name="worker")
    controller = open_store(settings, FakeClock())
    attached = put_bundle(controller, A, [BASE], [b"base"])
    put_bundle(controller, B, [APP], [b"app"])
    before = open_node_store(settings, FakeClock())
    state = NodeState(before.paths.nodes / "worker")
    state.load()
    state.write(attached, ["a"])

    store = open_node_store(settings, FakeClock())
    assert store.provider.lookup(ChainID(BASE)) is None
    serve_remembered(settings, store)

    assert store.provider.lookup(ChainID(BASE)) is not None
    assert store.provider.lookup(ChainID(APP)) is None
    assert store.paths.nodes == store_paths(settings).nodes == tmp_path / "leases" / "nodes"


def test_a_node_that_had_nothing(tmp_path: Path) -> None:
    settings = Settings(store=tmp_path / "store", leases=str(tmp_path / "leases"), node_name="worker")
    store = open_node_store(settings, FakeClock())

    serve_remembered(settings, store)

    assert store.provider.lookup(ChainID(BASE)) is None
