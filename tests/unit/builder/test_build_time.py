"""Nothing that a registry does holds a build without end, and what has arrived is kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from imagecache.builder.build_time import build_time
from imagecache.builder.bundle_builder import BuildSettings, BundleBuilder
from imagecache.builder.resolve_platforms import Platforms
from imagecache.clock import SystemClock
from imagecache.errors import RegistryUnavailable
from imagecache.limits import GIB, Limits
from imagecache.oci.descriptor import Descriptor
from imagecache.oci.reference import Reference
from imagecache.oci.resolved import Resolved
from imagecache.store.bundle_document import Bundle
from imagecache.store.store import Store
from testkit.images import tar_of
from testkit.images_oci import AMD64, MemoryImage, memory_image
from testkit.registry import MemorySource

ID = "imc-" + "a" * 20
NOISE = bytes(range(256)) * 4096


class Dripping(MemorySource):
    """After its first bytes, a layer never ends."""

    async def stream(self, reference: Reference, descriptor: Descriptor, offset: int = 0) -> AsyncGenerator[bytes]:
        async for chunk in super().stream(reference, descriptor, offset):
            yield chunk
            await asyncio.Event().wait()


class Silent(MemorySource):
    async def resolve(self, reference: Reference) -> Resolved:
        await asyncio.Event().wait()
        return await super().resolve(reference)


@pytest.fixture
def image() -> MemoryImage:
    return memory_image([tar_of({"big": NOISE})], compression="none")


async def build(store: Store, source: MemorySource, limits: Limits) -> Bundle:
    builder = BundleBuilder(store, SystemClock(), BuildSettings(jobs=1, limits=limits))
    return await builder.build(
        ID, ["app:1"], platforms=Platforms((AMD64,)), size_limit=GIB, source=source, emit=lambda _event: None
    )


async def test_a_layer_that_never_ends(tmp_path: Path, image: MemoryImage) -> None:
    store = Store.open(tmp_path)

    with pytest.raises(RegistryUnavailable, match=r"did not end within .* MiB of compressed layers") as caught:
        await build(store, Dripping({"app:1": image}), Limits(build_time=0.5, build_rate=GIB))

    assert "is kept" in caught.value.hint
    kept = [file.stat().st_size for file in store.paths.downloads.iterdir() if file.is_file()]
    assert max(kept, default=0) > 0
    source = MemorySource({"app:1": image})
    assert (await build(store, source, Limits())).images[0].layers


async def test_documents_that_never_come(tmp_path: Path, image: MemoryImage) -> None:
    with pytest.raises(RegistryUnavailable, match=r"did not end within 0\.1 s"):
        await build(Store.open(tmp_path), Silent({"app:1": image}), Limits(build_time=0.1))


async def test_time_grows_with_the_size() -> None:
    async with build_time(Limits(build_time=0.1, build_rate=1000)) as allow:
        allow(10_000_000)
        await asyncio.sleep(0.2)

    async def without_end() -> None:
        async with build_time(Limits(build_time=0.0, build_rate=1000)) as allow:
            allow(50)
            await asyncio.Event().wait()

    with pytest.raises(RegistryUnavailable, match=r"within 0\.05 s"):
        await without_end()


async def test_another_time_out_is_none_of_ours() -> None:
    with pytest.raises(TimeoutError):
        async with build_time(Limits()):
            raise TimeoutError
