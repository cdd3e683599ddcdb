"""A fake registry, a client in front of it, and time that passes only when somebody sleeps."""

from __future__ import annotations

import random
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from imagecache.oci.descriptor import Descriptor
from imagecache.oci.reference import Reference
from imagecache.registry.client import RegistryClient
from imagecache.registry.config import RegistryConfig
from imagecache.registry.credentials import Credential, Credentials
from imagecache.registry.listed_hosts import ListedHosts
from testkit.images_oci import MemoryImage, memory_image
from testkit.registry import FakeRegistry, FakeTime, FixedCredentials
from testkit.served import make_certificate


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
async def registry() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry(users={"alice": "s3cr3t-word"}) as registry:
        yield registry


@pytest.fixture
async def other() -> AsyncIterator[FakeRegistry]:
    """A registry on another port, which is another host."""
    async with FakeRegistry(users={"alice": "s3cr3t-word"}) as registry:
        yield registry


@pytest.fixture
def config(registry: FakeRegistry, time: FakeTime) -> RegistryConfig:
    return RegistryConfig(
        listed=ListedHosts(loopback=True),
        plain_http=frozenset({registry.address}),
        clock=time.clock,
        sleep=time.sleep,
        backoff=replace(RegistryConfig().backoff, chance=lambda: 0.5),
    )


Connect = Callable[..., Awaitable[RegistryClient]]
SECRET = "s3cr3t-word"  # noqa: S105 - the password of the fake, and what must not be seen elsewhere
ALICE = Credential(username="alice", password=SECRET, source="secret default/pull")
CONTENT = random.Random(7).randbytes(5_000_000)
"""Of the layer of ``image``, which is stored as it is."""


@pytest.fixture
def image() -> MemoryImage:
    return memory_image([CONTENT], compression="none")


@pytest.fixture
def reference(registry: FakeRegistry, image: MemoryImage) -> Reference:
    return Reference.parse(registry.push("team/app:1", image))


async def read(client: RegistryClient, reference: Reference, layer: Descriptor, offset: int = 0) -> bytes:
    return b"".join([chunk async for chunk in client.stream(reference, layer, offset)])


def known(registry: FakeRegistry, *credentials: Credential) -> FixedCredentials:
    return FixedCredentials({registry.address: credentials or (ALICE,)})


async def is_private(client: RegistryClient, reference: Reference) -> bool:
    """Resolve the image, and say whether it is for some alone."""
    await client.resolve(reference)
    return (await client.access(reference, ())).private


@dataclass(frozen=True)
class Certificate:
    """PEM files: a certificate that is its own authority, its key, and one file with both."""

    authority: Path
    key: Path
    both: Path

    def copy(self, folder: Path) -> None:
        """As ``c.pem``, ``k.pem`` and ``both.pem``."""
        for name, file in {"c.pem": self.authority, "k.pem": self.key, "both.pem": self.both}.items():
            shutil.copy(file, folder / name)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    directory = tmp_path_factory.mktemp("certificate")
    authority, key = make_certificate(directory)
    both = directory / "both.pem"
    both.write_text(authority.read_text() + key.read_text())
    return Certificate(authority, key, both)


@pytest.fixture
async def connect(config: RegistryConfig) -> AsyncIterator[Connect]:
    """Open a client; ``credentials``, and fields of the configuration as keywords."""
    async with AsyncExitStack() as stack:

        async def make(credentials: Credentials | None = None, **changes: Any) -> RegistryClient:
            return await stack.enter_async_context(RegistryClient(replace(config, **changes), credentials))

        yield make
