"""Requests and responses, and HTTP's rules of paths, ranges and header fields. Pure.

It must not read the store, and must not know what a connection is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import unquote, urlsplit

from imagecache.digest import Digest
from imagecache.errors import ImageCacheError
from imagecache.served import protocol
from imagecache.served.authenticator import Refused

METHODS = ("GET", "HEAD")
_OPEN = (["livez"], ["readyz"])
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
_NO_WEIGHT = re.compile(r"q\s*=\s*0(\.0*)?")
_FINAL = "private, max-age=31536000, immutable"
"""Cache-Control of what a digest names."""
_SLICE = 256 << 10
"""Bytes of one piece of a document: each has ``ServerSettings.send_timeout`` for itself."""


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    target: str
    """As in the request line."""
    headers: Mapping[str, str]
    """Names in lower case."""

    @property
    def path(self) -> str:
        """Decoded, and without the query, so that it may be logged."""
        return "/" + "/".join(self.segments)

    @property
    def segments(self) -> list[str]:
        """Of the path; decoded after the split, so that an encoded slash separates nothing."""
        path = ""  # of a target in neither of the two forms, a path or a URL (RFC 9112 3.2)
        if self.target.startswith("/"):
            path = self.target.partition("?")[0]
        else:
            with suppress(ValueError):
                path = urlsplit(self.target).path
        return [unquote(segment) for segment in path.removeprefix("/").split("/")]

    @property
    def open(self) -> bool:
        """Needs no token: kubelet's probes have none."""
        return self.segments in _OPEN


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    length: int
    """Bytes of the body, also when it is not sent (HEAD)."""
    body: Iterable[bytes | memoryview] = ()
    """A piece is valid until the next one is taken. Raises StoreError when the rest cannot be read."""
    headers: Mapping[str, str] = field(default_factory=dict)


def whole(body: bytes, content_type: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    view = memoryview(body)
    pieces = (view[at : at + _SLICE] for at in range(0, len(view), _SLICE))
    return Response(status, len(body), pieces, {"Content-Type": content_type, **(headers or {})})


def problem(status: int, reason: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return whole(protocol.problem(reason, message), "application/json", status, headers)


def refusal(refused: Refused) -> Response:
    headers = {"WWW-Authenticate": "Bearer"} if refused.status == 401 else {}
    return problem(refused.status, refused.reason, refused.message, headers)


def failure(error: ImageCacheError) -> Response:
    status = protocol.status_of(error)
    return problem(status, error.reason, str(error), {"Retry-After": protocol.RETRY_AFTER} if status == 503 else {})


def unknown(status: HTTPStatus) -> Response:
    """No such path, or none for this method."""
    headers = {"Allow": ", ".join(METHODS)} if status is HTTPStatus.METHOD_NOT_ALLOWED else {}
    return problem(status, "NotFound", status.phrase, headers)


def span(wanted: str | None, size: int) -> tuple[int, int] | None:
    """First byte and the one after the last; None for a range that cannot be satisfied (RFC 9110 14.1.2)."""
    if wanted is None:
        return 0, size
    match = _RANGE.fullmatch(wanted)
    if match is None or match[0] == "bytes=-":
        return None
    first, last = match.groups()
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
    return (start, end) if start < end else None


def from_to(wanted: str | None) -> tuple[int, int] | None:
    """First byte and the one after the last, of a range that has both; None for anything else."""
    match = _RANGE.fullmatch(wanted or "")
    if match is None or not match[1] or not match[2]:
        return None
    start, end = int(match[1]), int(match[2]) + 1
    return (start, end) if start < end else None


def accepts(wanted: str | None, coding: str) -> bool:
    """Whether an Accept-Encoding names a coding, and not with a weight of 0 (RFC 9110 12.5.3)."""
    for each in (wanted or "").split(","):
        word, _, weight = (part.strip().lower() for part in each.partition(";"))
        if word == coding:
            return _NO_WEIGHT.fullmatch(weight) is None
    return False


def no_such_range(size: int | None) -> Response:
    """``size``: of the whole file; None while it is unknown."""
    headers = {} if size is None else {"Content-Range": f"bytes */{size}"}
    return problem(416, "InvalidInput", "no such range", headers)


def block_fields(coding: str | None) -> dict[str, str]:
    """Header fields of a block of a layer."""
    fields = {"Cache-Control": _FINAL, "Content-Type": "application/octet-stream", "Vary": "Accept-Encoding"}
    return fields | ({"Content-Encoding": coding} if coding else {})


def layer_fields(etag: Digest | None, content_range: str | None, *, final: bool = True) -> dict[str, str]:
    """Header fields of a layer. ``final`` False: the same bytes may be others the next time."""
    fields = {
        "Accept-Ranges": "bytes",
        "Cache-Control": _FINAL if final else "no-store",
        "Content-Type": "application/octet-stream",
    }
    return (
        fields | ({"ETag": f'"{etag}"'} if etag else {}) | ({"Content-Range": content_range} if content_range else {})
    )
