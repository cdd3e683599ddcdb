"""The registry client against the real docker-registry: open, with users, with TLS, stopped in the middle."""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from yarl import URL

from imagecache.builder.image_source import ImageSource
from imagecache.errors import ProtocolViolation, RegistryUnavailable, RegistryUntrusted, Unauthenticated
from imagecache.oci.reference import Reference
from imagecache.registry.client import RegistryClient
from imagecache.registry.config import RegistryConfig
from imagecache.registry.credentials import Credential
from imagecache.registry.http_proxy import Proxies, parse_proxies
from imagecache.registry.listed_hosts import ListedHosts
from testkit.images import pause_image
from testkit.images_oci import MemoryImage, memory_image
from testkit.oci_layout import Image, Layout
from testkit.peers.agent import COMMAND
from testkit.peers.programs import environment
from testkit.peers.registry import Registry, free_port
from testkit.proxy import ForwardProxy
from testkit.registry import FakeTime, FixedCredentials
from testkit.suites.image_source import CONTENT, ImageSourceSuite, Origin

pytestmark = pytest.mark.peers

LISTED = ListedHosts(loopback=True)
"""As on a plain host."""
USER = Credential(username="alice", password="s3cr3t-word", source="test")  # noqa: S106


def push(registry: Registry, name: str, image: MemoryImage, directory: Path) -> str:
    """Upload an image from memory, by way of a layout."""
    layout = Layout(Path(tempfile.mkdtemp(dir=directory)))
    for digest, blob in image.blobs.items():
        layout.add(image.media_types.get(digest, "application/octet-stream"), blob)
    return registry.push(name, Image(layout.directory, image.descriptor))


@dataclass
class RealOrigin:
    source: ImageSource
    registry: Registry
    directory: Path

    def publish(self, name: str, image: MemoryImage) -> str:
        return push(self.registry, name, image, self.directory)


@pytest.fixture(scope="module")
def guarded(peers_directory: Path) -> Iterator[Registry]:
    with Registry(peers_directory / "guarded", users={"alice": "s3cr3t-word"}) as running:
        yield running


@pytest.fixture(scope="module")
def encrypted(peers_directory: Path) -> Iterator[Registry]:
    with Registry(peers_directory / "encrypted", tls=True) as running:
        yield running


class TestDockerRegistry(ImageSourceSuite):
    """HTTP on loopback, found out by the client itself."""

    @pytest.fixture
    async def origin(self, registry: Registry, directory: Path) -> AsyncIterator[Origin]:
        async with RegistryClient(RegistryConfig(listed=LISTED)) as client:
            yield RealOrigin(client, registry, directory)


class TestDockerRegistryWithUsers(ImageSourceSuite):
    private = True

    @pytest.fixture
    async def origin(self, guarded: Registry, directory: Path) -> AsyncIterator[Origin]:
        config = RegistryConfig(listed=LISTED, plain_http=frozenset({guarded.address}))
        async with RegistryClient(config, FixedCredentials({guarded.address: USER})) as client:
            yield RealOrigin(client, guarded, directory)


class TestDockerRegistryWithTls(ImageSourceSuite):
    @pytest.fixture
    async def origin(self, encrypted: Registry, directory: Path) -> AsyncIterator[Origin]:
        config = RegistryConfig(listed=LISTED, insecure=frozenset({encrypted.address}))
        async with RegistryClient(config) as client:
            yield RealOrigin(client, encrypted, directory)


NAME = "registry.example"
"""A host that only a proxy finds."""
LISTED_NAME = ListedHosts(frozenset({NAME}))


@dataclass
class RealOriginElsewhere(RealOrigin):
    def publish(self, name: str, image: MemoryImage) -> str:
        return super().publish(name, image).replace(self.registry.address, NAME)


class TestDockerRegistryThroughATunnel(ImageSourceSuite):
    @pytest.fixture
    async def origin(self, encrypted: Registry, directory: Path) -> AsyncIterator[Origin]:
        async with ForwardProxy(encrypted.port) as proxy:
            proxies = Proxies(https=URL(f"http://{proxy.address}"))
            config = RegistryConfig(proxies=proxies, listed=LISTED_NAME, insecure=frozenset({NAME}))
            async with RegistryClient(config) as client:
                yield RealOriginElsewhere(client, encrypted, directory)
            assert set(proxy.asked) <= {f"CONNECT {NAME}:443"}


class TestDockerRegistryForwarded(ImageSourceSuite):
    """By a proxy that wants a credential, in plain HTTP."""

    private = True

    @pytest.fixture
    async def origin(self, guarded: Registry, directory: Path) -> AsyncIterator[Origin]:
        async with ForwardProxy(guarded.port, credential="joe:pr0xy-word") as proxy:
            proxies = Proxies(http=URL(f"http://joe:pr0xy-word@{proxy.address}"))
            config = RegistryConfig(proxies=proxies, listed=LISTED_NAME, plain_http=frozenset({NAME}))
            async with RegistryClient(config, FixedCredentials({NAME: USER})) as client:
                yield RealOriginElsewhere(client, guarded, directory)
            assert all(re.match(f"(GET|HEAD) http://{re.escape(NAME)}/v2/", target) for target in proxy.asked)


@pytest.mark.parametrize(("scheme", "plain_http"), [("http", {NAME}), ("https", set())])
@pytest.mark.parametrize(
    ("user", "problem"),
    [
        ("", "requires a credential"),
        ("joe:wr0ng-word@", "requires a credential"),
        (None, "cannot connect to the proxy"),
    ],
)
async def test_a_proxy_that_refuses(
    encrypted: Registry, scheme: str, plain_http: set[str], user: str | None, problem: str
) -> None:
    async with ForwardProxy(encrypted.port, credential="joe:pr0xy-word") as proxy:
        address = f"127.0.0.1:{free_port()}" if user is None else f"{user}{proxy.address}"
        time = FakeTime()
        config = RegistryConfig(
            proxies=parse_proxies({f"{scheme.upper()}_PROXY": f"http://{address}"}),
            listed=LISTED_NAME,
            plain_http=frozenset(plain_http),
            sleep=time.sleep,
            clock=time.clock,
        )
        async with RegistryClient(config) as client:
            with pytest.raises(RegistryUnavailable, match=problem) as caught:
                await client.resolve(Reference.parse(f"{NAME}/team/app:1"))

    assert "HTTPS_PROXY" in caught.value.hint
    assert "word" not in f"{config!r} {caught.value!r} {caught.value.__cause__!r}"


async def test_a_build_takes_the_proxy_of_its_environment(registry: Registry, directory: Path) -> None:
    registry.push("team/app:1", pause_image(directory / "image"))
    spec = {"images": [f"{NAME}/team/app:1"]}
    annotations = {"k8s.aliyun.com/plain-http-registry": NAME}
    head = {"apiVersion": "eci.alibabacloud.com/v1", "kind": "ImageCache"}
    manifest = directory / "imagecache.yaml"
    manifest.write_text(json.dumps({**head, "metadata": {"name": "app", "annotations": annotations}, "spec": spec}))
    async with ForwardProxy(registry.port) as proxy:
        own = {"IMAGECACHE_STORE": str(directory / "store"), "IMAGECACHE_INSECURE_REGISTRIES": NAME}
        environ = {**environment(), **own, "HTTP_PROXY": proxy.address}
        words = [str(COMMAND), "create", "-f", str(manifest), "--no-attach"]
        running = await asyncio.create_subprocess_exec(*words, env=environ, stderr=asyncio.subprocess.PIPE)
        _, said = await running.communicate()

        assert running.returncode == 0, said.decode()
        assert proxy.asked


@pytest.fixture
def image() -> MemoryImage:
    return memory_image([CONTENT])


@asynccontextmanager
async def client_of(**config: object) -> AsyncIterator[RegistryClient]:
    async with RegistryClient(RegistryConfig(listed=LISTED, **config)) as client:  # type: ignore[arg-type]
        yield client


async def test_a_certificate_that_nobody_trusts(encrypted: Registry, directory: Path, image: MemoryImage) -> None:
    reference = Reference.parse(push(encrypted, "team/app:1", image, directory))
    async with client_of() as client:
        with pytest.raises(RegistryUntrusted, match="not trusted") as caught:
            await client.resolve(reference)

    assert caught.value.image == reference.original
    assert "k8s.aliyun.com/insecure-registry" in caught.value.hint


async def test_an_authority_in_hosts_toml(encrypted: Registry, directory: Path, image: MemoryImage) -> None:
    reference = Reference.parse(push(encrypted, "team/app:1", image, directory))
    folder = directory / "certs" / f"127.0.0.1_{encrypted.port}_"
    folder.mkdir(parents=True)
    (folder / "ca.crt").write_bytes(encrypted.certificate.read_bytes())

    async with client_of(hosts_dir=directory / "certs") as client:
        assert (await client.resolve(reference)).descriptor == image.descriptor


async def test_an_authority_for_every_registry(encrypted: Registry, directory: Path, image: MemoryImage) -> None:
    reference = Reference.parse(push(encrypted, "team/app:1", image, directory))
    async with client_of(authorities=(encrypted.certificate,)) as client:
        assert (await client.resolve(reference)).descriptor == image.descriptor


async def test_tls_where_plain_http_is_said(encrypted: Registry, directory: Path, image: MemoryImage) -> None:
    reference = Reference.parse(push(encrypted, "team/app:1", image, directory))
    async with client_of(plain_http=frozenset({encrypted.address})) as client:
        with pytest.raises(ProtocolViolation, match="answers 400") as caught:
            await client.resolve(reference)

    assert caught.value.image == reference.original
    assert "HTTPS" in caught.value.hint


async def test_plain_http_where_tls_is_wanted(registry: Registry, directory: Path, image: MemoryImage) -> None:
    push(registry, "team/app:1", image, directory)
    folder = directory / "certs" / "registry.example"
    folder.mkdir(parents=True)
    (folder / "hosts.toml").write_text(f'server = "https://{registry.address}"\n')

    async with client_of(hosts_dir=directory / "certs") as client:
        with pytest.raises(RegistryUntrusted, match="does not speak TLS") as caught:
            await client.resolve(Reference.parse("registry.example/team/app:1"))

    assert "k8s.aliyun.com/plain-http-registry" in caught.value.hint


async def test_a_wrong_password(guarded: Registry, directory: Path, image: MemoryImage) -> None:
    reference = Reference.parse(push(guarded, "team/app:1", image, directory))
    wrong = FixedCredentials({guarded.address: Credential(username="alice", password="wr0ng-word", source="test")})  # noqa: S106
    async with RegistryClient(RegistryConfig(listed=LISTED), wrong) as client:
        with pytest.raises(Unauthenticated) as caught:
            await client.resolve(reference)

    assert "was not accepted" in caught.value.hint
    assert "wr0ng-word" not in f"{caught.value!r} {caught.value.hint}"


async def test_the_second_of_two_pull_secrets(guarded: Registry, directory: Path, image: MemoryImage) -> None:
    reference = Reference.parse(push(guarded, "team/app:1", image, directory))
    wrong = Credential(username="alice", password="wr0ng-word", source="secret default:old")  # noqa: S106
    credentials = FixedCredentials({guarded.address: (wrong, USER)})
    async with RegistryClient(RegistryConfig(listed=LISTED), credentials) as client:
        assert (await client.resolve(reference)).verified
        assert (await client.access(reference, image.layers)).private


async def test_a_registry_that_is_restarted_in_the_middle_of_a_layer(directory: Path) -> None:
    image = memory_image([CONTENT * 10])
    layer = image.layers[0]
    with Registry(directory / "restarted") as registry:
        reference = Reference.parse(push(registry, "team/app:1", image, directory))
        time = FakeTime()
        async with client_of(sleep=time.sleep, clock=time.clock, read_buffer=65536) as client:
            stream = client.stream(reference, layer)
            received = bytearray(await anext(stream))
            registry.stop()
            registry.start()
            registry.clear_requests()
            async for chunk in stream:
                received += chunk

        assert received == image.blobs[layer.digest]
        assert [request.status for request in registry.requests()] == [206]


async def test_a_registry_that_is_stopped(directory: Path, image: MemoryImage) -> None:
    with Registry(directory / "stopped") as registry:
        reference = Reference.parse(push(registry, "team/app:1", image, directory))
    time = FakeTime()
    async with client_of(sleep=time.sleep, clock=time.clock) as client:
        with pytest.raises(RegistryUnavailable, match="cannot connect") as caught:
            await client.resolve(reference)

    assert "check that the registry runs" in caught.value.hint
