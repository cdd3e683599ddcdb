"""The suite of ``TagReader`` on the fake, and on a process that asks a fake registry."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from imagecache.controller.dependencies import TagReader
from imagecache.controller.tag_process import ProcessTagReader
from imagecache.settings.flags import as_flags
from imagecache.settings.table import Settings
from testkit.images_oci import MemoryImage
from testkit.registry import FakeRegistry
from testkit.suites.tag_reader import TagOrigin, TagReaderSuite
from testkit.tags import FakeTagReader


@dataclass
class MemoryOrigin:
    reader: FakeTagReader

    def publish(self, name: str, image: MemoryImage) -> str:
        self.reader.tags[f"memory.example/{name}"] = str(image.descriptor.digest)
        return f"memory.example/{name}"


@dataclass
class HttpOrigin:
    reader: TagReader
    registry: FakeRegistry

    def publish(self, name: str, image: MemoryImage) -> str:
        self.registry.public.add(name.partition(":")[0])
        return self.registry.push(name, image)


class TestFakeTagReader(TagReaderSuite):
    @pytest.fixture
    def origin(self) -> TagOrigin:
        return MemoryOrigin(FakeTagReader())


class TestProcessTagReader(TagReaderSuite):
    auth = ""

    @pytest.fixture
    async def origin(self, tmp_path: Path) -> AsyncIterator[TagOrigin]:
        async with FakeRegistry(auth=self.auth) as registry:
            settings = Settings(store=tmp_path / "store", hosts=tmp_path / "hosts")
            yield HttpOrigin(ProcessTagReader(as_flags(settings)), registry)


class TestProcessTagReaderWithTokens(TestProcessTagReader):
    """Anonymous tokens: the images stay public."""

    auth = "bearer"
