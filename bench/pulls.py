"""Pull, attach and build: how an image gets onto a node."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from bench.nodes import Field, caching, forget, ordinary, pull
from bench.samples import Goal, Row, Samples
from imagecache.apps.attach import LocalAttacher
from imagecache.clock import SystemClock
from imagecache.settings.table import Mode as ModeSetting
from imagecache.settings.table import Settings
from imagecache.store.store import Store
from testkit.peers.containerd import Containerd, Version
from testkit.peers.node import CachingNode, Mode

_VARIANTS: list[tuple[Version, Mode]] = [("system", "proxy"), ("2.4", "proxy"), ("2.4", "native")]
_CACHED_PER_ORDINARY = 3
"""Cached pulls are so short that a few more cost nothing."""


def timed(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(place: Field, rounds: int) -> list[Row]:
    rows = []
    store = place.directory / "shared-store"
    for version in ("system", "2.4"):
        with ExitStack() as stack:
            plain = ordinary(stack, place, version)
            modes = [mode for wanted, mode in _VARIANTS if wanted == version]
            nodes = {mode: caching(stack, place, version, mode, store) for mode in modes}
            first = next(iter(nodes.values()))
            if "app" not in first.command("get", "-o", "name"):
                first.create("app", [place.reference], "--no-attach")
            rows += _pulls(place, version, plain, nodes, rounds)
            rows += [_attach(place, version, mode, node, store, 5 * rounds) for mode, node in nodes.items()]
    return rows


def _pulls(place: Field, version: Version, plain: Containerd, nodes: dict[Mode, CachingNode], rounds: int) -> list[Row]:
    peer = Samples()
    ours = {mode: Samples() for mode in nodes}
    for _ in range(rounds):
        forget(plain, place.reference)
        peer.values.append(timed(lambda: pull(plain.address, place.reference)))
        for mode, node in nodes.items():
            for _ in range(_CACHED_PER_ORDINARY):
                forget(node.containerd, place.reference)
                ours[mode].values.append(timed(lambda node=node: pull(node.address, place.reference)))  # type: ignore[misc]
    goal = Goal("≥ 250×", 250, at_least=True)
    return [
        Row(f"CRI pull, everything cached, containerd {_name(version)}", samples, peer, goal, faster=True, note=mode)
        for mode, samples in ours.items()
    ]


def _name(version: Version) -> str:
    return "of Debian" if version == "system" else version


def _attach(place: Field, version: Version, mode: Mode, node: CachingNode, store: Path, rounds: int) -> Row:
    """The attach itself, in this process; the registry is off."""
    settings = Settings(store=store, address=node.address, mode=ModeSetting(mode))
    opened = Store.open(store)
    attacher = LocalAttacher(opened, settings, SystemClock())
    (bundle,) = opened.bundles.all()
    layers = len(bundle.images[0].layers)
    samples = Samples()

    async def rounds_of() -> None:
        for _ in range(rounds):
            await attacher.detach(bundle)
            start = time.perf_counter()
            await attacher.attach(bundle)
            samples.values.append(time.perf_counter() - start)

    forget(node.containerd, place.reference)
    place.registry.stop()
    asyncio.run(rounds_of())
    place.registry.start()
    bound = 0.020 + 0.002 * layers
    goal = Goal(f"≤ 20 ms + 2 ms a layer = {bound * 1000:.0f} ms", bound)
    return Row(f"attach, {layers} layers, containerd {_name(version)}", samples, None, goal, note=mode)


def measure_build(place: Field, rounds: int) -> list[Row]:
    """Cache built from the registry into an empty store, against containerd's pull of the same image."""
    ours, peer = Samples(), Samples()
    with ExitStack() as stack:
        plain = ordinary(stack, place, "2.4")
        for number in range(rounds):
            forget(plain, place.reference)
            peer.values.append(timed(lambda: pull(plain.address, place.reference)))
            node = CachingNode(
                place.directory / f"build-{number}",
                sandbox_image=place.pause,
                store=place.directory / f"store-{number}",
            )
            node.directory.mkdir(exist_ok=True)
            manifest = node.manifest("app", [place.reference])
            ours.values.append(timed(lambda node=node, manifest=manifest: _create(node, manifest)))  # type: ignore[misc]
            node.command("delete", "app")
    goal = Goal("≤ 0.35×", 0.35)
    return [Row("build the cache vs containerd 2.4 pulling the image", ours, peer, goal)]


def _create(node: CachingNode, manifest: Path) -> None:
    node.command("create", "-f", manifest, "--no-attach")
