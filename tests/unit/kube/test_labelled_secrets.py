"""A Secret is used where its owner says so, if that is asked of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from imagecache.controller import pull_secrets
from imagecache.errors import ObjectNotFound, PullSecretUnavailable
from imagecache.kube.api import Object
from imagecache.kube.client import KubeClient
from imagecache.kube.connection import Connection
from imagecache.kube.labelled_secrets import LABEL, LabelledSecretsClient
from imagecache.kube.resources import NODES, SECRETS
from testkit.kube import FakeKube
from testkit.kube_server import KubeServer


@pytest.fixture
async def server() -> AsyncIterator[tuple[FakeKube, Connection]]:
    kube = FakeKube()
    async with KubeServer(kube) as server:
        yield kube, Connection(server.url)


def secret(**labels: str) -> Object:
    document = '{"auths": {"r.example": {"auth": "YTpi"}}}'
    return {
        "metadata": {"name": "pull", "namespace": "default", "labels": {**labels}},
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": document},
    }


@pytest.mark.parametrize("labels", [{}, {LABEL: "false"}, {"other": "true"}])
async def test_a_secret_without_the_label_is_not_used(
    server: tuple[FakeKube, Connection], labels: dict[str, str]
) -> None:
    kube, connection = server
    await kube.create(SECRETS, secret(**labels), namespace="default")

    async with LabelledSecretsClient(connection) as client:
        with pytest.raises(PullSecretUnavailable, match="lacks the label") as caught:
            await pull_secrets.read_version(client, "default:pull")
    assert f"kubectl label secret pull -n default {LABEL}=true" in caught.value.hint
    async with KubeClient(connection) as client:
        assert await pull_secrets.read_version(client, "default:pull")


async def test_a_secret_with_the_label_is_used(server: tuple[FakeKube, Connection]) -> None:
    kube, connection = server
    await kube.create(SECRETS, secret(**{LABEL: "true"}), namespace="default")
    await kube.create(NODES, {"metadata": {"name": "n"}})

    async with LabelledSecretsClient(connection) as client:
        assert await pull_secrets.read_version(client, "default:pull")
        assert (await client.get(NODES, "n"))["metadata"]
        with pytest.raises(ObjectNotFound):
            await client.get(SECRETS, "none", namespace="default")
