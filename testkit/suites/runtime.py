"""What prepull mode relies on in a container runtime. The fake and containerd's CRI pass it."""

from __future__ import annotations

import pytest

from imagecache.containerd.prepull import Runtime
from imagecache.errors import PullFailed


class RuntimeSuite:
    """A subclass has the fixtures ``runtime`` (without the images), ``name`` (in a registry) and ``absent`` (not)."""

    async def test_pulled_and_removed(self, runtime: Runtime, name: str) -> None:
        assert await runtime.image(name) is None
        await runtime.pull(name)
        await runtime.pull(name)
        found = await runtime.image(name)
        assert found is not None
        assert found.id
        assert name in found.names
        await runtime.remove(name)
        await runtime.remove(name)
        assert await runtime.image(name) is None

    async def test_what_no_registry_has(self, runtime: Runtime, absent: str) -> None:
        with pytest.raises(PullFailed, match="not found"):
            await runtime.pull(absent)
        assert await runtime.image(absent) is None

    async def test_nothing_is_in_use(self, runtime: Runtime, name: str) -> None:
        await runtime.pull(name)
        found = await runtime.image(name)
        assert found is not None
        assert not await runtime.in_use() & {found.id, *found.names}
