"""What a cache may write: granted exactly, before it is written, and with a reserve of the disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagecache.builder.bundle_builder import BuildSettings, BundleBuilder
from imagecache.builder.resolve_platforms import Platforms
from imagecache.builder.size_limit import SizeLimit
from imagecache.clock import SystemClock
from imagecache.errors import ImageTooLarge, NoSpace
from imagecache.limits import GIB, MIB
from imagecache.store.free_space import Reserve
from imagecache.store.store import Store
from testkit.images_oci import AMD64, memory_image
from testkit.registry import MemorySource
from testkit.tars import Entry, tar


def test_the_last_bytes_are_granted_exactly() -> None:
    limit = SizeLimit(100)
    with limit.share() as one, limit.share() as two:
        assert one.ask(60) == 60
        assert one.ask(50) == 60
        assert two.ask(40) == 40
        for share in (one, two):
            with pytest.raises(ImageTooLarge, match="imageCacheSize"):
                share.ask(61)
        assert limit.left == 0
    assert limit.left == 100


def test_while_there_is_much_left_a_step_more_is_granted() -> None:
    limit = SizeLimit(GIB)
    with limit.share() as share:
        assert share.ask(MIB) == 5 * MIB
        assert limit.left == GIB - 5 * MIB
        assert share.ask(GIB - 256 * MIB + 1) == GIB - 256 * MIB + 1


def test_what_is_counted_by_its_name_is_not_counted_as_a_share() -> None:
    limit = SizeLimit(100)
    with limit.share() as share:
        share.ask(70)
        share.clear()
        limit.take("layers/a", 65)
        assert limit.left == 35
    assert limit.left == 35


def test_a_refused_share_keeps_what_it_has() -> None:
    limit = SizeLimit(100)
    with limit.share() as share:
        share.ask(70)
        with pytest.raises(ImageTooLarge):
            share.ask(101)
        assert limit.left == 30


def test_the_reserve_is_asked_for_what_comes_in_addition() -> None:
    asked: list[int] = []
    limit = SizeLimit(100, asked.append)
    with limit.share() as share:
        share.ask(60)
        share.ask(60)
        share.ask(70)
    assert asked == [60, 10]


def test_the_reserve_of_a_disk(tmp_path: Path) -> None:
    Reserve(tmp_path, 0.0).check(MIB)
    with pytest.raises(NoSpace, match=r"store_reserve: 0\.999 of the disk") as caught:
        Reserve(tmp_path, 0.999).check(MIB)
    assert "set store_reserve lower" in caught.value.hint
    with pytest.raises(NoSpace):
        Reserve(tmp_path, 0.0).check(1 << 62)


async def _build(store: Store, layers: list[bytes], *, size_limit: int = GIB, reserve: float = 0.0) -> None:
    builder = BundleBuilder(store, SystemClock(), BuildSettings(jobs=2, reserve=reserve))
    await builder.build(
        "imc-" + "a" * 20,
        ["app:1"],
        platforms=Platforms((AMD64,), complete=True),
        size_limit=size_limit,
        source=MemorySource({"app:1": memory_image(layers)}),
        emit=lambda _event: None,
    )


def _layers(*sizes: int) -> list[bytes]:
    return [tar(Entry(b"f%d" % number, content=bytes(size))) for number, size in enumerate(sizes)]


async def test_a_cache_of_exactly_its_size_is_built(tmp_path: Path) -> None:
    layers = _layers(3 * MIB, 2 * MIB)
    await _build(Store.open(tmp_path / "one"), layers)
    sizes = [path.stat().st_size for path in (tmp_path / "one" / "layers").rglob("*") if path.is_file()]
    assert len(sizes) == 2
    await _build(Store.open(tmp_path / "two"), layers, size_limit=sum(sizes))
    store = Store.open(tmp_path / "three")
    with pytest.raises(ImageTooLarge, match="imageCacheSize"):
        await _build(store, layers, size_limit=sum(sizes) - 1)
    assert store.bundles.all() == []


async def test_no_download_takes_the_reserve(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    with pytest.raises(NoSpace, match="store_reserve"):
        await _build(store, _layers(2 * MIB), reserve=0.9999)
    assert store.usage().downloads == 0
