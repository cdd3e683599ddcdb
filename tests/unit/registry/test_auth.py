"""Authentication: what is tried in which order, and where credentials do not go."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from imagecache.errors import (
    AccessDenied,
    ImageCacheError,
    ImageNotFound,
    ProtocolViolation,
    RegistryUnavailable,
    Unauthenticated,
)
from imagecache.oci.reference import Reference
from imagecache.registry.credentials import Credential
from testkit.images_oci import MemoryImage, memory_image
from testkit.registry import FakeRegistry, FakeTime

from .conftest import ALICE, SECRET, Connect, is_private, known, read


@pytest.fixture
def image() -> MemoryImage:
    return memory_image([b"layer " * 1000])


async def test_an_open_registry_is_not_shown_a_credential(
    connect: Connect, registry: FakeRegistry, reference: Reference, image: MemoryImage
) -> None:
    credentials = known(registry)
    client = await connect(credentials)

    await client.resolve(reference)
    await read(client, reference, image.layers[0])

    assert not (await client.access(reference, image.layers)).private
    assert credentials.asked == []
    assert {seen.authorization for seen in registry.seen} == {""}


async def test_basic(connect: Connect, registry: FakeRegistry, reference: Reference, image: MemoryImage) -> None:
    registry.auth = "basic"
    client = await connect(known(registry))

    await client.resolve(reference)

    assert [seen.authorization for seen in registry.seen] == ["", ALICE.basic()]
    assert await read(client, reference, image.layers[0]) == image.blobs[image.layers[0].digest]
    assert (await client.access(reference, image.layers)).private
    assert len(registry.seen) == 3, "the outcome is kept"


async def test_an_anonymous_token_leaves_the_image_public(
    connect: Connect, registry: FakeRegistry, reference: Reference, image: MemoryImage
) -> None:
    registry.auth = "bearer"
    registry.public.add("team/app")
    credentials = known(registry)
    client = await connect(credentials)

    await client.resolve(reference)
    await read(client, reference, image.layers[0])

    assert not (await client.access(reference, image.layers)).private
    assert credentials.asked == []
    assert registry.paths("/token") == ["/token"]
    token = registry.seen[1]
    assert dict(token.query) == {"service": "fake", "scope": "repository:team/app:pull"}
    assert token.authorization == ""


async def test_a_private_image_needs_the_credential(
    connect: Connect, registry: FakeRegistry, reference: Reference, image: MemoryImage
) -> None:
    registry.auth = "bearer"
    credentials = known(registry)
    client = await connect(credentials)

    await client.resolve(reference)
    await read(client, reference, image.layers[0])

    assert (await client.access(reference, image.layers)).private
    assert credentials.asked == [(registry.address, "team/app")]
    assert [seen.authorization for seen in registry.seen if seen.path == "/token"] == ["", ALICE.basic()]
    assert {seen.authorization[:7] for seen in registry.seen if seen.path != "/token"} == {"", "Bearer "}


async def test_a_token_server_that_refuses_strangers(
    connect: Connect, registry: FakeRegistry, reference: Reference
) -> None:
    registry.auth = "bearer"
    registry.faults.token_statuses.append((403, {}))
    client = await connect(known(registry))

    assert await is_private(client, reference)


async def test_an_identity_token(connect: Connect, registry: FakeRegistry, reference: Reference) -> None:
    registry.auth = "bearer"
    registry.identity_tokens.add("identity-word")
    client = await connect(known(registry, Credential(identity_token="identity-word", source="helper")))  # noqa: S106

    assert await is_private(client, reference)

    (post,) = [seen for seen in registry.seen if seen.method == "POST"]
    assert post.form == {
        "grant_type": "refresh_token",
        "refresh_token": "identity-word",
        "client_id": "imagecache",
        "service": "fake",
        "scope": "repository:team/app:pull",
    }


@pytest.mark.parametrize("auth", ["basic", "bearer"])
async def test_no_credential(connect: Connect, registry: FakeRegistry, reference: Reference, auth: str) -> None:
    registry.auth = auth

    with pytest.raises(Unauthenticated) as caught:
        await (await connect()).resolve(reference)

    assert caught.value.image == reference.original
    assert f"no credential for {registry.address} was found" in caught.value.hint
    assert "imagePullSecrets" in caught.value.hint


@pytest.mark.parametrize("auth", ["basic", "bearer"])
async def test_a_wrong_credential(connect: Connect, registry: FakeRegistry, reference: Reference, auth: str) -> None:
    registry.auth = auth
    wrong = Credential(username="alice", password="wr0ng-word", source="secret default/pull")  # noqa: S106

    with pytest.raises(Unauthenticated) as caught:
        await (await connect(known(registry, wrong))).resolve(reference)

    assert "from secret default/pull was not accepted" in caught.value.hint


async def test_an_identity_token_is_no_basic_credential(
    connect: Connect, registry: FakeRegistry, reference: Reference
) -> None:
    registry.auth = "basic"

    with pytest.raises(Unauthenticated, match="401"):
        await (await connect(known(registry, Credential(identity_token="t", source="x")))).resolve(reference)  # noqa: S106


async def test_an_account_without_the_right(connect: Connect, registry: FakeRegistry, reference: Reference) -> None:
    registry.auth = "bearer"
    client = await connect(known(registry))
    await client.resolve(reference)
    registry.faults.statuses.append((403, {}))

    with pytest.raises(AccessDenied, match="403"):
        await client.resolve(reference)


async def test_forbidden_without_a_challenge(connect: Connect, registry: FakeRegistry, reference: Reference) -> None:
    registry.faults.statuses.append((403, {}))

    with pytest.raises(AccessDenied):
        await (await connect(known(registry))).resolve(reference)


async def test_an_absent_image_stays_absent_when_the_credential_is_refused(
    connect: Connect, registry: FakeRegistry
) -> None:
    registry.auth = "bearer"
    registry.public.add("team/app")
    client = await connect(known(registry, Credential(username="alice", password="old")))  # noqa: S106

    with pytest.raises(ImageNotFound):
        await client.resolve(Reference.parse(f"{registry.address}/team/app:absent"))


async def test_an_absent_image_stays_absent_when_the_token_server_fails(
    connect: Connect, registry: FakeRegistry, reference: Reference
) -> None:
    registry.auth = "bearer"
    registry.public.add("team/app")
    client = await connect(known(registry))
    await client.resolve(reference)
    registry.faults.token_statuses.append((404, {}))

    with pytest.raises(ImageNotFound, match="absent"):
        await client.resolve(Reference.parse(f"{registry.address}/team/app:absent"))


async def test_a_credential_is_needed_and_the_token_server_fails(
    connect: Connect, registry: FakeRegistry, reference: Reference
) -> None:
    registry.auth = "bearer"
    registry.faults.token_statuses.extend([(403, {}), (418, {})])

    with pytest.raises(ProtocolViolation, match="418 to the request for a token") as caught:
        await (await connect(known(registry))).resolve(reference)

    assert caught.value.image == reference.original


async def test_a_token_is_replaced_before_it_ends(
    connect: Connect, registry: FakeRegistry, reference: Reference, time: FakeTime
) -> None:
    registry.auth = "bearer"
    registry.public.add("team/app")
    client = await connect()
    await client.resolve(reference)

    time.clock.advance(registry.token_lifetime - 6)
    await client.resolve(reference)
    assert len(registry.paths("/token")) == 1

    time.clock.advance(1)
    await client.resolve(reference)
    assert len(registry.paths("/token")) == 2


async def test_a_token_that_is_revoked_is_replaced(
    connect: Connect, registry: FakeRegistry, reference: Reference
) -> None:
    registry.auth = "bearer"
    client = await connect(known(registry))
    await client.resolve(reference)
    registry.tokens.clear()

    assert await is_private(client, reference)
    assert len(registry.paths("/token")) == 3


async def test_a_password_that_is_changed_meanwhile(
    connect: Connect, registry: FakeRegistry, reference: Reference
) -> None:
    registry.auth = "basic"
    client = await connect(known(registry))
    await client.resolve(reference)
    registry.users["alice"] = "another"

    with pytest.raises(Unauthenticated):
        await client.resolve(reference)


async def test_concurrent_requests_share_one_token(
    connect: Connect, registry: FakeRegistry, reference: Reference
) -> None:
    registry.auth = "bearer"
    client = await connect(known(registry))

    answers = await asyncio.gather(*(client.resolve(reference) for _ in range(20)))

    assert len(set(map(repr, answers))) == 1
    assert (await client.access(reference, ())).private
    assert len(registry.paths("/token")) == 2, "one anonymous, one with the credential"


async def test_concurrent_requests_replace_an_old_token_once(
    connect: Connect, registry: FakeRegistry, reference: Reference, time: FakeTime
) -> None:
    registry.auth = "bearer"
    registry.public.add("team/app")
    client = await connect()
    await client.resolve(reference)
    time.clock.advance(hours=1)

    await asyncio.gather(*(client.resolve(reference) for _ in range(20)))

    assert len(registry.paths("/token")) == 2


async def test_repositories_have_their_own_tokens(
    connect: Connect, registry: FakeRegistry, reference: Reference, image: MemoryImage
) -> None:
    registry.auth = "bearer"
    registry.public.add("team/app")
    hidden = Reference.parse(registry.push("team/hidden:1", image))
    client = await connect(known(registry))

    assert not await is_private(client, reference)
    assert await is_private(client, hidden)


async def test_patience_with_the_token_server(
    connect: Connect, registry: FakeRegistry, reference: Reference, time: FakeTime
) -> None:
    registry.auth = "bearer"
    registry.public.add("team/app")
    registry.faults.token_statuses.extend([(503, {}), (429, {"Retry-After": "7"})])

    await (await connect()).resolve(reference)

    assert time.slept == [0.5, 7.0]


async def test_a_token_server_that_is_broken(connect: Connect, registry: FakeRegistry, reference: Reference) -> None:
    registry.auth = "bearer"
    registry.faults.token_statuses.extend([(500, {})] * 5)

    with pytest.raises(RegistryUnavailable, match="a token"):
        await (await connect()).resolve(reference)


@pytest.mark.parametrize(
    "realm",
    [
        "ftp://auth.example/token",
        "not an address",
        "http://user:word@auth.example/token",
        "http://[bad",
        "https://auth.example/%zz",
        "https://auth example/token",
    ],
)
async def test_realms_that_are_refused(
    connect: Connect, registry: FakeRegistry, reference: Reference, realm: str
) -> None:
    registry.auth = "bearer"
    registry.realm = realm

    with pytest.raises(ProtocolViolation, match="token server"):
        await (await connect(known(registry))).resolve(reference)


# where credentials do not go


async def test_a_redirect_to_another_host_leaves_the_credential_behind(
    connect: Connect, registry: FakeRegistry, other: FakeRegistry, reference: Reference, image: MemoryImage
) -> None:
    other.push("team/app:1", image)
    for auth in ("basic", "bearer"):
        registry.auth = auth
        registry.faults.redirect_blobs = other.url
        client = await connect(known(registry))

        assert await read(client, reference, image.layers[0]) == image.blobs[image.layers[0].digest]

    assert len(other.seen) == 2
    for seen in other.seen:
        assert "Authorization" not in seen.headers
        assert SECRET not in str(seen)


async def test_a_credential_for_one_host_is_not_for_another(
    connect: Connect, registry: FakeRegistry, other: FakeRegistry, image: MemoryImage
) -> None:
    other.auth = "basic"
    credentials = known(registry)
    client = await connect(credentials, plain_http=frozenset({registry.address, other.address}))

    with pytest.raises(Unauthenticated):
        await client.resolve(Reference.parse(other.push("team/app:1", image)))

    assert credentials.asked == [(other.address, "team/app")]
    assert {seen.authorization for seen in other.seen} == {""}


async def test_headers_of_hosts_toml_go_to_their_host_only(
    connect: Connect,
    registry: FakeRegistry,
    other: FakeRegistry,
    reference: Reference,
    image: MemoryImage,
    tmp_path: Path,
) -> None:
    other.push("team/app:1", image)
    registry.faults.redirect_blobs = other.url
    folder = tmp_path / "_default"
    folder.mkdir()
    (folder / "hosts.toml").write_text('[header]\nx-meta = "header-word"\n')
    client = await connect(hosts_dir=tmp_path)

    await read(client, reference, image.layers[0])

    assert [seen.headers.get("x-meta") for seen in registry.seen] == ["header-word"]
    assert [seen.headers.get("x-meta") for seen in other.seen] == [None]


async def test_nothing_shows_a_secret(
    connect: Connect,
    registry: FakeRegistry,
    other: FakeRegistry,
    reference: Reference,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Every failure with a credential in use, at a registry that repeats it: text, causes, repr, logs."""
    caplog.set_level(logging.DEBUG)
    registry.echo_authorization = other.echo_authorization = True
    shown: list[str] = []
    for auth in ("basic", "bearer"):
        for status in (400, 401, 403, 404, 418, 429, 500, 503):
            registry.auth = auth
            credential = known(registry)
            client = await connect(credential, attempts=1)
            await client.resolve(reference)
            registry.faults.statuses.extend([(status, {})] * 6)
            with pytest.raises(ImageCacheError) as caught:
                await client.resolve(reference)
            registry.faults.statuses.clear()
            error: BaseException | None = caught.value
            shown += [caught.value.hint, repr(vars(client)), repr(credential.known)]
            while error is not None:
                shown += [str(error), repr(error), repr(vars(error))]
                error = error.__cause__ or error.__context__

    text = "\n".join([*shown, caplog.text])
    assert "answers 418" in text
    assert SECRET not in text
    assert ALICE.basic().removeprefix("Basic ") not in text
    assert not any(token in text for token in registry.tokens)
