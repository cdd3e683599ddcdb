"""Tags looked up by real processes of their own: how many requests that is, and what goes wrong."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from imagecache.api.pull_secrets import PullSecret
from imagecache.api.tags import TagQuestion
from imagecache.controller import tag_messages
from imagecache.controller.build_messages import Failed
from imagecache.controller.child import Command
from imagecache.controller.tag_messages import Answer, Order
from imagecache.controller.tag_process import ProcessTagReader
from imagecache.errors import (
    ImageCacheError,
    InternalError,
    InvalidInput,
    RateLimited,
    RegistryUnavailable,
    Unauthenticated,
)
from imagecache.settings.flags import as_flags
from imagecache.settings.table import Settings
from testkit.images_oci import memory_image
from testkit.registry import FakeRegistry

PASSWORD = "hunter2-very-secret"  # noqa: S105 - of the fake registry
IMAGE = memory_image([b"content"])
NOBODY = "127.0.0.1:1"
"""A registry that is away."""


@dataclass
class Site:
    registry: FakeRegistry
    reader: ProcessTagReader

    def question(self, name: str = "team/app:1", **more: object) -> TagQuestion:
        return TagQuestion(self.registry.push(name, IMAGE), **more)  # type: ignore[arg-type]  # fields, as named

    def secret(self, password: str = PASSWORD) -> PullSecret:
        auths = {"auths": {self.registry.address: {"username": "u", "password": password}}}
        return PullSecret("default:cred", json.dumps(auths).encode())

    def asked(self) -> list[tuple[str, str]]:
        """Method and path of the requests for manifests."""
        return [(each.method, each.path) for each in self.registry.seen if "/manifests/" in each.path]


@pytest_asyncio.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with FakeRegistry(users={"u": PASSWORD}) as registry:
        settings = Settings(store=tmp_path / "store", hosts=tmp_path / "hosts")
        yield Site(registry, ProcessTagReader(as_flags(settings)))


async def test_nothing_is_downloaded(site: Site) -> None:
    question = site.question()

    assert await site.reader.read([question], []) == {question: IMAGE.descriptor.digest}
    assert site.asked() == [("HEAD", "/v2/team/app/manifests/1")]


async def test_a_registry_that_says_no_digest_is_read(site: Site) -> None:
    site.registry.faults.digest_header = ""
    question = site.question()

    assert await site.reader.read([question], []) == {question: IMAGE.descriptor.digest}
    assert [method for method, _path in site.asked()] == ["HEAD", "GET"]


async def test_the_caches_own_credential_is_used_and_not_shown(site: Site) -> None:
    site.registry.auth = "basic"
    question = site.question(secrets=("default:cred",))

    assert await site.reader.read([question], [site.secret()]) == {question: IMAGE.descriptor.digest}
    refused = (await site.reader.read([question], [site.secret("wrong-word")]))[question]
    assert isinstance(refused, Unauthenticated)
    assert refused.image == question.image
    assert "wrong-word" not in f"{refused} {refused.hint}"


async def test_one_cache_does_not_ask_with_the_credential_of_another(site: Site) -> None:
    site.registry.auth = "basic"
    own, other = site.question("team/own:1", secrets=("default:cred",)), site.question("team/other:1")

    found = await site.reader.read([own, other], [site.secret()])
    assert found[own] == IMAGE.descriptor.digest
    assert isinstance(found[other], Unauthenticated)


async def test_a_secret_that_cannot_be_read_is_of_its_own_cache_alone(site: Site) -> None:
    bad, other = site.question("team/own:1", secrets=("default:bad",)), site.question("team/other:1")

    found = await site.reader.read([bad, other], [PullSecret("default:bad", b'{"auths": 7}')])
    assert isinstance(found[bad], InvalidInput)
    assert found[other] == IMAGE.descriptor.digest


async def test_a_registry_that_asks_to_wait_is_left_alone(site: Site) -> None:
    site.registry.faults.statuses.append((429, {"Retry-After": "90"}))
    questions = [site.question(f"team/app{number}:1") for number in range(3)]

    found = await site.reader.read(questions, [])
    assert all(isinstance(each, RateLimited) for each in found.values())
    assert len(site.asked()) == 1


async def test_one_that_is_away_is_asked_once_and_holds_up_no_other(site: Site) -> None:
    own = site.question()
    away = [TagQuestion(f"{NOBODY}/app{number}:1") for number in range(3)]

    found = await site.reader.read([*away, own], [])
    assert all(isinstance(found[each], RegistryUnavailable) for each in away)
    assert found[own] == IMAGE.descriptor.digest


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "the tag process was ended by signal SIGKILL"),
        ("print('nonsense', flush=True)", "is not an answer"),
        ("""print('{"number": 7}', flush=True)""", "answered what it was not asked"),
    ],
)
async def test_a_process_that_breaks_is_our_error(program: str, message: str) -> None:
    reader = ProcessTagReader({}, starter=Command((sys.executable, "-c", program)))

    with pytest.raises(InternalError, match=message):
        await reader.read([TagQuestion("nginx")], [])


async def test_what_is_not_answered_in_time_is_not_known() -> None:
    program = """import sys; print('{"number": 0, "digest": "sha256:a"}', flush=True); sys.stdin.read()"""
    reader = ProcessTagReader({}, starter=Command((sys.executable, "-c", program)), longest=2.0)
    first, second = TagQuestion("nginx"), TagQuestion("redis")

    found = await reader.read([first, second], [])
    assert found[first] == "sha256:a"
    assert isinstance(found[second], RegistryUnavailable)


async def test_it_ends_with_whoever_asked() -> None:
    program = "import sys; sys.stdin.read()"
    reader = ProcessTagReader({}, starter=Command((sys.executable, "-c", program)))
    task = asyncio.create_task(reader.read([TagQuestion("nginx")], []))
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


def test_messages_arrive_as_they_were_sent_and_show_no_secret() -> None:
    question = TagQuestion("nginx", frozenset({"a:1"}), frozenset({"b"}), ("default:cred",))
    secret = PullSecret("default:cred", PASSWORD.encode())
    order = Order(settings={"jobs": "1"}, questions=(question,), secrets=(secret,))
    error: ImageCacheError = RateLimited("slow down", image="nginx", retry_after=7.0)

    assert tag_messages.decode_order(tag_messages.encode(order)) == order
    assert PASSWORD not in repr(order)
    for answer in (Answer(3, "sha256:a"), Answer(4, error=Failed.of(error))):
        assert tag_messages.decode_answer(tag_messages.encode(answer)) == answer
