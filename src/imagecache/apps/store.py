"""The store of a process, wired: its own, or one that the nodes of a cluster share with its controller."""

from __future__ import annotations

from pathlib import Path

from imagecache.agent.state import remembered
from imagecache.clock import Clock
from imagecache.host.lease_holders import is_shared
from imagecache.settings.table import Settings
from imagecache.store.paths import StorePaths
from imagecache.store.store import Store


def open_store(settings: Settings, clock: Clock) -> Store:
    """For whoever builds and collects. Raises StoreDenied, NoSpace, StoreError."""
    return Store.open(settings.store, clock, leases=_leases(settings))


def open_node_store(settings: Settings, clock: Clock) -> Store:
    """For a node: the controller's, of which it serves what its agent has checked, or one of its own.

    Raises as ``open_store``.
    """
    if is_shared(settings):
        return Store.open_shared(settings.store, clock, leases=_leases(settings))
    return open_store(settings, clock)


def serve_remembered(settings: Settings, store: Store) -> None:
    """Of a shared store, serve what this node had attached: its documents were checked before that.

    So containers need not wait for an API server that is away. Raises StoreError, StoreDenied.
    """
    if is_shared(settings):
        store.serve(remembered(store.paths.nodes / settings.node_name))


def store_paths(settings: Settings) -> StorePaths:
    """As ``open_store`` has them."""
    return StorePaths(settings.store.absolute(), _leases(settings))


def _leases(settings: Settings) -> Path | None:
    return Path(settings.leases).absolute() if settings.leases else None
