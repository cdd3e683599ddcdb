"""Fake registries: ``MemorySource`` is an ``ImageSource`` in memory, ``FakeRegistry`` speaks HTTP on loopback.

Both serve images of ``images_oci``. ``FakeRegistry`` fails on demand (``Faults``) and records every request with its
headers, so that tests can prove what was sent where. It must not be lenient: it does only what the specification
promises.
"""

from __future__ import annotations

import base64
import gzip
import json
import ssl
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import msgspec
from aiohttp import web

from imagecache.digest import Digest
from imagecache.errors import DigestMismatch, ImageCacheError, ImageNotFound, LimitExceeded
from imagecache.limits import DEFAULT
from imagecache.oci.descriptor import Descriptor
from imagecache.oci.reference import Reference, naming_image
from imagecache.oci.resolved import Access, Resolved
from imagecache.registry.credentials import Credential
from testkit.clock import FakeClock
from testkit.images_oci import MemoryImage

_CHUNK = 64 * 1024


class MemorySource:
    """Images by repository and tag. ``fail`` makes the next reads of a digest raise."""

    def __init__(self, images: Mapping[str, MemoryImage] | None = None, private: frozenset[str] = frozenset()) -> None:
        self._images: dict[str, dict[str, MemoryImage]] = {}
        self._private = private
        self.unverified: set[str] = set()
        """Repositories whose registry nobody has verified."""
        self.asked: list[str] = []
        """Digests of documents and layers, in the order of the requests."""
        self._failures: dict[Digest, deque[tuple[ImageCacheError, int]]] = {}
        for name, image in (images or {}).items():
            self.add(name, image)

    def add(self, name: str, image: MemoryImage) -> None:
        reference = Reference.parse(name)
        self._images.setdefault(reference.repository, {})[reference.tag] = image

    def fail(self, digest: Digest, error: ImageCacheError, *, after: int = 0) -> None:
        """The next stream of this digest raises after so many bytes."""
        self._failures.setdefault(digest, deque()).append((error, after))

    async def resolve(self, reference: Reference) -> Resolved:
        tags = self._images.get(reference.repository, {})
        if reference.digest is None:
            if reference.tag not in tags:
                raise self._absent(reference, reference.tag)
            descriptor = tags[reference.tag].descriptor
        else:
            descriptor = self._descriptor(reference, reference.digest)
        verified = reference.digest is not None or reference.repository not in self.unverified
        return Resolved(descriptor, self._blob(reference, descriptor.digest), verified)

    async def access(self, reference: Reference, layers: Sequence[Descriptor]) -> Access:
        del layers
        return Access(private=reference.repository in self._private)

    async def document(self, reference: Reference, descriptor: Descriptor) -> bytes:
        if descriptor.size > DEFAULT.config_size:
            raise LimitExceeded(f"{descriptor.size} bytes", image=reference.original)
        self.asked.append(descriptor.digest)
        body = self._blob(reference, descriptor.digest)
        if len(body) != descriptor.size:
            raise DigestMismatch("another size than promised", image=reference.original)
        return body

    async def stream(self, reference: Reference, descriptor: Descriptor, offset: int = 0) -> AsyncGenerator[bytes]:
        if offset >= descriptor.size:
            return
        self.asked.append(descriptor.digest)
        blob = self._blob(reference, descriptor.digest)
        failures = self._failures.get(descriptor.digest)
        error, limit = failures.popleft() if failures else (None, len(blob))
        for start in range(offset, max(limit, offset), _CHUNK):
            yield blob[start : min(start + _CHUNK, limit)]
        if error is not None:
            with naming_image(reference.original):
                raise error

    def _descriptor(self, reference: Reference, digest: Digest) -> Descriptor:
        for image in self._images.get(reference.repository, {}).values():
            if digest in image.media_types:
                size = len(image.blobs[digest])
                return Descriptor(media_type=image.media_types[digest], digest=digest, size=size)
        raise self._absent(reference, digest)

    def _blob(self, reference: Reference, digest: Digest) -> bytes:
        for image in self._images.get(reference.repository, {}).values():
            if digest in image.blobs:
                return image.blobs[digest]
        raise self._absent(reference, digest)

    @staticmethod
    def _absent(reference: Reference, what: str) -> ImageNotFound:
        return ImageNotFound(f"no {what} in {reference.repository}", image=reference.original)


@dataclass
class FakeTime:
    """For ``RegistryConfig``: ``sleep`` returns at once, advances the clock and is recorded."""

    clock: FakeClock = field(default_factory=FakeClock)
    slept: list[float] = field(default_factory=list)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.clock.advance(seconds)


@dataclass
class FixedCredentials:
    """Credentials by host, one or several; records the lookups."""

    known: Mapping[str, Credential | Sequence[Credential]]
    asked: list[tuple[str, str]] = field(default_factory=list)

    async def credentials_for(self, host: str, repository: str) -> Sequence[Credential]:
        self.asked.append((host, repository))
        found = self.known.get(host, ())
        return (found,) if isinstance(found, Credential) else found


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that arrived."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    form: Mapping[str, str] = field(default_factory=dict)

    @property
    def authorization(self) -> str:
        return self.headers.get("Authorization", "")


@dataclass(slots=True)
class Faults:
    """Faults to inject. Each request consumes the leftmost of its queue."""

    statuses: deque[tuple[int, dict[str, str]]] = field(default_factory=deque)
    """Answers to requests for manifests and blobs, instead of the right ones."""
    token_statuses: deque[tuple[int, dict[str, str]]] = field(default_factory=deque)
    token_answer: str | None = None
    """Instead of a token."""
    truncate: deque[int] = field(default_factory=deque)
    """Bytes of blob bodies before the connection breaks."""
    ignore_range: bool = False
    wrong_range: bool = False
    replace: dict[Digest, bytes] = field(default_factory=dict)
    """Other bytes than the digest promises."""
    content_type: str | None = None
    """Of manifests, instead of the right one."""
    digest_header: str | None = None
    encoding: str = ""
    """Content-Encoding that answers state. Nothing is encoded, unless ``encode`` is set."""
    encode: bool = False
    """Compress manifests, blobs and tokens with gzip on the way; ranges are ranges of that when they are served."""
    redirect_blobs: str = ""
    """Blobs are at this base URL."""
    redirect_forever: bool = False
    chunked: bool = False
    """Blobs without a Content-Length."""


class FakeRegistry:
    """An asynchronous context manager; listens on a free port of loopback while inside."""

    def __init__(
        self,
        *,
        auth: str = "",
        users: Mapping[str, str] | None = None,
        host: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._host = host
        self._tls = tls
        self.auth = auth
        """Empty, ``basic`` or ``bearer``."""
        self.users = dict(users or {})
        self.public: set[str] = set()
        """Repositories that an anonymous token opens."""
        self.rights: dict[str, set[str]] = {}
        """Repositories of a user who may not read all."""
        self.denial = 403
        """The answer to a user (basic) without the right; 404: as if the repository did not exist."""
        self.identity_tokens: set[str] = set()
        self.realm = ""
        """Empty: our own token endpoint."""
        self.challenge = 'Bearer realm="{realm}",service="fake",scope="{scope}"'
        self.echo_authorization = False
        """Hostile: error bodies repeat the Authorization header."""
        self.faults = Faults()
        self.seen: list[Seen] = []
        self.tokens: dict[str, str] = {}
        """Valid tokens, with the repository that each is for."""
        self.token_lifetime = 300
        self._images: dict[str, dict[str, MemoryImage]] = {}
        self._runner: web.AppRunner | None = None
        self.address = ""

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/token", self._get_token)
        app.router.add_post("/token", self._post_token)
        app.router.add_get("/v2/{repository:.+}/manifests/{name}", self._manifest)
        app.router.add_get("/v2/{repository:.+}/blobs/{digest}", self._blob)
        app.router.add_get("/away/{repository:.+}/blobs/{digest}", self._blob_without_auth)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, 0, ssl_context=self._tls)
        await site.start()
        name = f"[{self._host}]" if ":" in self._host else self._host
        self.address = f"{name}:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.address}"

    def push(self, name: str, image: MemoryImage) -> str:
        """Store an image under ``repository:tag``; returns the full reference."""
        repository, _, tag = name.partition(":")
        self._images.setdefault(repository, {})[tag] = image
        return f"{self.address}/{name}"

    def paths(self, part: str = "") -> list[str]:
        """Paths of the recorded requests that contain ``part``."""
        return [seen.path for seen in self.seen if part in seen.path]

    # what clients ask

    async def _manifest(self, request: web.Request) -> web.StreamResponse:
        answer = await self._before(request)
        if answer is not None:
            return answer
        repository, name = request.match_info["repository"], request.match_info["name"]
        found = self._find_manifest(repository, name)
        if found is None:
            return self._error(404, "MANIFEST_UNKNOWN", request)
        media_type, body = found
        headers = {"Docker-Content-Digest": self._digest_header(body), **self._encoding()}
        body = self._encoded(self.faults.replace.get(Digest.sha256(body), body))
        return web.Response(body=body, headers={**headers, "Content-Type": self.faults.content_type or media_type})

    async def _blob(self, request: web.Request) -> web.StreamResponse:
        answer = await self._before(request)
        if answer is not None:
            return answer
        if self.faults.redirect_forever:
            return web.Response(status=307, headers={"Location": str(request.url)})
        if self.faults.redirect_blobs:
            target = self.faults.redirect_blobs + request.path.replace("/v2/", "/away/")
            return web.Response(status=307, headers={"Location": target + "?signature=a%2Fb"})
        return await self._send(request)

    async def _blob_without_auth(self, request: web.Request) -> web.StreamResponse:
        """The target of another registry's redirects; the signature must arrive unchanged."""
        await self._remember(request)
        if "signature=a%2Fb" not in request.raw_path:
            return self._error(403, "DENIED", request)
        return await self._send(request)

    async def _send(self, request: web.Request) -> web.StreamResponse:
        digest = Digest(request.match_info["digest"])
        blob = self._find_blob(request.match_info["repository"], digest)
        if blob is None:
            return self._error(404, "BLOB_UNKNOWN", request)
        blob = self._encoded(self.faults.replace.get(digest, blob))
        start = 0 if self.faults.ignore_range else request.http_range.start or 0
        if start > len(blob):
            return web.Response(status=416)
        response = web.StreamResponse(status=206 if start else 200)
        if start:
            shown = start + 1 if self.faults.wrong_range else start
            response.headers["Content-Range"] = f"bytes {shown}-{len(blob) - 1}/{len(blob)}"
        response.headers.update(self._encoding())
        body = blob[start:]
        if self.faults.chunked:
            response.enable_chunked_encoding()
        else:
            response.content_length = len(body)
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        limit = self.faults.truncate.popleft() if self.faults.truncate else None
        await response.write(body[:limit])
        if limit is not None and request.transport is not None:
            request.transport.close()
        return response

    async def _before(self, request: web.Request) -> web.Response | None:
        """Record the request; returns an injected fault, or the answer of authentication."""
        await self._remember(request)
        if self.faults.statuses:
            status, headers = self.faults.statuses.popleft()
            return self._error(status, "UNKNOWN", request, headers)
        return self._check(request)

    async def _remember(self, request: web.Request) -> None:
        form = {key: str(value) for key, value in (await request.post()).items()}
        self.seen.append(Seen(request.method, request.path, dict(request.query), dict(request.headers), form))

    def _encoding(self) -> dict[str, str]:
        return {"Content-Encoding": self.faults.encoding} if self.faults.encoding else {}

    def _encoded(self, body: bytes) -> bytes:
        return gzip.compress(body, 1, mtime=0) if self.faults.encode else body

    def _digest_header(self, body: bytes) -> str:
        return Digest.sha256(body) if self.faults.digest_header is None else self.faults.digest_header

    def _find_manifest(self, repository: str, name: str) -> tuple[str, bytes] | None:
        tags = self._images.get(repository, {})
        for tag, image in tags.items():
            digest = image.descriptor.digest if tag == name else next((d for d in image.media_types if d == name), None)
            if digest is not None:
                return image.media_types[digest], image.blobs[digest]
        return None

    def _find_blob(self, repository: str, digest: Digest) -> bytes | None:
        images = self._images.get(repository, {}).values()
        return next((image.blobs[digest] for image in images if digest in image.blobs), None)

    # authentication

    def _check(self, request: web.Request) -> web.Response | None:
        repository = request.match_info["repository"]
        sent = request.headers.get("Authorization", "")
        user = self._user(sent)
        if self.auth == "basic" and not user:
            return self._error(401, "UNAUTHORIZED", request, {"WWW-Authenticate": 'Basic realm="test"'})
        if self.auth == "basic" and not self._may_read(user, repository):
            return self._error(self.denial, "DENIED", request)
        if self.auth == "bearer" and self.tokens.get(sent.removeprefix("Bearer ")) != repository:
            realm = self.realm or f"{self.url}/token"
            challenge = self.challenge.format(realm=realm, scope=f"repository:{repository}:pull")
            return self._error(401, "UNAUTHORIZED", request, {"WWW-Authenticate": challenge})
        return None

    def _user(self, authorization: str) -> str:
        """Empty: not one of ours, or a wrong password."""
        scheme, _, encoded = authorization.partition(" ")
        user, _, password = base64.b64decode(encoded).decode().partition(":") if scheme == "Basic" else ("", "", "")
        return user if user in self.users and self.users[user] == password else ""

    def _may_read(self, user: str, repository: str) -> bool:
        return user not in self.rights or repository in self.rights[user]

    async def _get_token(self, request: web.Request) -> web.Response:
        await self._remember(request)
        sent = request.headers.get("Authorization", "")
        repository = request.query.get("scope", "").split(":")[1]
        user = self._user(sent)
        if sent and not user:
            return self._error(401, "UNAUTHORIZED", request)
        opens = repository in self.public or (bool(user) and self._may_read(user, repository))
        return self._grant(request, repository, opens=opens)

    async def _post_token(self, request: web.Request) -> web.Response:
        await self._remember(request)
        form = self.seen[-1].form
        if form.get("grant_type") != "refresh_token" or form.get("refresh_token") not in self.identity_tokens:
            return self._error(401, "UNAUTHORIZED", request)
        return self._grant(request, form["scope"].split(":")[1], opens=True)

    def _grant(self, request: web.Request, repository: str, *, opens: bool) -> web.Response:
        """A token. As in the specification, a client without credentials gets one too, for nothing."""
        if self.faults.token_statuses:
            status, headers = self.faults.token_statuses.popleft()
            return self._error(status, "UNKNOWN", request, headers)
        if self.faults.token_answer is not None:
            return web.Response(body=self._encoded(self.faults.token_answer.encode()), headers=self._encoding())
        token = f"fake-token-{len(self.paths('/token'))}"
        if opens:
            self.tokens[token] = repository
        name = "access_token" if request.method == "POST" else "token"  # oauth.md has the one, token.md the other
        return web.json_response({name: token, "expires_in": self.token_lifetime})

    def _error(
        self, status: int, code: str, request: web.Request, headers: Mapping[str, str] | None = None
    ) -> web.Response:
        message = request.headers.get("Authorization", "") if self.echo_authorization else "no"
        body = json.dumps({"errors": [{"code": code, "message": message}]})
        return web.Response(status=status, text=body, content_type="application/json", headers=headers)


def with_size(descriptor: Descriptor, size: int) -> Descriptor:
    """The descriptor with another size: a manifest that lies."""
    return msgspec.structs.replace(descriptor, size=size)
