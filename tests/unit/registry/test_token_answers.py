"""Answers of token services, and challenges, are read as containerd reads them."""

from __future__ import annotations

import pytest

from imagecache.errors import ProtocolViolation
from imagecache.oci.reference import Reference
from imagecache.registry.credentials import Credential
from testkit.registry import FakeRegistry, FixedCredentials
from testkit.token_answers import CHALLENGES, READ, REFUSED, TOKEN

from .conftest import Connect


@pytest.mark.parametrize("answer", REFUSED)
async def test_an_answer_without_a_token(
    connect: Connect, registry: FakeRegistry, reference: Reference, answer: str
) -> None:
    registry.auth = "bearer"
    registry.faults.token_answer = REFUSED[answer]

    with pytest.raises(ProtocolViolation, match="no usable token"):
        await (await connect()).resolve(reference)


@pytest.mark.parametrize("encoding", ["", "gzip"])
@pytest.mark.parametrize("answer", READ)
async def test_answers_that_containerd_reads(
    connect: Connect, registry: FakeRegistry, reference: Reference, answer: str, encoding: str
) -> None:
    registry.auth = "bearer"
    registry.tokens[TOKEN] = "team/app"
    registry.faults.token_answer = READ[answer]
    registry.faults.encoding, registry.faults.encode = encoding, bool(encoding)

    await (await connect()).resolve(reference)

    assert registry.seen[-1].authorization == f"Bearer {TOKEN}"


async def test_a_post_is_answered_with_an_access_token(
    connect: Connect, registry: FakeRegistry, reference: Reference
) -> None:
    """containerd takes ``token`` of a GET alone."""
    registry.auth = "bearer"
    registry.identity_tokens.add("t")
    registry.faults.token_answer = READ["moment and scope"]
    credentials = FixedCredentials({registry.address: Credential(identity_token="t", source="x")})  # noqa: S106

    with pytest.raises(ProtocolViolation, match="no usable token"):
        await (await connect(credentials)).resolve(reference)


@pytest.mark.parametrize("challenge", CHALLENGES)
async def test_challenges(connect: Connect, registry: FakeRegistry, reference: Reference, challenge: str) -> None:
    registry.auth = "bearer"
    registry.public.add("team/app")
    registry.challenge = challenge
    client = await connect()

    if CHALLENGES[challenge]:
        await client.resolve(reference)
    else:
        with pytest.raises(ProtocolViolation, match="names a token server that cannot be trusted"):
            await client.resolve(reference)
