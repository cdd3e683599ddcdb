"""Which chunks of a sparse file have data, and the table of them."""

from __future__ import annotations

import random
import time
from array import array

import pytest

from imagecache.erofs.chunks import Chunks, choose
from imagecache.errors import LimitExceeded
from imagecache.limits import DEFAULT, GIB, KIB, MIB, TIB
from imagecache.tree import Segment

MOST = DEFAULT.sparse_chunks


def pieces(*spans: tuple[int, int]) -> list[Segment]:
    """(offset, length) in turn; behind each other in the tar."""
    found, source = [], 0
    for offset, length in spans:
        found.append(Segment(offset, source, length))
        source += length
    return found


def table(chunks: Chunks, address: int = 100) -> list[int | None]:
    data = b"".join(chunks.table(address))
    found = [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]
    assert len(found) == chunks.entries
    return [None if entry == 2**32 - 1 else entry for entry in found]


def test_a_file_of_nothing_but_a_hole_has_one_entry() -> None:
    for size in (1, 512, 513, 8 * GIB, TIB):
        chunks = choose([], size, 9, MOST)
        assert (chunks.entries, chunks.stored, table(chunks)) == (1, 0, [None])
        assert 1 << 9 + chunks.bits >= size


def test_a_piece_at_each_place() -> None:
    size = 64 * KIB
    hole: list[int | None] = [None] * 8
    for at, spans in ((0, (0, 1)), (3, (3 * 8192 + 5, 8000)), (7, (size - 1, 1))):
        chunks = Chunks(size, 9, 4, *_runs(at))
        assert table(chunks) == [*hole[:at], 100, *hole[at + 1 :]]
        assert list(chunks.places(pieces(spans))) == [(spans[0] % 8192, Segment(spans[0], 0, spans[1]))]


def _runs(*numbers: int) -> tuple[array[int], array[int]]:
    return array("Q", numbers), array("Q", [number + 1 for number in numbers])


def test_chunks_with_data_lie_behind_each_other() -> None:
    segments = pieces((0, 600), (1500, 1), (1501, 30), (10_000, 3000), (20_000, 0), (30_000, 1000))
    chunks = choose(segments, 31_000, 9, MOST)
    assert chunks.bits == 0
    entries = table(chunks)
    assert [entry for entry in entries if entry is not None] == list(range(100, 100 + chunks.stored // 512))
    assert {at for at, entry in enumerate(entries) if entry is not None} == {
        *(0, 1, 2),
        *range(10_000 // 512, 12_999 // 512 + 1),
        *range(30_000 // 512, 30_999 // 512 + 1),
    }
    for place, segment in chunks.places(segments):
        entry = entries[segment.offset // 512]
        assert entry is not None
        assert place == (entry - 100) * 512 + segment.offset % 512
    assert [segment for _, segment in chunks.places(segments)] == [each for each in segments if each.length]


def test_the_copy_ends_with_the_last_block() -> None:
    """A chunk of a megabyte at the end of a file has no bytes behind it."""
    chunks = choose(pieces((0, 1), (9 * MIB, 600)), 9 * MIB + 600, 9, 10)
    assert (1 << 9 + chunks.bits, chunks.entries) == (MIB, 10)
    assert chunks.stored == MIB + 1024
    assert table(chunks) == [100, *[None] * 8, 100 + 2048]
    assert choose(pieces((0, 700)), 700, 9, MOST).stored == 1024


@pytest.mark.parametrize("seed", range(20))
def test_no_other_power_takes_less(seed: int) -> None:
    rng = random.Random(seed)
    size = rng.choice([5000, 200_000, 5 * MIB])
    cuts = sorted(rng.sample(range(size), 2 * rng.randrange(1, 40)))
    segments = pieces(*((start, end - start) for start, end in zip(cuts[::2], cuts[1::2], strict=True)))
    chosen = choose(segments, size, 9, MOST)
    for bits in range((size - 1 >> 9).bit_length() + 1):
        shift = 9 + bits
        numbers = {n for s in segments for n in range(s.offset >> shift, (s.offset + s.length - 1 >> shift) + 1)}
        entries = -(-size >> shift)
        stored = sum((min(size, number + 1 << shift) - (number << shift) + 511) // 512 * 512 for number in numbers)
        assert chosen.cost <= 4 * entries + stored
        if bits == chosen.bits:
            assert (chosen.entries, chosen.stored) == (entries, stored)
            assert {at for at, entry in enumerate(table(chosen)) if entry is not None} == numbers
        elif bits > chosen.bits:
            assert chosen.cost < 4 * entries + stored


def test_a_piece_in_a_terabyte_is_small() -> None:
    assert choose(pieces((TIB - 1, 1)), TIB, 9, MOST).cost <= 4 * MIB
    middle = choose(pieces((4 * GIB, 1)), 8 * GIB, 9, MOST)
    # 128 KiB a chunk would take as much
    assert (1 << 9 + middle.bits, middle.cost) == (256 * KIB, 384 * KIB)


def test_a_table_is_bounded() -> None:
    free, bounded = (choose(pieces((5, 1)), GIB, 9, most) for most in (MOST, 1000))
    assert (free.entries, bounded.entries) == (16_384, 512)
    with pytest.raises(LimitExceeded, match="EROFS can describe"):
        choose([], 2**41, 9, 1)


def test_tables_come_in_pieces() -> None:
    chunks = choose(pieces((0, MIB)), GIB, 9, MOST)
    large = Chunks(GIB, 9, 0, chunks.firsts, chunks.ends)
    assert [len(part) for part in large.table(0)][-1] <= MIB
    assert sum(map(len, large.table(0))) == 8 * MIB
    assert max(map(len, large.table(0))) == MIB


def test_as_many_pieces_as_a_layer_may_have_take_seconds() -> None:
    """``tree_bytes`` and ``tree_steps`` allow some 400,000."""
    gap = TIB // 400_000
    segments = pieces(*((at * gap, 1) for at in range(400_000)))
    start = time.process_time()
    chunks = choose(segments, TIB, 9, MOST)
    assert sum(map(len, chunks.table(8))) == 4 * chunks.entries
    assert sum(1 for _ in chunks.places(segments)) == 400_000
    assert time.process_time() - start < 20
    assert chunks.cost < 8 * GIB
