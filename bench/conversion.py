"""Conversion of one layer.

A large one against the least that anybody can do with it, decompress and hash; one of many small files against GNU tar,
which makes the files.
"""

from __future__ import annotations

import io
import random
import subprocess
import tarfile
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench.contenders.node import IGZIP
from bench.figures import Goal, Measured, Row, Samples
from bench.fresh import Roots, drawn, forget_pages, read_all
from testkit.oci_layout import Image
from testkit.peers.agent import COMMAND
from testkit.peers.programs import cache

_BLOCK = 512
_ROUNDS_OF_FILES = 2
"""At most: each leaves 300,000 inodes to the removal after the run."""


def one_layer(image: Image) -> Path:
    """All layers of the image as one, compressed as usual (gzip 6); made once."""
    path = cache() / "bench" / f"{image.descriptor.digest.short}.tar.gz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        packer = zlib.compressobj(6, zlib.DEFLATED, 31)
        with path.with_suffix(".partial").open("wb") as file:
            for layer in image.layers:
                tar = subprocess.run(["gzip", "-dc", image.blob(layer.digest)], capture_output=True, check=True).stdout
                file.write(packer.compress(_without_end(tar)))
            file.write(packer.compress(bytes(2 * _BLOCK)) + packer.flush())
        path.with_suffix(".partial").rename(path)
    return path


def _without_end(tar: bytes) -> bytes:
    end = len(tar)
    while tar[end - _BLOCK : end] == bytes(_BLOCK):
        end -= _BLOCK
    return tar[:end]


def measure(image: Image, rounds: int, roots: Roots) -> Measured:
    layer = one_layer(image)
    ours, peer, size = _in_turn(layer, lambda layer, _output: _decompress_and_hash(layer), rounds, roots)
    note = f"{size / 1e6:,.0f} MB, whole command, on disk"
    large = Row("convert a layer", ours, peer, "igzip, openssl sha256", Goal(1.15), note=note)
    return Measured([large, _many_files(min(rounds, _ROUNDS_OF_FILES), roots)])


def _in_turn(
    layer: Path, other: Callable[[Path, Path], None], rounds: int, roots: Roots
) -> tuple[Samples, Samples, int]:
    """Ours, the other way, which gets the layer and a path for its output, and the size of our layer image."""
    ours, peer, size = Samples(), Samples(), 0
    directory = roots.fresh("convert")
    directory.mkdir()
    for number, samples in drawn(rounds, (ours, peer)):
        forget_pages()
        read_all([layer])
        if samples is ours:
            output = directory / f"{number}.erofs"
            samples.add(timed(partial(_build, layer, output)))
            size = output.stat().st_size
        else:
            samples.add(timed(partial(other, layer, directory / f"{number}")))
    roots.spend(directory)
    return ours, peer, size


def many_files() -> Path:
    """A tar of 300,000 files of 200 bytes in 3,000 directories, without entries for these; made once."""
    path = cache() / "bench" / "many-files.tar"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = random.Random(1)  # noqa: S311 - the same bytes each time
        with tarfile.open(path.with_suffix(".partial"), "w", format=tarfile.GNU_FORMAT) as archive:
            for number in range(300_000):
                member = tarfile.TarInfo(f"app/node_modules/package-{number // 100:04}/lib/file-{number % 100:02}.js")
                member.size, member.mtime = 200, 1_700_000_000 + noise.randrange(10_000)
                archive.addfile(member, io.BytesIO(noise.randbytes(member.size)))
        path.with_suffix(".partial").rename(path)
    return path


def _many_files(rounds: int, roots: Roots) -> Row:
    ours, peer, _size = _in_turn(many_files(), _unpack, rounds, roots)
    note = "300,000 files of 200 bytes, whole command, synced"
    return Row("convert a layer of small files", ours, peer, "GNU tar x, sync", Goal(5, unit="s"), note=note)


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _decompress_and_hash(layer: Path) -> None:
    """The least that anybody must do with a layer, by the fastest programs that Debian has for it."""
    line = f'{IGZIP / "igzip"} -dc "$1" | openssl dgst -sha256'
    subprocess.run(["sh", "-c", line, "sh", layer], stdout=subprocess.DEVNULL, check=True)


def _unpack(layer: Path, output: Path) -> None:
    output.mkdir()
    subprocess.run(["sh", "-c", 'tar xf "$1" -C "$2" && sync -f "$2"', "sh", layer, output], check=True)


def _build(layer: Path, output: Path) -> None:
    subprocess.run([COMMAND, "layer", "build", layer, "-o", output], stdout=subprocess.DEVNULL, check=True)
