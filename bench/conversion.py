"""Conversion of one layer, against the least that anybody can do with it: decompress and hash."""

from __future__ import annotations

import subprocess
import tempfile
import zlib
from pathlib import Path

from bench.pulls import timed
from bench.samples import Goal, Row, Samples
from testkit.oci_layout import Image
from testkit.peers.agent import COMMAND
from testkit.peers.programs import cache

_BLOCK = 512


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


def measure(image: Image, rounds: int) -> list[Row]:
    layer = one_layer(image)
    ours, peer = Samples(), Samples()
    with tempfile.TemporaryDirectory(dir=cache()) as directory:
        output = Path(directory, "layer.erofs")
        for _ in range(rounds):
            peer.values.append(timed(lambda: _decompress_and_hash(layer)))
            ours.values.append(timed(lambda: _build(layer, output)))
            size = output.stat().st_size
            output.unlink()
    goal = Goal("≤ 0.6×", 0.6)
    note = f"{size / 1e6:.0f} MB, whole command, on disk"
    return [Row("convert a layer vs gzip -dc | sha256sum", ours, peer, goal, note=note)]


def _decompress_and_hash(layer: Path) -> None:
    subprocess.run(["sh", "-c", 'gzip -dc "$1" | sha256sum', "sh", layer], stdout=subprocess.DEVNULL, check=True)


def _build(layer: Path, output: Path) -> None:
    subprocess.run([COMMAND, "layer", "build", layer, "-o", output], stdout=subprocess.DEVNULL, check=True)
