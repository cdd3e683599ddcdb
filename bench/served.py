"""A node that fetches a large image from the served store, as layers are and in compressed blocks, beside a pull.

The store is served by a process of its own, and the node's part is the agent's: bundle, layers, proof, all of it
synced. Without a cluster, so that the network between the two can be chosen; the peer pulls the compressed image from
a registry over the same network.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import courses
from bench.contender import Site, pull
from bench.contenders import overlayfs
from bench.courses import Network
from bench.figures import MB, Figure, Line, Measured, Table
from bench.fresh import Roots, drawn, forget_pages, read_all, settle
from bench.images import BenchImage
from bench.link import Link
from bench.meter import busy_seconds
from imagecache.builder.worker_pool import WorkerPool
from imagecache.fetch.bundle import BundleFetcher
from imagecache.fetch.prefetch import PREFETCH, BuildPrefetcher
from imagecache.fetch.transfer import LayerFetcher
from imagecache.fetch.verifier import Verifier
from imagecache.fetch.wire_form import WireForm
from imagecache.oci.descriptor import Platform
from imagecache.served.store_client import ClientSettings, StoreClient
from imagecache.settings.choices import StoreCompression
from imagecache.store.expected_bundle import expected_bundle
from imagecache.store.paths import StorePaths
from imagecache.store.store import Store
from testkit.peers.node import CachingNode

COLUMNS = (
    Figure("seconds", "time", "s"),
    Figure("cpu", "CPU", "s"),
    Figure("wire", "wire, MB", ""),
)
_AMD64 = Platform(os="linux", architecture="amd64")


@dataclass(frozen=True, slots=True)
class _Way:
    line: Line
    compression: StoreCompression | None
    """None: the peer's pull."""
    first: bool = False
    """No block is compressed yet."""


def _ways() -> Sequence[_Way]:
    def line(key: str, title: str, *, durable: bool = True) -> Line:
        return Line(key, title, durable, {})

    return (
        _Way(line("plain", "served store, as it is"), StoreCompression.NEVER),
        _Way(line("first", "served store, auto, the first node"), StoreCompression.AUTO, first=True),
        _Way(line("auto", "served store, auto, the nodes after it"), StoreCompression.AUTO),
        _Way(line("always", "served store, compressed always"), StoreCompression.ALWAYS),
        _Way(line("overlayfs-tuned", f"{overlayfs.TUNED.title}, pulls it", durable=False), None),
    )


def measure(directory: Path, image: BenchImage, rounds: int, roots: Roots) -> Measured:
    tables = []
    for key, title, network in (
        ("served", "A node fetches 1,000 MB, loopback", courses.LOOPBACK),
        ("served-1ms", "A node fetches 1,000 MB, 1 Gbit/s and 1 ms", Network(courses.GIGABIT, 0.001)),
    ):
        with _site(directory / key, network, image, roots) as site:
            ways = _ways()
            for _, way in drawn(rounds, ways):
                root = roots.fresh(f"{key}-{way.line.key}")
                if way.compression is None:
                    site.pull(way.line, root)
                else:
                    site.fetch(way.line, root, way.compression, first=way.first)
                roots.spend(root)
            tables.append(Table(key, title, COLUMNS, [way.line for way in ways]))
    return Measured(tables=tables)


@dataclass(frozen=True, slots=True)
class _Site:
    """A registry and a served store with the same image, each behind a network of the same kind."""

    registry: Site
    reference: str
    store: Path
    link: Link
    settings: ClientSettings

    def pull(self, line: Line, root: Path) -> None:
        with overlayfs.TUNED.node(self.registry, root) as node:
            forget_pages()
            read_all(self.registry.registry.blobs())
            line.add(**_measured(self.registry.link, lambda: pull(node.address, self.reference)))

    def fetch(self, line: Line, root: Path, compression: StoreCompression, *, first: bool) -> None:
        if first:
            shutil.rmtree(StorePaths(self.store).packed, ignore_errors=True)
        forget_pages()
        read_all(path for path in self.store.rglob("*") if path.is_file())
        fetch = partial(_fetch, self.store, root, self.settings, compression)
        line.add(**_measured(self.link, lambda: asyncio.run(fetch())))


def _measured(link: Link | None, work: Callable[[], None]) -> dict[str, float]:
    settle()
    before = link.counts().received if link else 0
    busy, start = busy_seconds(), time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    found = {"seconds": seconds, "cpu": busy_seconds() - busy}
    return found | ({"wire": (link.counts().received - before) / MB} if link else {})


@contextmanager
def _site(directory: Path, network: Network, image: BenchImage, roots: Roots) -> Iterator[_Site]:
    with courses.site(directory, network) as registry, ExitStack() as stack:
        reference = overlayfs.TUNED.publish(registry, image.image(), "team/served:1")
        builder = CachingNode(roots.fresh("served-store"), "2.4", sandbox_image=registry.pause)
        builder.command("create", "-f", builder.manifest("app", [reference]), "--no-attach")
        port, ca_file, token_file = stack.enter_context(_serving(builder.store, directory / "tls"))
        link = stack.enter_context(Link(("127.0.0.1", port), network.rate, network.rtt))
        settings = ClientSettings(url=f"https://{link.address}", ca_file=ca_file, token_file=token_file)
        yield _Site(registry, reference, builder.store, link, settings)


@contextmanager
def _serving(store: Path, directory: Path) -> Iterator[tuple[int, Path, Path]]:
    """The port, and what a client needs beside it."""
    program = str(Path(__file__).with_name("store_program.py"))
    argv = [sys.executable, program, str(store), str(directory)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None  # noqa: S101 - opened with it
        assert process.stdout is not None  # noqa: S101 - opened with it
        words = json.loads(process.stdout.readline())
        yield words["port"], Path(words["ca"]), Path(words["token"])
        process.stdin.close()


async def _fetch(origin: Path, root: Path, settings: ClientSettings, compression: StoreCompression) -> None:
    """What an agent does from the moment at which a cache is for its node until it can be attached."""
    bundles = Store(origin).bundles
    store = Store.open(root)
    async with StoreClient(settings) as remote, WorkerPool() as pool:
        layers = LayerFetcher(store, remote, Verifier(pool), form=WireForm(compression))
        builds = BuildPrefetcher(store, remote, LayerFetcher(store, remote, Verifier(pool), PREFETCH), "amd64")
        fetcher = BundleFetcher(store, remote, layers, builds, _AMD64)
        (bundle_id,) = bundles.ids()
        described = await fetcher.describe(expected_bundle(bundles.get(bundle_id)))
        await fetcher.fetch(described, lambda _size: None)
        layers.close()
