"""How far a layer image is, and the wait for more of it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from imagecache.digest import Digest
from imagecache.errors import BlobNotFound, MalformedLayer, StoreBusy
from imagecache.served.partial_layers import PartialLayers, PartialLayerSettings
from imagecache.served.store_reader import StoreReader
from imagecache.store.layer_name import LayerName, Space
from imagecache.store.store import Store
from testkit.partial_layer import NO_HEAD, PartialLayerWriter
from testkit.store import put_layer

NAME = LayerName(space=Space.LAYERS, digest=Digest.sha256(b"layer"))
TAR = bytes(range(256)) * 20
FIRST = len(NO_HEAD)
END = FIRST + len(TAR)
LONG = PartialLayerSettings(timeout=60, poll_interval=0.001)
Found = tuple[bytes, int | None]


class Watched(StoreReader):
    """Counts the looks at a layer image that is being made."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._looks = 0
        self._looked = threading.Condition()

    def tar_extent(self, fd: int) -> tuple[int, bool]:
        found = super().tar_extent(fd)
        with self._looked:
            self._looks += 1
            self._looked.notify_all()
        return found

    def wait_for_looks(self) -> None:
        """Until somebody has looked at the layer image as it is now, and looks again since it is not enough."""
        with self._looked:
            enough = self._looks + 3  # the first may have begun before
            assert self._looked.wait_for(lambda: self._looks >= enough, timeout=30)


@pytest.fixture
def reader(store: Store) -> Watched:
    return Watched(store.root)


@pytest.fixture
def making(store: Store) -> Iterator[PartialLayerWriter]:
    with PartialLayerWriter(store, NAME) as making:
        making.write(NO_HEAD)
        yield making


def descriptors() -> set[tuple[str, str]]:
    """Numbers, and what they stand for."""
    found = set[tuple[str, str]]()
    for number in os.listdir("/proc/self/fd"):  # noqa: PTH208 - the numbers, not paths
        with suppress(FileNotFoundError):  # that of the list itself
            found.add((number, os.readlink(f"/proc/self/fd/{number}")))  # noqa: PTH115 - a target that is no path
    return found


@contextmanager
def nothing_left_open() -> Iterator[None]:
    before = descriptors()
    yield
    assert descriptors() <= before


def ask(layers: PartialLayers, start: int, end: int) -> Found:
    """The bytes that are there of a range, and the size of the whole."""
    with nothing_left_open():
        layer = layers.wait(NAME, start, end)
        try:
            length = max(0, min(layer.end, end) - start)
            found = os.pread(layer.fd, length, start)
            assert len(found) == length
            return found, layer.size
        finally:
            os.close(layer.fd)


def at_once(reader: StoreReader, start: int, end: int) -> Found:
    """A wait would end with StoreBusy."""
    layers = PartialLayers(reader, LONG)
    layers.close()
    return ask(layers, start, end)


@contextmanager
def waiting(reader: Watched, layers: PartialLayers, start: int, end: int) -> Iterator[Future[Found]]:
    """Somebody waits for a range, in a thread that has ended when the block has."""

    def wait() -> Found:
        layer = layers.wait(NAME, start, end)
        with open(layer.fd, "rb") as file:  # noqa: PTH123 - a descriptor
            file.seek(start)
            return file.read(max(0, min(layer.end, end) - start)), layer.size

    with nothing_left_open(), ThreadPoolExecutor(1) as threads:
        found = threads.submit(wait)
        reader.wait_for_looks()
        yield found


def test_what_is_there_is_had_at_once(reader: Watched, making: PartialLayerWriter) -> None:
    making.write(TAR)

    assert at_once(reader, FIRST, END) == (TAR, None)
    assert at_once(reader, FIRST + 100, FIRST + 200) == (TAR[100:200], None)


def test_what_is_not_there_is_waited_for(reader: Watched, making: PartialLayerWriter) -> None:
    making.write(TAR[:100])
    with pytest.raises(StoreBusy):
        at_once(reader, FIRST, FIRST + 200)

    with waiting(reader, PartialLayers(reader, LONG), FIRST, FIRST + 200) as found:
        making.write(TAR[100:150])
        reader.wait_for_looks()
        assert not found.done()
        making.write(TAR[150:300])

        assert found.result() == (TAR[:200], None)


@pytest.mark.parametrize(("start", "there"), [(0, 100), (99, 1), (100, 0), (500, 0)])
def test_the_timeout_returns_what_is_written(
    reader: Watched, making: PartialLayerWriter, start: int, there: int
) -> None:
    making.write(TAR[:100])
    layers = PartialLayers(reader, PartialLayerSettings(timeout=0.01, poll_interval=0.001))

    assert ask(layers, FIRST + start, END) == (TAR[start : start + there], None)


def test_the_tail_of_a_whole_tar_is_had_at_once(reader: Watched, making: PartialLayerWriter) -> None:
    making.write(TAR)
    making.note_tar(len(TAR))

    assert at_once(reader, FIRST + 5000, END + 10_000) == (TAR[5000:], None)
    assert at_once(reader, FIRST + 5000, END) == (TAR[5000:], None)


@pytest.mark.parametrize("start", [END, END + 1])
def test_nothing_behind_a_tar_is_had_before_the_layer_is_finished(
    reader: Watched, making: PartialLayerWriter, start: int
) -> None:
    making.write(TAR)
    making.note_tar(len(TAR))
    making.write(b"a filesystem, perhaps" * 100)

    assert at_once(reader, FIRST, END + 50) == (TAR, None)
    with pytest.raises(StoreBusy):
        at_once(reader, start, END + 50)
    assert ask(PartialLayers(reader, PartialLayerSettings(timeout=0)), start, END + 50) == (b"", None)


def test_a_tar_is_only_there_as_far_as_the_file_is(reader: Watched, making: PartialLayerWriter) -> None:
    making.write(TAR[:100])
    making.note_tar(len(TAR))

    assert at_once(reader, FIRST, END) == (TAR[:100], None)


def test_a_layer_that_is_finished_while_somebody_waits(reader: Watched, making: PartialLayerWriter) -> None:
    making.write(TAR)
    making.note_tar(len(TAR))

    with waiting(reader, PartialLayers(reader, LONG), END, END + 10_000) as found:
        making.write(b"a filesystem")
        reader.wait_for_looks()
        assert not found.done()
        making.finish()

        assert found.result() == (b"a filesystem", END + 12)


@pytest.mark.parametrize("content", [b"", b"content"])
def test_a_finished_layer_is_never_waited_for(reader: Watched, store: Store, content: bytes) -> None:
    put_layer(store, NAME, content)

    assert at_once(reader, 0, 100) == (content, len(content))
    assert at_once(reader, 50, 100) == (b"", len(content))


def test_too_many_wait(reader: Watched, making: PartialLayerWriter) -> None:
    layers = PartialLayers(reader, PartialLayerSettings(waiters=1, timeout=60, poll_interval=0.001))

    with waiting(reader, layers, FIRST, FIRST + 1) as found:
        with pytest.raises(StoreBusy, match="too many"):
            layers.wait(NAME, FIRST, FIRST + 1)
        making.write(TAR)
        assert found.result() == (TAR[:1], None)
    for _ in range(3):  # a caller that is done frees its place
        assert ask(layers, FIRST, END) == (TAR, None)


def test_closing_ends_every_wait(reader: Watched, making: PartialLayerWriter) -> None:
    layers = PartialLayers(reader, LONG)

    with waiting(reader, layers, FIRST, END) as one, waiting(reader, layers, FIRST + 1, END) as other:
        layers.close()

        for found in (one, other):
            with pytest.raises(StoreBusy, match="stopping"):
                found.result()
    making.write(TAR)
    assert ask(layers, FIRST, END) == (TAR, None)


def test_what_nobody_makes(reader: Watched) -> None:
    with pytest.raises(BlobNotFound):
        at_once(reader, 0, 1)


def test_a_layer_that_is_given_up_while_somebody_waits(reader: Watched, making: PartialLayerWriter) -> None:
    with waiting(reader, PartialLayers(reader, LONG), FIRST, END) as found:
        making.abandon()

        with pytest.raises(BlobNotFound):
            found.result()


def test_a_layer_that_is_begun_again_while_somebody_waits(reader: Watched, making: PartialLayerWriter) -> None:
    making.write(b"wrong")
    with waiting(reader, PartialLayers(reader, LONG), FIRST, END) as found:
        making.start_again()
        reader.wait_for_looks()
        making.write(NO_HEAD + TAR)

        assert found.result() == (TAR, None)


def test_a_file_that_is_no_layer_image_is_not_kept_open(reader: Watched, store: Store) -> None:
    with PartialLayerWriter(store, NAME) as making:
        making.write(b"x" * FIRST)

        with nothing_left_open(), pytest.raises(MalformedLayer):
            PartialLayers(reader, LONG).wait(NAME, 0, 1)
