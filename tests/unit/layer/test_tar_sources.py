import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagecache.layer.tar_reader import TarSource
from imagecache.layer.tar_sources import ChunkSource, FileSource

_DATA = bytes(range(256)) * 40


@pytest.fixture(params=["chunks", "large chunks", "file"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TarSource]:
    """Each kind over the same bytes."""
    if request.param != "file":
        size = 100 if request.param == "chunks" else 9000
        yield ChunkSource(iter([b"", *(_DATA[at : at + size] for at in range(0, len(_DATA), size)), b""]))
        return
    path = tmp_path / "file"
    path.write_bytes(b"before" + _DATA + b"behind")
    with path.open("rb") as file:
        yield FileSource(file, 6, len(_DATA))


def test_read_skip_and_tell(source: TarSource) -> None:
    assert (source.read(10), source.tell()) == (_DATA[:10], 10)
    assert (source.skip(500), source.tell()) == (500, 510)
    assert (source.read(512), source.tell()) == (_DATA[510:1022], 1022)
    assert (source.skip(0), source.read(0), source.tell()) == (0, b"", 1022)
    assert (source.skip(6000), source.read(3)) == (6000, _DATA[7022:7025])


def test_the_end_is_short(source: TarSource) -> None:
    assert source.skip(len(_DATA) - 5) == len(_DATA) - 5
    assert source.read(10) == _DATA[-5:]
    assert (source.read(10), source.skip(10), source.tell()) == (b"", 0, len(_DATA))


def test_skipping_past_the_end_counts_what_there_was(source: TarSource) -> None:
    source.read(1)
    assert source.skip(1 << 40) == len(_DATA) - 1
    assert source.tell() == len(_DATA)


def test_every_byte_in_small_reads(source: TarSource) -> None:
    pieces = iter(lambda: source.read(77), b"")
    assert b"".join(pieces) == _DATA


def test_chunks_are_taken_only_as_needed() -> None:
    taken = 0

    def chunks() -> Iterator[bytes]:
        nonlocal taken
        for _ in range(5):
            taken += 1
            yield bytes(100)

    source = ChunkSource(chunks())
    source.read(150)
    assert taken == 2
    assert (source.drain(), taken, source.tell()) == (350, 5, 500)
    assert source.drain() == 0


def test_small_files_cost_few_system_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(1024 * 2000))
    calls = _counted(monkeypatch)
    with path.open("rb") as file:
        source = FileSource(file, 0, 1024 * 2000)
        for _ in range(2000):
            assert len(source.read(512)) == 512
            source.skip(512)
    assert len(calls) < 20


def test_large_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    calls = _counted(monkeypatch)
    with path.open("rb") as opened:
        source = FileSource(opened, 0, 1 << 30)
        while source.read(512):
            source.skip(10 << 20)
    assert sum(calls) <= 4096 * 2 * 104


def test_a_file_shorter_than_it_should_be(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(700))
    with path.open("rb") as file:
        source = FileSource(file, 0, 1000)
        assert (len(source.read(512)), len(source.read(400)), source.tell()) == (512, 188, 700)


def _counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of all preads from here on."""
    calls: list[int] = []
    real = os.pread

    def pread(descriptor: int, size: int, offset: int) -> bytes:
        calls.append(size)
        return real(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", pread)
    return calls
