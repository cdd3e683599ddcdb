"""Preparing: what each system makes of an image once, so that nodes start fast. Seconds, CPU, bytes, synced or not.

Ours builds the cache from the registry into an empty store. containerd's operators fetch the content and convert it
for ``layer_content_caches``; stargz and SOCI convert the image beforehand, from its layers on the disk, and the result
has to be pushed and pulled still. What has run before (recording which files a program reads) is not counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from bench.contender import Site
from bench.contenders import conversion, erofs, soci, stargz
from bench.figures import MB, Figure, Line, Measured, Table
from bench.fresh import Roots, drawn, forget_pages, read_all, settle
from bench.meter import MemoryMeter, busy_seconds, disk_held
from testkit.oci_layout import Image
from testkit.peers.node import CachingNode

COLUMNS = (
    Figure("seconds", "time", "s"),
    Figure("cpu", "CPU", "s"),
    Figure("memory", "peak memory", "MB"),
    Figure("made", "made", "MB"),
)
_FEW = {"stargz": 2, "erofs-lz4": 2}
"""Rounds of ways that take much time, by key."""
Work = Callable[[], Path]
"""Does it; returns the directory of what it has made."""


Way = Callable[[Path], AbstractContextManager[Work]]
"""Starts in a fresh directory what has to run before the clock does."""


def measure(site: Site, image: Image, rounds: int, roots: Roots) -> Measured:
    reference = f"{site.host}/team/prepare:1"
    site.registry.push("team/prepare:1", image)
    scratch = roots.fresh("recorder")
    record = conversion.record(site, image, conversion.WORKLOAD, scratch)
    ways: Sequence[tuple[Line, Way]] = (
        (_line("imagecache", "imagecache create --no-attach", durable=True), lambda path: _ours(site, reference, path)),
        (
            _line("erofs", "ctr content fetch, build-erofs-cache", durable=True),
            lambda path: _erofs(site, reference, path, ""),
        ),
        (_line("erofs-lz4", "the same with lz4", durable=True), lambda path: _erofs(site, reference, path, "lz4")),
        (_line("soci", "soci convert", durable=False), lambda path: _soci(image, path)),
        (_line("stargz", "eStargz, optimized", durable=False), lambda path: _stargz(image, record, path)),
    )
    for number, (line, way) in drawn(rounds, ways):
        if number >= _FEW.get(line.key, rounds):
            continue
        directory = roots.fresh(f"prepare-{line.key}")
        forget_pages()
        read_all([*site.registry.blobs(), *(image.blob(layer.digest) for layer in image.layers)])
        line.add(**_measured(directory, way))
        roots.spend(directory)
    return Measured(tables=[Table("prepare", "Preparing the 1,000 MB image", COLUMNS, [line for line, _ in ways])])


def _line(key: str, title: str, *, durable: bool) -> Line:
    return Line(key, title, durable, {})


def _measured(directory: Path, way: Way) -> dict[str, float]:
    directory.mkdir()
    with MemoryMeter() as memory, way(directory) as work:
        settle()
        memory.reset()
        busy, start = busy_seconds(), time.perf_counter()
        made = work()
        seconds = time.perf_counter() - start
        return {
            "seconds": seconds,
            "cpu": busy_seconds() - busy,
            "memory": memory.peak / MB,
            "made": disk_held(made) / MB,
        }


@contextmanager
def _ours(site: Site, reference: str, directory: Path) -> Iterator[Work]:
    node = CachingNode(directory, "2.4", sandbox_image=site.pause)
    manifest = node.manifest("app", [reference])

    def work() -> Path:
        node.command("create", "-f", manifest, "--no-attach")
        return node.store

    yield work


@contextmanager
def _erofs(site: Site, reference: str, directory: Path, compressors: str) -> Iterator[Work]:
    with erofs.publisher(site, directory / "publisher") as containerd:
        cache = directory / "cache"

        def work() -> Path:
            erofs.prepare(containerd, reference, cache, compressors=compressors)
            return cache

        yield work


@contextmanager
def _soci(image: Image, directory: Path) -> Iterator[Work]:
    def work() -> Path:
        return soci.convert(image, directory / "layout").directory

    yield work


@contextmanager
def _stargz(image: Image, record: Path, directory: Path) -> Iterator[Work]:
    def work() -> Path:
        return stargz.convert(image, record, directory / "layout").directory

    yield work
