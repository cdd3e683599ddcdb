"""Damaged layers: any bytes end in a tree or in an error of ours, soon and in little memory.

Seeds are fixed; ``IMAGECACHE_FUZZ_ROUNDS`` asks for more of them.
"""

import gzip
import io
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from imagecache.errors import ImageCacheError
from imagecache.layer.assemble import Assembler, LayerTree, assemble
from imagecache.layer.budget import Budget
from imagecache.layer.compression import Compression, Decompressor
from imagecache.layer.implied_directories import resolve_implied
from imagecache.layer.tar_reader import TarSource, entries
from imagecache.layer.tar_sources import ChunkSource, FileSource
from imagecache.limits import DEFAULT, Limits
from testkit.hostile_tars import CONTAINED, REFUSED, Contained, Refused
from testkit.tars import BLOCK, random_image
from testkit.trees import MemoryTree

_ROUNDS = int(os.environ.get("IMAGECACHE_FUZZ_ROUNDS", "150"))
_BUDGET = 5.0
"""Seconds of processor time for one damaged layer: a hundred times what one takes."""
_ATTACKS: list[Refused | Contained] = [*REFUSED.values(), *CONTAINED.values()]
_TABLE = [attack.data for attack in _ATTACKS if len(attack.data) < 200_000]


def _damaged(seed: int) -> bytes:
    rng = random.Random(seed)
    data = bytearray(rng.choice((rng.choice(_TABLE), b"".join(random_image(seed, 2)).replace(bytes(1024), b""))))
    for _ in range(rng.randint(1, 6)):
        _damage(data, rng)
    for start in range(0, len(data) - BLOCK + 1, BLOCK):
        if rng.random() < 0.9 and data[start + 257 : start + 262] == b"ustar":
            _sum_up(data, start)
    return bytes(data)


def _damage(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    roll = rng.random()
    if roll < 0.5 and at < len(data):
        data[at] = rng.choice((0, 0x20, 0x2F, 0x31, 0x37, 0x80, 0xFF, rng.randrange(256)))
    elif roll < 0.7:
        start = at // BLOCK * BLOCK
        data[start:start] = data[rng.randrange(len(data) + 1) // BLOCK * BLOCK :][: BLOCK * rng.randint(1, 3)]
    elif roll < 0.85:
        start = at // BLOCK * BLOCK
        del data[start : start + BLOCK]
    else:
        del data[at:]


def _sum_up(data: bytearray, start: int) -> None:
    """Make the checksum of a header right again, so that the damage gets through to the fields."""
    data[start + 148 : start + 156] = b" " * 8
    data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + BLOCK])


def _in_full(source: TarSource, *, bottom: bool, limits: Limits) -> LayerTree:
    """``assemble`` without the shorter way for plain files."""
    budget = Budget(limits)
    assembler = Assembler(bottom=bottom, limits=limits, budget=budget)
    for entry in entries(source, limits, budget):
        assembler.add(entry)
    return assembler.finish()


def _outcome(source: TarSource, *, bottom: bool, make: Callable[..., LayerTree] = assemble) -> str:
    """The tree as text, resolved on top of itself; or the error."""
    started = time.process_time()
    try:
        tree = make(source, bottom=bottom, limits=DEFAULT)
        outcome = repr(tree)
        resolve_implied(tree, [MemoryTree(tree.root)])
    except ImageCacheError as error:
        outcome = repr(error)
    assert time.process_time() - started < _BUDGET
    return outcome


@pytest.mark.parametrize("batch", range(4))
def test_damaged_tars(batch: int, tmp_path: Path) -> None:
    """Streamed or out of a file, with the shorter way for plain files or without, the end is the same."""
    path = tmp_path / "tar"
    for seed in range(batch * _ROUNDS, (batch + 1) * _ROUNDS):
        data = _damaged(seed)
        chunks = [data[at : at + 999] for at in range(0, len(data), 999)]
        streamed = _outcome(ChunkSource(chunks), bottom=seed % 2 == 0)
        path.write_bytes(data)
        with path.open("rb") as file:
            assert _outcome(FileSource(file, 0, len(data)), bottom=seed % 2 == 0) == streamed
        assert _outcome(ChunkSource(chunks), bottom=seed % 2 == 0, make=_in_full) == streamed


@pytest.mark.parametrize("kind", [Compression.GZIP, Compression.ZSTD])
def test_damaged_streams(kind: Compression) -> None:
    plain = b"".join(random_image(7, 4)) * 3
    packed = gzip.compress(plain, mtime=0) if kind is Compression.GZIP else _zstd_frames(plain)
    for seed in range(_ROUNDS):
        rng = random.Random(seed)
        data = bytearray(packed)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        del data[rng.randrange(len(data)) if rng.random() < 0.3 else len(data) :]
        stream = Decompressor(kind, DEFAULT)
        started = time.process_time()
        try:
            for at in range(0, len(data), 777):
                for piece in stream.feed(memoryview(data)[at : at + 777]):
                    assert len(piece) <= 4 << 20
            stream.finish()
        except ImageCacheError:
            pass
        assert time.process_time() - started < _BUDGET


def _zstd_frames(data: bytes) -> bytes:
    file = io.BytesIO()
    for start in range(0, len(data), 9000):
        file.write(zstandard.ZstdCompressor(write_checksum=start % 2 == 0).compress(data[start : start + 9000]))
    return file.getvalue()
