"""Who a registry is: names that are absolute, credentials that do not travel in clear, images that came verified."""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from imagecache.errors import InvalidSetting, ProtocolViolation, RegistryUntrusted, Unauthenticated
from imagecache.oci.reference import Reference
from imagecache.registry.connector import absolute
from imagecache.registry.credentials import Credential
from imagecache.registry.listed_hosts import ListedHosts
from testkit.images_oci import MemoryImage, memory_image
from testkit.registry import FakeRegistry, FixedCredentials
from testkit.served import make_certificate

from .conftest import Connect
from .elsewhere import PUBLIC, Names, places

SECRET = "s3cr3t-word"  # noqa: S105 - of the fake registry
ALICE = Credential(username="alice", password=SECRET, source="secret default:pull")
NAME = "registry.example"


@pytest.fixture
def image() -> MemoryImage:
    return memory_image([b"layer " * 1000])


@pytest.fixture
async def public() -> AsyncIterator[FakeRegistry]:
    """A registry in plain HTTP, on the internet."""
    async with FakeRegistry(host=PUBLIC, auth="basic", users={"alice": SECRET}) as registry:
        yield registry


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    return make_certificate(tmp_path / "tls", "server", f"DNS:{NAME}")


@pytest.fixture
async def encrypted(certificate: tuple[Path, Path]) -> AsyncIterator[FakeRegistry]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    async with FakeRegistry(tls=context, users={"alice": SECRET}, host=PUBLIC) as registry:
        yield registry


def hosts_toml(directory: Path, host: str, *lines: str) -> Path:
    """A directory of hosts.toml files for ``RegistryConfig.hosts_dir``."""
    name, _, port = host.partition(":")
    folder = directory / "certs.d" / (f"{name}_{port}_" if port else host)
    folder.mkdir(parents=True)
    (folder / "hosts.toml").write_text("\n".join(lines))
    return directory / "certs.d"


# names


async def test_a_search_domain_completes_no_registry(
    connect: Connect, public: FakeRegistry, image: MemoryImage
) -> None:
    """In a Pod, ``ghcr.io`` may be a Service ``ghcr`` in somebody's namespace ``io``: the resolver tries that first."""
    public.auth = ""
    port = public.address.rpartition(":")[2]
    public.push("team/app:1", image)
    host = f"ghcr.io:{port}"
    names = Names({"ghcr.io": "127.0.0.66", "ghcr.io.": PUBLIC})
    client = await connect(
        listed=ListedHosts(frozenset({host})), plain_http=frozenset({host}), names=names, place_of=places
    )

    assert (await client.resolve(Reference.parse(f"{host}/team/app:1"))).descriptor == image.descriptor

    assert names.asked == ["ghcr.io."]
    assert [seen.headers["Host"] for seen in public.seen] == [host]


async def test_an_absolute_name_changes_no_certificate_check(
    connect: Connect, encrypted: FakeRegistry, certificate: tuple[Path, Path], image: MemoryImage
) -> None:
    port = encrypted.address.rpartition(":")[2]
    encrypted.push("team/app:1", image)
    names = Names({f"{NAME}.": PUBLIC, "other.example.": PUBLIC})
    client = await connect(
        listed=ListedHosts(), plain_http=frozenset(), names=names, place_of=places, authorities=(certificate[0],)
    )

    resolved = await client.resolve(Reference.parse(f"{NAME}:{port}/team/app:1"))
    with pytest.raises(RegistryUntrusted, match="not trusted"):
        await client.resolve(Reference.parse(f"other.example:{port}/team/app:1"))

    assert resolved.verified
    assert [seen.headers["Host"] for seen in encrypted.seen] == [f"{NAME}:{port}"]


def test_which_names_are_absolute(tmp_path: Path) -> None:
    """glibc does not find a name of /etc/hosts with a dot at its end, and asks DNS for nothing that is there."""
    hosts = tmp_path / "hosts"
    hosts.write_text("# 10.0.0.1 comment.example\n10.0.0.2 Own.Example own # more.example\n\n10.0.0.3\n")

    assert absolute("ghcr.io", hosts) == "ghcr.io."
    assert absolute("ghcr.io.", hosts) == "ghcr.io."
    assert absolute("localhost", hosts) == "localhost"
    assert absolute("own.example", hosts) == "own.example"
    assert absolute("comment.example", hosts) == "comment.example."
    assert absolute("more.example", hosts) == "more.example."
    assert absolute("ghcr.io", tmp_path / "absent") == "ghcr.io."


# credentials


async def test_no_credential_in_clear_to_what_nobody_lists(
    connect: Connect, public: FakeRegistry, image: MemoryImage, tmp_path: Path
) -> None:
    """hosts.toml says plain HTTP: layers may come so, passwords may not go so."""
    reference = Reference.parse(public.push("team/app:1", image))
    hosts = hosts_toml(tmp_path, public.address, f'server = "{public.url}"')
    credentials = FixedCredentials({public.address: ALICE})
    config = {"plain_http": frozenset[str](), "hosts_dir": hosts, "place_of": places}
    client = await connect(credentials, listed=ListedHosts(), **config)

    with pytest.raises(Unauthenticated) as caught:
        await client.resolve(reference)

    assert "insecure_registries" in caught.value.hint
    assert {seen.authorization for seen in public.seen} == {""}
    assert credentials.asked == []
    listed = await connect(credentials, listed=ListedHosts(frozenset({public.address})), **config)
    assert (await listed.resolve(reference)).verified


async def test_no_credential_to_a_token_server_in_clear(
    connect: Connect, public: FakeRegistry, image: MemoryImage, tmp_path: Path
) -> None:
    reference = Reference.parse(public.push("team/app:1", image))
    public.auth = "bearer"
    hosts = hosts_toml(tmp_path, public.address, f'server = "{public.url}"')
    client = await connect(
        FixedCredentials({public.address: ALICE}),
        listed=ListedHosts(),
        plain_http=frozenset(),
        hosts_dir=hosts,
        place_of=places,
    )

    with pytest.raises(Unauthenticated):
        await client.resolve(reference)

    assert not [seen for seen in public.seen if seen.authorization.startswith("Basic")]


async def test_no_credential_to_a_certificate_that_nobody_verifies(
    connect: Connect, encrypted: FakeRegistry, image: MemoryImage, tmp_path: Path
) -> None:
    reference = Reference.parse(encrypted.push("team/app:1", image))
    encrypted.auth = "basic"
    hosts = hosts_toml(tmp_path, encrypted.address, f'server = "{encrypted.url}"', "skip_verify = true")
    config = {"plain_http": frozenset[str](), "hosts_dir": hosts, "place_of": places}
    credentials = FixedCredentials({encrypted.address: ALICE})

    with pytest.raises(Unauthenticated):
        await (await connect(credentials, listed=ListedHosts(), **config)).resolve(reference)

    assert {seen.authorization for seen in encrypted.seen} == {""}
    listed = await connect(credentials, listed=ListedHosts(frozenset({encrypted.address})), **config)
    assert (await listed.resolve(reference)).verified


async def test_no_headers_of_hosts_toml_in_clear(
    connect: Connect, public: FakeRegistry, image: MemoryImage, tmp_path: Path
) -> None:
    reference = Reference.parse(public.push("team/app:1", image))
    hosts = hosts_toml(tmp_path, public.address, f'server = "{public.url}"', "[header]", 'x-key = "word"')
    client = await connect(listed=ListedHosts(), plain_http=frozenset(), hosts_dir=hosts, place_of=places)

    with pytest.raises(InvalidSetting, match=re.escape(public.address)):
        await client.resolve(reference)

    assert public.seen == []


async def test_no_fallback_to_plain_http_where_loopback_is_not_listed(
    connect: Connect, registry: FakeRegistry, image: MemoryImage
) -> None:
    """In a cluster: the controller's own loopback."""
    reference = Reference.parse(registry.push("team/app:1", image))

    with pytest.raises(ProtocolViolation):
        await (await connect(listed=ListedHosts(), plain_http=frozenset())).resolve(reference)

    assert registry.seen == []


# images


async def test_an_image_comes_verified_or_not(
    connect: Connect,
    public: FakeRegistry,
    encrypted: FakeRegistry,
    certificate: tuple[Path, Path],
    image: MemoryImage,
    tmp_path: Path,
) -> None:
    public.auth = ""
    clear, tls = (Reference.parse(each.push("team/app:1", image)) for each in (public, encrypted))
    hosts = hosts_toml(tmp_path, public.address, f'server = "{public.url}"')
    hosts_toml(tmp_path, encrypted.address, f'server = "{encrypted.url}"', "skip_verify = true")
    config = {"plain_http": frozenset[str](), "place_of": places}
    lax = await connect(listed=ListedHosts(), hosts_dir=hosts, **config)
    strict = await connect(listed=ListedHosts(), authorities=(certificate[0],), **config)
    listed = await connect(listed=ListedHosts.parse(["127.0.0.0/8"]), hosts_dir=hosts, **config)

    assert not (await lax.resolve(clear)).verified
    assert not (await lax.resolve(tls)).verified
    assert (await lax.resolve(Reference.parse(f"{clear.repository}@{image.descriptor.digest}"))).verified
    assert (await listed.resolve(clear)).verified
    assert (await listed.resolve(tls)).verified
    by_ip = Reference.parse(tls.original.replace(PUBLIC, NAME))
    named = await connect(
        listed=ListedHosts(), authorities=(certificate[0],), names=Names({f"{NAME}.": PUBLIC}), **config
    )
    assert (await named.resolve(by_ip)).verified
    with pytest.raises(RegistryUntrusted):  # the certificate is for other names
        await strict.resolve(tls)
