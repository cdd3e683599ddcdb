"""Mirrors of hosts.toml: order, capabilities, what happens when one fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from imagecache.errors import ImageNotFound, InvalidSetting, RegistryUnavailable
from imagecache.oci.reference import Reference
from imagecache.registry.client import RegistryClient
from imagecache.registry.credentials import Credential
from testkit.images_oci import MemoryImage, memory_image
from testkit.registry import FakeRegistry, FakeTime, FixedCredentials

Connect = Callable[..., Awaitable[RegistryClient]]


@pytest.fixture
def image() -> MemoryImage:
    return memory_image([b"layer " * 500_000])


@pytest.fixture
def reference() -> Reference:
    return Reference.parse("team/app:1")


@pytest.fixture
async def mirrored(connect: Connect, registry: FakeRegistry, other: FakeRegistry, tmp_path: Path) -> RegistryClient:
    """``other`` is a mirror of Docker Hub, and ``registry`` stands for the Hub itself."""
    folder = tmp_path / "docker.io"
    folder.mkdir()
    (folder / "hosts.toml").write_text(f'server = "{registry.url}"\n[host."{other.url}"]\n')
    return await connect(hosts_dir=tmp_path)


async def read(client: RegistryClient, reference: Reference, image: MemoryImage) -> bytes:
    return b"".join([chunk async for chunk in client.stream(reference, image.layers[0])])


async def test_the_mirror_is_asked_first(
    mirrored: RegistryClient, registry: FakeRegistry, other: FakeRegistry, reference: Reference, image: MemoryImage
) -> None:
    other.push("team/app:1", image)

    assert (await mirrored.resolve(reference)).descriptor == image.descriptor
    assert await read(mirrored, reference, image) == image.blobs[image.layers[0].digest]

    assert registry.seen == []
    assert {seen.query.get("ns") for seen in other.seen} == {"docker.io"}


@pytest.mark.parametrize("status", [404, 401, 500, 429])
async def test_a_mirror_that_fails_is_left_without_waiting(
    mirrored: RegistryClient,
    registry: FakeRegistry,
    other: FakeRegistry,
    reference: Reference,
    image: MemoryImage,
    *,
    time: FakeTime,
    status: int,
) -> None:
    registry.push("team/app:1", image)
    other.push("team/app:1", image)
    other.faults.statuses.extend([(status, {})] * 3)

    assert (await mirrored.resolve(reference)).descriptor == image.descriptor
    assert image.config is not None
    assert await mirrored.document(reference, image.config) == image.blobs[image.config.digest]
    assert await read(mirrored, reference, image) == image.blobs[image.layers[0].digest]

    assert len(registry.seen) == 3
    assert time.slept == []


async def test_a_mirror_with_wrong_bytes_is_left(
    mirrored: RegistryClient, registry: FakeRegistry, other: FakeRegistry, reference: Reference, image: MemoryImage
) -> None:
    registry.push("team/app:1", image)
    other.push("team/app:1", image)
    assert image.config is not None
    other.faults.replace[image.config.digest] = b"x" * image.config.size

    assert await mirrored.document(reference, image.config) == image.blobs[image.config.digest]


async def test_a_mirror_that_has_no_time_to_answer_is_left(
    connect: Connect,
    registry: FakeRegistry,
    other: FakeRegistry,
    reference: Reference,
    image: MemoryImage,
    tmp_path: Path,
) -> None:
    """To Go a time limit of less than 0 has passed before the dialling begins."""
    registry.push("team/app:1", image)
    other.push("team/app:1", image)
    folder = tmp_path / "docker.io"
    folder.mkdir()
    file, mirror = folder / "hosts.toml", f'server = "{registry.url}"\n[host."{other.url}"]\ndial_timeout = "-1s"\n'
    file.write_text(mirror)
    client = await connect(hosts_dir=tmp_path)

    assert (await client.resolve(reference)).descriptor == image.descriptor
    assert await read(client, reference, image) == image.blobs[image.layers[0].digest]
    assert other.seen == []

    file.write_text(f'dial_timeout = "-1s"\n{mirror}')
    with pytest.raises(RegistryUnavailable, match=r"dial_timeout in hosts\.toml is less than 0"):
        await (await connect(hosts_dir=tmp_path)).resolve(reference)


async def test_a_blob_goes_on_at_the_next_server(
    mirrored: RegistryClient, registry: FakeRegistry, other: FakeRegistry, reference: Reference, image: MemoryImage
) -> None:
    registry.push("team/app:1", image)
    other.push("team/app:1", image)
    layer = image.layers[0]
    other.faults.truncate.append(layer.size // 2)

    assert await read(mirrored, reference, image) == image.blobs[layer.digest]

    assert [seen.headers.get("Range") for seen in registry.seen] == [f"bytes={layer.size // 2}-"]


async def test_what_the_registry_itself_says_is_what_counts(
    mirrored: RegistryClient, registry: FakeRegistry, other: FakeRegistry, reference: Reference
) -> None:
    other.faults.statuses.append((500, {}))

    with pytest.raises(ImageNotFound, match=registry.address) as caught:
        await mirrored.resolve(reference)

    assert caught.value.image == "team/app:1"


async def test_a_mirror_gets_its_own_credential_only(
    connect: Connect,
    registry: FakeRegistry,
    other: FakeRegistry,
    reference: Reference,
    image: MemoryImage,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "docker.io"
    folder.mkdir()
    (folder / "hosts.toml").write_text(f'server = "{registry.url}"\n[host."{other.url}"]\n')
    other.auth = "basic"
    registry.push("team/app:1", image)
    hub = Credential(username="alice", password="s3cr3t-word")  # noqa: S106
    credentials = FixedCredentials({"docker.io": hub})
    client = await connect(credentials, hosts_dir=tmp_path)

    await client.resolve(reference)

    assert credentials.asked == [(other.address, "team/app")]
    assert {seen.authorization for seen in other.seen} == {""}


async def test_a_mirror_that_may_not_resolve(
    connect: Connect,
    registry: FakeRegistry,
    other: FakeRegistry,
    reference: Reference,
    image: MemoryImage,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "docker.io"
    folder.mkdir()
    (folder / "hosts.toml").write_text(
        f'server = "{registry.url}"\ncapabilities = ["resolve"]\n[host."{other.url}"]\ncapabilities = ["pull"]\n'
    )
    registry.push("team/app:1", image)
    other.push("team/app:1", image)
    client = await connect(hosts_dir=tmp_path)

    await client.resolve(reference)
    await client.resolve(Reference.parse(f"team/app@{image.descriptor.digest}"))
    await read(client, reference, image)

    assert len(registry.paths()) == 1
    assert len(other.paths()) == 2


async def test_no_server_is_left(connect: Connect, registry: FakeRegistry, tmp_path: Path) -> None:
    folder = tmp_path / "docker.io"
    folder.mkdir()
    (folder / "hosts.toml").write_text(f'server = "{registry.url}"\ncapabilities = ["push"]\n')
    client = await connect(hosts_dir=tmp_path)

    with pytest.raises(InvalidSetting, match="has the capability resolve") as caught:
        await client.resolve(Reference.parse("team/app:1"))

    assert caught.value.image == "team/app:1"
