"""The suite of ``ImageSource`` on the fake, and on the registry client in front of a fake registry."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from imagecache.builder.image_source import ImageSource
from imagecache.registry.client import RegistryClient
from imagecache.registry.config import RegistryConfig
from imagecache.registry.listed_hosts import ListedHosts
from testkit.images_oci import MemoryImage
from testkit.registry import FakeRegistry, MemorySource
from testkit.suites.image_source import ImageSourceSuite, Origin


@dataclass
class MemoryOrigin:
    source: MemorySource

    def publish(self, name: str, image: MemoryImage) -> str:
        self.source.add(f"memory.example/{name}", image)
        return f"memory.example/{name}"


@dataclass
class HttpOrigin:
    source: ImageSource
    registry: FakeRegistry

    def publish(self, name: str, image: MemoryImage) -> str:
        self.registry.public.add(name.partition(":")[0])
        return self.registry.push(name, image)


class TestMemorySource(ImageSourceSuite):
    @pytest.fixture
    def origin(self) -> Origin:
        return MemoryOrigin(MemorySource())


class TestRegistryClient(ImageSourceSuite):
    auth = ""

    @pytest.fixture
    async def origin(self) -> AsyncIterator[Origin]:
        async with FakeRegistry(auth=self.auth) as registry:
            registry.public.add("team/nothing")
            config = RegistryConfig(listed=ListedHosts(loopback=True), plain_http=frozenset({registry.address}))
            async with RegistryClient(config) as client:
                yield HttpOrigin(client, registry)


class TestRegistryClientWithTokens(TestRegistryClient):
    """Anonymous tokens: the images stay public."""

    auth = "bearer"
