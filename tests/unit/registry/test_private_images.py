"""What makes an image private: what a stranger is refused, as far as anybody knows it."""

from __future__ import annotations

from imagecache.oci.reference import Reference
from imagecache.oci.resolved import Access
from testkit.images_oci import MemoryImage
from testkit.registry import FakeRegistry

from .conftest import ALICE, Connect, known, read


async def test_a_private_image_that_is_hidden_as_absent(
    connect: Connect, registry: FakeRegistry, reference: Reference
) -> None:
    registry.auth = "bearer"
    registry.public.add("team/app")
    client = await connect(known(registry))
    await client.resolve(reference)
    registry.faults.statuses.append((404, {}))
    await client.resolve(reference)
    registry.faults.statuses.append((404, {}))  # whoever asks at the end, without a credential

    assert (await client.access(reference, ())).private


async def test_an_image_that_was_absent_for_a_moment_is_not_private(
    connect: Connect, registry: FakeRegistry, reference: Reference, image: MemoryImage
) -> None:
    registry.auth = "bearer"
    registry.public.add("team/app")
    client = await connect(known(registry))
    await client.resolve(reference)
    registry.faults.statuses.append((404, {}))
    await client.resolve(reference)

    assert not (await client.access(reference, image.layers)).private


async def test_a_limit_for_strangers_makes_no_image_private(
    connect: Connect, registry: FakeRegistry, reference: Reference, image: MemoryImage
) -> None:
    """Docker Hub: a public image, read with a credential since too many strangers ask."""
    registry.auth = "bearer"
    registry.public.add("team/app")
    client = await connect(known(registry))
    await client.document(reference, image.descriptor)
    registry.faults.statuses.append((429, {}))
    await client.resolve(reference)
    await read(client, reference, image.layers[0])

    assert ALICE.basic() in {seen.authorization for seen in registry.seen}
    assert await client.access(reference, image.layers) == Access(private=False)
    last = [seen for seen in registry.seen if seen.method == "HEAD"]
    assert len(last) >= 2, "the manifest and the layer were asked for without the credential"


async def test_a_private_image_behind_a_limit_for_strangers_is_private(
    connect: Connect, registry: FakeRegistry, reference: Reference, image: MemoryImage
) -> None:
    registry.auth = "bearer"
    registry.public.add("team/app")
    client = await connect(known(registry))
    await client.document(reference, image.descriptor)
    registry.faults.statuses.append((429, {}))
    registry.public.clear()
    await client.resolve(reference)

    assert (await client.access(reference, image.layers)).private


async def test_an_image_of_which_nobody_knows_is_private(
    connect: Connect, registry: FakeRegistry, reference: Reference, image: MemoryImage
) -> None:
    """The limit for strangers lasts to the end of the build."""
    registry.auth = "bearer"
    registry.public.add("team/app")
    client = await connect(known(registry))
    await client.document(reference, image.descriptor)
    registry.faults.statuses.append((429, {}))
    await client.resolve(reference)
    await read(client, reference, image.layers[0])
    registry.faults.statuses.extend([(429, {})] * 10)

    access = await client.access(reference, image.layers)

    assert access.private
    assert "limits strangers" in access.note


async def test_layers_that_need_a_credential_make_an_image_private(
    connect: Connect, registry: FakeRegistry, reference: Reference, image: MemoryImage
) -> None:
    """The tag is open to everybody."""
    client = await connect(known(registry))
    await client.resolve(reference)
    registry.auth = "basic"
    await read(client, reference, image.layers[0])

    assert (await client.access(reference, image.layers)).private


async def test_layers_in_the_store_are_asked_for_all_the_same(
    connect: Connect, registry: FakeRegistry, reference: Reference, image: MemoryImage
) -> None:
    """A build that has found them there has read nothing but open documents."""
    client = await connect(known(registry))
    await client.resolve(reference)
    registry.auth = "basic"

    assert (await client.access(reference, image.layers)).private
    assert [seen.method for seen in registry.seen if "/blobs/" in seen.path] == ["HEAD", "HEAD"]


async def test_layers_that_nobody_may_read_make_an_image_private(
    connect: Connect, registry: FakeRegistry, reference: Reference, image: MemoryImage
) -> None:
    client = await connect()
    await client.resolve(reference)
    registry.auth = "basic"

    assert (await client.access(reference, image.layers)).private


async def test_a_layer_that_the_registry_has_elsewhere_is_not_followed_there(
    connect: Connect, registry: FakeRegistry, other: FakeRegistry, reference: Reference, image: MemoryImage
) -> None:
    """Its address is signed for GET alone."""
    client = await connect()
    await client.resolve(reference)
    registry.faults.redirect_blobs = other.url

    assert not (await client.access(reference, image.layers)).private
    assert other.seen == []
