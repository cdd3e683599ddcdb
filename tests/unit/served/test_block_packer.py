"""Blocks are compressed once, by few threads, and only where that is worth it."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from imagecache.digest import Digest
from imagecache.errors import StoreCorrupt
from imagecache.layer import frames
from imagecache.limits import MIB
from imagecache.served.block_packer import BlockPacker, Source
from imagecache.store.layer_name import LayerName, Space
from imagecache.store.packed_blocks import PackedBlocks
from imagecache.store.paths import StorePaths

CONTENT = b"all alike " * 100_000
NOISE = random.Random(5).randbytes(100_000)
NAME = LayerName(space=Space.LAYERS, digest=Digest.sha256(CONTENT))


@pytest.fixture
def paths(tmp_path: Path) -> StorePaths:
    return StorePaths(tmp_path)


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Source]:
    path = tmp_path / "layer"
    path.write_bytes(NOISE + CONTENT)
    fd = os.open(path, os.O_RDONLY)
    yield Source(NAME, 0, fd, (len(NOISE), len(NOISE) + len(CONTENT)))
    os.close(fd)


def body(packer: BlockPacker, source: Source) -> bytes | None:
    with ExitStack() as held:
        found = packer.packed(source, memoryview(bytearray(1000)), held)
        if found is None:
            return None
        content = b"".join(bytes(piece) for piece in found.pieces)
        assert len(content) == found.length
        return content


def unpacked(packed: bytes | None) -> bytes:
    assert packed is not None
    block = bytearray(len(CONTENT))
    frames.unpack(memoryview(packed), memoryview(block))
    return bytes(block)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the blocks that are compressed from now on."""
    calls: list[int] = []
    pack = frames.pack

    def counting(block: memoryview) -> bytes:
        calls.append(len(block))
        return pack(block)

    monkeypatch.setattr(frames, "pack", counting)
    return calls


@pytest.mark.parametrize("most", [MIB, 0])
def test_a_block_now_and_again(paths: StorePaths, source: Source, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch)
    packer = BlockPacker(PackedBlocks(paths, most), 1)

    first, again = body(packer, source), body(packer, source)

    assert unpacked(first) == unpacked(again) == CONTENT
    assert len(calls) == (1 if most else 2)


def test_what_gets_no_smaller_is_tried_once(paths: StorePaths, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch)
    packer = BlockPacker(PackedBlocks(paths, MIB), 1)
    noise = Source(NAME, 3, source.fd, (0, len(NOISE)))

    assert (body(packer, noise), body(packer, noise)) == (None, None)
    assert calls == [len(NOISE)]
    assert body(packer, source) is not None


class Slow:
    """Compresses when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self.calls = 0
        self._pack = frames.pack
        monkeypatch.setattr(frames, "pack", self)

    def __call__(self, block: memoryview) -> bytes:
        self.calls += 1
        self.begun.set()
        self.go.wait(10)
        return self._pack(block)

    def thrice(self, packer: BlockPacker, source: Source) -> list[bytes | None]:
        """What three threads get; the second and third one ask while the first one compresses."""
        found: list[bytes | None] = []
        threads = [threading.Thread(target=lambda: found.append(body(packer, source))) for _ in range(3)]
        threads[0].start()
        assert self.begun.wait(10)
        for thread in threads[1:]:
            thread.start()
        self.go.set()
        for thread in threads:
            thread.join(10)
        return found


def test_who_asks_for_a_block_that_is_being_compressed_waits_for_that(
    paths: StorePaths, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, packer = Slow(monkeypatch), BlockPacker(PackedBlocks(paths, MIB), 2)

    found = slow.thrice(packer, source)

    assert [unpacked(each) == CONTENT for each in found] == [True] * 3
    assert slow.calls == 1


@pytest.mark.parametrize("most", [MIB, 0])
def test_what_is_not_kept_holds_its_processor_until_it_is_sent(paths: StorePaths, source: Source, most: int) -> None:
    """Else slow readers would have the server hold any number of blocks in memory."""
    packer = BlockPacker(PackedBlocks(paths, most), 1)
    other = Source(NAME, 1, source.fd, source.span)
    with ExitStack() as held:
        assert packer.packed(source, memoryview(bytearray(1000)), held) is not None
        assert (body(packer, other) is not None) is bool(most)

    assert body(packer, other) is not None


def test_who_waited_for_what_is_not_worth_it_does_not_try_again(
    paths: StorePaths, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, packer = Slow(monkeypatch), BlockPacker(PackedBlocks(paths, MIB), 2)

    found = slow.thrice(packer, Source(NAME, 3, source.fd, (0, len(NOISE))))

    assert (found, slow.calls) == ([None] * 3, 1)


def test_other_blocks_do_not_wait_for_a_processor(
    paths: StorePaths, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, packer = Slow(monkeypatch), BlockPacker(PackedBlocks(paths, MIB), 1)
    thread = threading.Thread(target=lambda: body(packer, source))
    thread.start()
    assert slow.begun.wait(10)

    assert body(packer, Source(NAME, 1, source.fd, source.span)) is None
    slow.go.set()
    thread.join(10)

    assert body(packer, Source(NAME, 1, source.fd, source.span)) is not None


def test_a_file_that_ends_too_early_is_told_and_holds_nothing_up(paths: StorePaths, source: Source) -> None:
    packer = BlockPacker(PackedBlocks(paths, MIB), 1)
    beyond = Source(NAME, 9, source.fd, (0, 10 * MIB))

    for _ in range(2):
        with pytest.raises(StoreCorrupt, match="ends at byte"):
            body(packer, beyond)
    assert body(packer, source) is not None
