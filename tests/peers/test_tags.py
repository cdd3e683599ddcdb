"""Tags of the real docker-registry, looked up by a process: a moved one, a private one, by HEAD alone."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from imagecache.api.pull_secrets import PullSecret
from imagecache.api.tags import TagQuestion
from imagecache.controller.tag_process import ProcessTagReader
from imagecache.errors import Unauthenticated
from imagecache.settings.flags import as_flags
from imagecache.settings.table import Settings
from testkit.images_oci import MemoryImage, memory_image
from testkit.peers.registry import Registry
from testkit.suites.tag_reader import TagOrigin, TagReaderSuite

from .test_registry import push

pytestmark = pytest.mark.peers

WORD = "s3cr3t-word"


def reader(directory: Path) -> ProcessTagReader:
    return ProcessTagReader(as_flags(Settings(store=directory / "store", hosts=directory / "hosts")))


@dataclass
class RealOrigin:
    reader: ProcessTagReader
    registry: Registry
    directory: Path

    def publish(self, name: str, image: MemoryImage) -> str:
        return push(self.registry, name, image, self.directory)


class TestDockerRegistry(TagReaderSuite):
    @pytest.fixture
    def origin(self, registry: Registry, directory: Path) -> TagOrigin:
        return RealOrigin(reader(directory), registry, directory)


@pytest.fixture(scope="module")
def guarded(peers_directory: Path) -> Iterator[Registry]:
    with Registry(peers_directory / "guarded-tags", users={"alice": WORD}) as running:
        yield running


def secret(host: str, word: str) -> PullSecret:
    auth = base64.b64encode(f"alice:{word}".encode()).decode()
    return PullSecret("default:cred", json.dumps({"auths": {host: {"auth": auth}}}).encode())


async def test_a_private_tag_with_the_caches_own_credential(guarded: Registry, directory: Path) -> None:
    image = memory_image([b"private"])
    question = TagQuestion(push(guarded, "team/private:1", image, directory), secrets=("default:cred",))
    guarded.clear_requests()

    found = await reader(directory).read([question], [secret(guarded.address, WORD)])
    assert found == {question: image.descriptor.digest}
    assert {each.method for each in guarded.requests()} == {"HEAD"}

    refused = (await reader(directory).read([question], [secret(guarded.address, "wrong")]))[question]
    assert isinstance(refused, Unauthenticated)
    assert "wrong" not in f"{refused} {refused.hint}"
