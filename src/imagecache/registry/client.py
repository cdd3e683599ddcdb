"""The registry client: ``builder.image_source.ImageSource`` over HTTP.

One client per build, so that at its end is known what of an image needed a credential. The servers of a host are tried
in the order of its configuration, the registry itself last, and the user sees the error of the last one. Documents are
verified here; layers are not (the caller hashes them while it writes). Every error names the image as written. See
``docs/adr/0003-registry-client.md``.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from typing import Self, TypeVar

from imagecache.digest import Digest
from imagecache.errors import (
    AccessDenied,
    DigestMismatch,
    ImageCacheError,
    ImageNotFound,
    InvalidSetting,
    LimitExceeded,
    ProtocolViolation,
    RateLimited,
    RegistryError,
    RegistryUnavailable,
    Unauthenticated,
)
from imagecache.oci import mediatypes
from imagecache.oci.descriptor import Descriptor
from imagecache.oci.manifest import detect_media_type
from imagecache.oci.reference import Reference, naming_image
from imagecache.oci.resolved import Access, Resolved
from imagecache.registry.authorizer import Authorizer
from imagecache.registry.blob_stream import BlobStream
from imagecache.registry.config import RegistryConfig
from imagecache.registry.credentials import Credentials, NoCredentials
from imagecache.registry.endpoint import Capability, Endpoint, default_endpoint, host_of, with_user_lists
from imagecache.registry.hosts_toml import configured_endpoints
from imagecache.registry.repository import Repository, is_trusted
from imagecache.registry.token_server import TokenServer
from imagecache.registry.transport import Transport, read_body

_T = TypeVar("_T")
_DENIED = (Unauthenticated, AccessDenied, ImageNotFound)
"""Answers to strangers who may not read something; some registries hide it as absent."""
_ACCEPT = {"Accept": ", ".join(mediatypes.RESOLVABLE)}


class RegistryClient:
    """Reads images from registries; an asynchronous context manager."""

    def __init__(self, config: RegistryConfig | None = None, credentials: Credentials | None = None) -> None:
        self._config = config or RegistryConfig()
        self._credentials = credentials or NoCredentials()
        self._transport = Transport(self._config)
        self._endpoints: dict[str, tuple[Endpoint, ...]] = {}
        self._servers: dict[tuple[Endpoint, str], Repository] = {}

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._transport.__aexit__()

    async def resolve(self, reference: Reference) -> Resolved:
        """The index or manifest that the reference names: by its digest if it has one, else by its tag."""
        with naming_image(reference.original):
            able = Capability.PULL if reference.digest else Capability.RESOLVE
            servers = self._serving(reference, able)
            return await self._first(servers, lambda server: self._resolve(server, reference))

    async def digest(self, reference: Reference) -> Digest:
        """Of what the tag names now, by HEAD: nothing is downloaded where the registry says the digest.

        Raises as ``resolve``.
        """
        with naming_image(reference.original):
            servers = self._serving(reference, Capability.RESOLVE)
            said = await self._first(servers, lambda server: self._said(server, reference))
        return said or (await self.resolve(reference)).descriptor.digest

    async def document(self, reference: Reference, descriptor: Descriptor) -> bytes:
        """A manifest of an index, or a config: whole, bounded, size and digest verified."""
        with naming_image(reference.original):
            servers = self._serving(reference, Capability.PULL)
            return await self._first(servers, lambda server: self._document(server, reference, descriptor))

    async def stream(
        self, reference: Reference, descriptor: Descriptor, offset: int = 0
    ) -> AsyncGenerator[bytes, None]:
        """The blob's bytes from ``offset`` on; resumed after failures; not verified."""
        with naming_image(reference.original):
            servers = self._serving(reference, Capability.PULL)
            path = f"{reference.path}/blobs/{descriptor.digest}"
            blob = BlobStream(self._config, servers, path, descriptor)
            async with contextlib.aclosing(blob.read(offset)) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def access(self, reference: Reference, layers: Sequence[Descriptor]) -> Access:
        """Who may read the image, by all that was asked of its repository; called when everything was read.

        A layer that was in the store already is asked for, without its bytes, if nothing else of a layer was.
        """
        with naming_image(reference.original):
            servers = [
                self._server(endpoint, reference.path)
                for endpoint in self._endpoints_of(reference.host)
                if (endpoint, reference.path) in self._servers
            ]
            denied = await self._is_denied(reference, servers, layers)
            if denied or any(server.authorizer.private for server in servers):
                return Access(private=True)
            for server in servers:
                known = await self._open_to_strangers(server)
                if known is None:
                    note = "counts as private: the registry limits strangers, so nobody knows whether they may read it"
                    return Access(private=True, note=note)
                if not known:
                    return Access(private=True)
            return Access(private=False)

    async def _is_denied(
        self, reference: Reference, servers: Sequence[Repository], layers: Sequence[Descriptor]
    ) -> bool:
        """Whether a layer is refused with every credential; what is given notes itself what was needed for it."""
        own = [layer for layer in layers if not mediatypes.is_foreign(layer.media_type)]
        able = [server for server in servers if Capability.PULL in server.endpoint.capabilities]
        if not own or not able or any(server.asked_blobs for server in servers):
            return False
        path, what = f"{reference.path}/blobs/{own[-1].digest}", f"blob {own[-1].digest}"
        try:
            await self._first(able, lambda server: server.probe(path, what))
        except (RegistryUnavailable, RateLimited):
            raise
        except RegistryError as error:
            # one that answers no HEAD, or has lost it, says nothing of who may read
            return isinstance(error, Unauthenticated | AccessDenied)
        return False

    async def _open_to_strangers(self, server: Repository) -> bool | None:
        """Whether what was read with a credential can be read without; None when that cannot be found out."""
        stranger = self._repository(server.endpoint, server.authorizer.repository, NoCredentials())
        stranger.showed()
        for path in server.authorizer.unproven:
            what = f"{path.rpartition('/')[2]} without a credential"
            try:
                await self._config.new_attempts().run(functools.partial(stranger.probe, path, what))
            except _DENIED:
                return False
            except RegistryError:
                return None
        return True

    async def _resolve(self, server: Repository, reference: Reference) -> Resolved:
        with server.telling():
            resolved = await self._read_resolved(server, reference)
            server.showed()
            return resolved

    async def _read_resolved(self, server: Repository, reference: Reference) -> Resolved:
        wanted = reference.digest or reference.tag
        what = f"manifest {wanted}"
        async with server.get(f"{reference.path}/manifests/{wanted}", what, _ACCEPT) as response:
            content_type = response.headers.get("Content-Type", "")
            if content_type.startswith("text/html"):
                host = host_of(response.url)
                raise ProtocolViolation(
                    f"{host} answers with a web page",
                    hint=f"is {host} a registry? A login page or a proxy may answer instead",
                )
            host = server.endpoint.host
            # By digest, the header cannot matter; by tag, it is checked: a proxy that rewrites a manifest shows here.
            promised = reference.digest or _promised(response.headers.get("Docker-Content-Digest", ""), host)
            limits = self._config.limits
            body = await read_body(response, limits, limits.manifest_size, what, promised)
        digest = promised or Digest.sha256(body)
        _verify(body, digest, what, host)
        media_type = detect_media_type(body, content_type, self._config.limits)
        mediatypes.check_resolved(media_type)
        return Resolved(
            descriptor=Descriptor(media_type=media_type, digest=digest, size=len(body)),
            body=body,
            verified=server.trusted or reference.digest is not None,
            typed=media_type == content_type.partition(";")[0],
        )

    async def _said(self, server: Repository, reference: Reference) -> Digest | None:
        path, what = f"{reference.path}/manifests/{reference.tag}", f"manifest {reference.tag}"
        async with server.get(path, what, _ACCEPT, head=True) as response:
            return _promised(response.headers.get("Docker-Content-Digest", ""), server.endpoint.host)

    async def _document(self, server: Repository, reference: Reference, descriptor: Descriptor) -> bytes:
        is_manifest = mediatypes.is_manifest(descriptor.media_type) or mediatypes.is_index(descriptor.media_type)
        kind = "manifest" if is_manifest else "blob"
        bound = self._config.limits.manifest_size if is_manifest else self._config.limits.config_size
        if descriptor.size > bound:
            raise LimitExceeded(f"{kind} {descriptor.digest} has {descriptor.size} bytes; the limit is {bound}")
        what = f"{kind} {descriptor.digest}"
        headers = {"Accept": descriptor.media_type} if is_manifest else {}
        async with server.get(f"{reference.path}/{kind}s/{descriptor.digest}", what, headers) as response:
            body = await read_body(response, self._config.limits, bound, what, descriptor.digest)
        if len(body) != descriptor.size:
            raise DigestMismatch(
                f"{what} has {len(body)} bytes at {server.endpoint.host}; its descriptor says {descriptor.size}",
                hint="the registry holds a damaged image; push it again",
            )
        _verify(body, descriptor.digest, what, server.endpoint.host)
        return body

    async def _first(self, servers: Sequence[Repository], ask: Callable[[Repository], Coroutine[None, None, _T]]) -> _T:
        """The first answer that is not an error. Only the last server is retried: a broken mirror must not delay us."""
        for server in servers[:-1]:
            with contextlib.suppress(ImageCacheError):
                return await self._config.new_attempts(1).run(functools.partial(ask, server))
        return await self._config.new_attempts().run(functools.partial(ask, servers[-1]))

    def _serving(self, reference: Reference, able: Capability) -> Sequence[Repository]:
        """The servers for a reference that have the capability, in order. Raises InvalidSetting when none has."""
        host = reference.host
        servers = [
            self._server(endpoint, reference.path)
            for endpoint in self._endpoints_of(host)
            if able in endpoint.capabilities
        ]
        if not servers:
            raise InvalidSetting(
                f"no server of {host} has the capability {str(able.name).lower()}, which this image needs",
                hint=f"change the hosts.toml for {host} in {self._config.hosts_dir}",
            )
        return servers

    def _endpoints_of(self, host: str) -> tuple[Endpoint, ...]:
        if host not in self._endpoints:  # hosts.toml is read once for each host and build
            directory = self._config.hosts_dir
            found = configured_endpoints(directory, host) if directory else (default_endpoint(host),)
            self._endpoints[host] = tuple(map(self._allowed, found))
        return self._endpoints[host]

    def _allowed(self, endpoint: Endpoint) -> Endpoint:
        """With what the image cache asks for. Raises InvalidSetting when a secret would be sent to anybody."""
        found = with_user_lists(endpoint, self._config.plain_http, self._config.insecure)
        if found.headers and not is_trusted(found, self._config):
            raise InvalidSetting(
                f"hosts.toml has headers for {found.host}, which would be sent over transport without verification",
                hint=f"remove them, or add {found.host} to the setting insecure_registries",
            )
        return found

    def _server(self, endpoint: Endpoint, repository: str) -> Repository:
        key = (endpoint, repository)  # tokens have a repository as their scope
        if key not in self._servers:
            self._servers[key] = self._repository(endpoint, repository, self._credentials)
        return self._servers[key]

    def _repository(self, endpoint: Endpoint, repository: str, credentials: Credentials) -> Repository:
        tokens = TokenServer(self._transport, self._config, endpoint, repository)
        authorizer = Authorizer(tokens, credentials, safe=is_trusted(endpoint, self._config))
        return Repository(self._transport, self._config, endpoint, authorizer)


def _promised(header: str, host: str) -> Digest | None:
    """What the registry says is the digest of a document that was requested by tag; None when it says nothing."""
    if not header:
        return None
    try:
        return Digest(header)
    except ImageCacheError as error:
        raise ProtocolViolation(f"the Docker-Content-Digest from {host} is not a digest") from error


def _verify(body: bytes, digest: Digest, what: str, host: str) -> None:
    if not digest.matches(body):
        raise DigestMismatch(
            f"{what} from {host} does not have the digest {digest}",
            hint="try again; if it stays, a proxy or the registry changes or damages content",
        )
