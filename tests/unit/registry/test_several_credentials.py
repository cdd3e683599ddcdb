"""Several credentials for one repository: all are tried in order, once, and a failure names where they are from."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from imagecache.errors import (
    AccessDenied,
    ImageCacheError,
    ImageNotFound,
    InvalidSetting,
    ProtocolViolation,
    Unauthenticated,
)
from imagecache.oci.reference import Reference
from imagecache.registry.client import RegistryClient
from imagecache.registry.credentials import Credential
from testkit.images_oci import MemoryImage, memory_image
from testkit.registry import FakeRegistry, FakeTime, FixedCredentials

from .conftest import Connect, is_private

ALICE = Credential(username="alice", password="s3cr3t-word", source="secret default/pull")  # noqa: S106


@pytest.fixture
def image() -> MemoryImage:
    return memory_image([b"layer " * 1000])


def known(registry: FakeRegistry, *credentials: Credential) -> FixedCredentials:
    return FixedCredentials({registry.address: credentials})


async def read(client: RegistryClient, reference: Reference, image: MemoryImage) -> bytes:
    return b"".join([chunk async for chunk in client.stream(reference, image.layers[0])])


WRONG = Credential(username="alice", password="wr0ng-word", source="secret default:old")  # noqa: S106
STRANGER = Credential(username="mallory", password="m4llory-word", source="secret other:pull")  # noqa: S106
BOB = Credential(username="bob", password="b0b-word", source="secret default:bob")  # noqa: S106


@pytest.fixture
def rights(registry: FakeRegistry) -> FakeRegistry:
    """bob may read nothing of team/app."""
    registry.users["bob"] = BOB.password
    registry.rights["bob"] = {"bob/app"}
    return registry


@pytest.mark.parametrize("auth", ["basic", "bearer"])
async def test_every_credential_is_tried_in_order(
    connect: Connect, rights: FakeRegistry, reference: Reference, image: MemoryImage, auth: str
) -> None:
    rights.auth = auth
    credentials = known(rights, WRONG, BOB, STRANGER, ALICE)
    client = await connect(credentials)

    assert await is_private(client, reference)
    asked = len(rights.seen)
    assert await read(client, reference, image) == image.blobs[image.layers[0].digest]

    assert len(rights.seen) == asked + 1, "the one that was accepted is kept"
    assert credentials.asked == [(rights.address, "team/app")]
    sent = [seen.authorization for seen in rights.seen if seen.authorization.startswith("Basic ")]
    tried = [each.basic() for each in (WRONG, BOB, STRANGER, ALICE)]
    assert list(dict.fromkeys(sent)) == tried


@pytest.mark.parametrize(("auth", "denial"), [("basic", 401), ("basic", 403), ("basic", 404), ("bearer", 403)])
async def test_all_credentials_are_refused(
    connect: Connect, rights: FakeRegistry, reference: Reference, auth: str, denial: int
) -> None:
    rights.auth, rights.denial = auth, denial
    client = await connect(known(rights, WRONG, STRANGER, BOB))

    with pytest.raises(ImageCacheError) as caught:
        await client.resolve(reference)

    kinds = {401: Unauthenticated, 403: AccessDenied, 404: ImageNotFound}
    assert type(caught.value) is (Unauthenticated if auth == "bearer" else kinds[denial])
    assert "secret default:old, secret other:pull, secret default:bob" in caught.value.hint
    for each in (WRONG, STRANGER, BOB):
        assert each.password not in f"{caught.value} {caught.value.hint}"


async def test_a_token_server_that_is_broken_for_one_is_no_refusal(
    connect: Connect, registry: FakeRegistry, reference: Reference
) -> None:
    registry.auth = "bearer"
    registry.faults.token_statuses.extend([(403, {}), (418, {})])

    with pytest.raises(ProtocolViolation, match="418 to the request for a token"):
        await (await connect(known(registry, ALICE, WRONG))).resolve(reference)


@pytest.mark.parametrize("status", [402, 404, 410, 422])
async def test_a_token_server_that_says_no_in_another_way_is_asked_with_the_next(
    connect: Connect, rights: FakeRegistry, reference: Reference, status: int
) -> None:
    """kubelet tries the next credential after any error of a pull (kuberuntime_image.go)."""
    rights.auth = "bearer"
    rights.faults.token_statuses.extend([(403, {}), (status, {})])

    assert await is_private(await connect(known(rights, BOB, ALICE)), reference)


async def test_a_public_image_needs_none_of_them(
    connect: Connect, registry: FakeRegistry, reference: Reference
) -> None:
    registry.auth = "bearer"
    registry.public.add("team/app")

    assert not await is_private(await connect(known(registry, WRONG)), reference)


async def test_another_credential_when_one_is_revoked_meanwhile(
    connect: Connect, rights: FakeRegistry, reference: Reference
) -> None:
    """Rotation, which kubelet tries all of them for."""
    for auth in ("basic", "bearer"):
        rights.auth, rights.rights, rights.users["alice"] = auth, {}, ALICE.password
        client = await connect(known(rights, ALICE, BOB))
        await client.resolve(reference)
        rights.users["alice"] = "another"
        rights.tokens.clear()

        assert await is_private(client, reference)


async def test_an_absent_image_is_looked_for_with_every_credential_once(
    connect: Connect, registry: FakeRegistry, reference: Reference
) -> None:
    registry.auth = "basic"
    registry.users["bob"] = BOB.password
    client = await connect(known(registry, ALICE, BOB))
    await client.resolve(reference)
    before = len(registry.seen)

    with pytest.raises(ImageNotFound, match="absent") as caught:
        await client.resolve(Reference.parse(f"{registry.address}/team/app:absent"))

    assert len(registry.seen) == before + 2
    assert "tried: secret default/pull, secret default:bob" in caught.value.hint
    assert await is_private(client, reference), "and what is there is still there"


class Broken:
    async def credentials_for(self, host: str, repository: str) -> Sequence[Credential]:
        raise InvalidSetting(f"no helper for {host}/{repository}")


async def test_a_helper_that_fails_is_the_error_only_when_a_credential_is_needed(
    connect: Connect, registry: FakeRegistry, reference: Reference
) -> None:
    registry.auth = "bearer"
    registry.public.add("team/app")
    client = await connect(Broken())

    with pytest.raises(ImageNotFound, match="absent"):
        await client.resolve(Reference.parse(f"{registry.address}/team/app:absent"))
    registry.public.clear()
    registry.tokens.clear()
    with pytest.raises(InvalidSetting, match="no helper"):
        await client.resolve(reference)


async def test_a_limit_of_one_user_is_waited_for(
    connect: Connect, registry: FakeRegistry, reference: Reference, time: FakeTime
) -> None:
    registry.auth = "basic"
    registry.users["bob"] = BOB.password
    client = await connect(known(registry, ALICE, BOB))
    await client.resolve(reference)
    registry.faults.statuses.append((429, {"Retry-After": "7"}))

    await client.resolve(reference)

    assert time.slept == [7.0]
    assert {seen.authorization for seen in registry.seen} == {"", ALICE.basic()}


async def test_more_credentials_than_rounds(connect: Connect, registry: FakeRegistry, reference: Reference) -> None:
    registry.auth = "basic"
    many = [Credential(username="alice", password=f"n{number}", source=f"secret a:s{number}") for number in range(20)]

    assert await is_private(await connect(known(registry, *many, ALICE)), reference)


async def test_concurrent_requests_share_the_credential_that_is_accepted(
    connect: Connect, rights: FakeRegistry, reference: Reference
) -> None:
    rights.auth = "bearer"
    client = await connect(known(rights, WRONG, BOB, ALICE))

    answers = await asyncio.gather(*(client.resolve(reference) for _ in range(20)))

    assert len(set(map(repr, answers))) == 1
    assert (await client.access(reference, ())).private
    assert len(rights.paths("/token")) == 4, "one anonymous, one for each credential"
