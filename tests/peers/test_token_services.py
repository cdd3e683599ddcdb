"""Odd token services: both containerds and we get the image, or neither does."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from grpclib.exceptions import GRPCError

from imagecache.errors import ImageCacheError
from imagecache.oci.reference import Reference
from imagecache.registry.client import RegistryClient
from imagecache.registry.config import RegistryConfig
from imagecache.registry.listed_hosts import ListedHosts
from testkit.images_oci import memory_image
from testkit.peers.cri import Cri
from testkit.registry import FakeRegistry
from testkit.tars import Entry, tar
from testkit.token_answers import CHALLENGES, READ, REFUSED, TOKEN

pytestmark = pytest.mark.peers
REPOSITORY = "team/app"


@pytest.fixture
async def tokens() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry(auth="bearer") as made:
        yield made


async def theirs(cri: Cri, image: str) -> bool:
    try:
        await cri.pull(image)
    except GRPCError:
        return False
    return True


async def ours(tokens: FakeRegistry, image: str) -> bool:
    config = RegistryConfig(listed=ListedHosts(loopback=True), plain_http=frozenset({tokens.address}))
    async with RegistryClient(config) as client:
        try:
            await client.resolve(Reference.parse(image))
        except ImageCacheError:
            return False
    return True


def push(tokens: FakeRegistry, number: int) -> str:
    """An image that no containerd has: what it has it does not ask for."""
    content = tar(Entry(b"number", content=b"%d" % number))
    return tokens.push(f"{REPOSITORY}:{number}", memory_image([content]))


async def test_answers(cri: Cri, tokens: FakeRegistry) -> None:
    tokens.tokens[TOKEN] = REPOSITORY
    outcomes = {}
    for number, (name, answer) in enumerate({**READ, **REFUSED}.items()):
        image = push(tokens, number)
        tokens.faults.token_answer = answer
        outcomes[name] = (await theirs(cri, image), await ours(tokens, image))

    assert outcomes == {**dict.fromkeys(READ, (True, True)), **dict.fromkeys(REFUSED, (False, False))}


async def test_challenges(cri: Cri, tokens: FakeRegistry) -> None:
    tokens.public.add(REPOSITORY)
    outcomes = {}
    for number, challenge in enumerate(CHALLENGES):
        image = push(tokens, number)
        tokens.challenge = challenge
        outcomes[challenge] = (await theirs(cri, image), await ours(tokens, image))

    assert outcomes == {challenge: (read, read) for challenge, read in CHALLENGES.items()}
