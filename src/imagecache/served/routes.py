"""A request, an answer, and what HTTP says of paths, ranges and fields. Pure.

It must not read the store, and must not know what a connection is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import unquote, urlsplit

from imagecache.digest import Digest
from imagecache.errors import ImageCacheError
from imagecache.served import wire
from imagecache.served.auth import Refused

METHODS = ("GET", "HEAD")
_OPEN = (["livez"], ["readyz"])
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
_SLICE = 256 << 10


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    target: str
    """As it stands in the request line."""
    headers: Mapping[str, str]
    """Names in lower case."""

    @property
    def path(self) -> str:
        """Decoded, without the query: it may be logged."""
        return "/" + "/".join(self.segments)

    @property
    def segments(self) -> list[str]:
        """Of the path, each decoded for itself: an encoded slash divides nothing."""
        return [unquote(segment) for segment in _path(self.target).removeprefix("/").split("/")]

    @property
    def open(self) -> bool:
        """Answered to everybody: kubelet's probes have no token."""
        return self.segments in _OPEN


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    length: int
    """Bytes of the body, also when it is left out (HEAD)."""
    body: Iterable[bytes | memoryview] = ()
    """A piece is good until the next one is asked for. Raises StoreError when the rest cannot be had."""
    headers: Mapping[str, str] = field(default_factory=dict)


def whole(body: bytes, content_type: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(status, len(body), _sliced(body), {"Content-Type": content_type, **(headers or {})})


def problem(status: int, reason: str, message: str, headers: Mapping[str, str] | None = None) -> Answer:
    return whole(wire.problem(reason, message), "application/json", status, headers)


def refusal(refused: Refused) -> Answer:
    headers = {"WWW-Authenticate": "Bearer"} if refused.status == 401 else {}
    return problem(refused.status, refused.reason, refused.message, headers)


def failure(error: ImageCacheError) -> Answer:
    status = wire.status_of(error)
    return problem(status, error.reason, str(error), {"Retry-After": wire.RETRY_AFTER} if status == 503 else {})


def unknown(status: HTTPStatus) -> Answer:
    """No such path, or none for this method."""
    headers = {"Allow": ", ".join(METHODS)} if status is HTTPStatus.METHOD_NOT_ALLOWED else {}
    return problem(status, "NotFound", status.phrase, headers)


def span(wanted: str | None, size: int) -> tuple[int, int] | None:
    """First byte and the one after the last; None for what cannot be satisfied (RFC 9110 14.1.2)."""
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
    """First byte and the one after the last of a range that names both; None for anything else."""
    match = _RANGE.fullmatch(wanted or "")
    if match is None or not match[1] or not match[2]:
        return None
    start, end = int(match[1]), int(match[2]) + 1
    return (start, end) if start < end else None


def no_such_range(size: int | None) -> Answer:
    """``size``: of the whole file; None while that is unknown."""
    headers = {} if size is None else {"Content-Range": f"bytes */{size}"}
    return problem(416, "InvalidInput", "no such range", headers)


def layer_fields(etag: Digest | None, part: str | None, *, final: bool = True) -> dict[str, str]:
    """Header fields of a layer; ``part`` is the Content-Range of an answer that has one."""
    fields = {
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, max-age=31536000, immutable" if final else "no-store",
        "Content-Type": "application/octet-stream",
    }
    return fields | ({"ETag": f'"{etag}"'} if etag else {}) | ({"Content-Range": part} if part else {})


def _path(target: str) -> str:
    """Of the two forms that a request may have, a path or a URL; of anything else, nothing."""
    if target.startswith("/"):
        return target.partition("?")[0]
    try:
        return urlsplit(target).path
    except ValueError:
        return ""


def _sliced(body: bytes) -> Iterator[memoryview]:
    view = memoryview(body)
    return (view[at : at + _SLICE] for at in range(0, len(view), _SLICE))
