"""Version 1 of the protocol between a served store and its nodes. Pure.

::

    GET /v1/bundles/{id}                  bundle document (``store.bundle_document.Bundle`` as JSON)
    GET /v1/blobs/{digest}                an original manifest, index or config
    GET /v1/layers/{space}/{digest}       a layer image; one range a request; ETag is its SHA-256 if that is known
    GET /v1/blocks/{space}/{digest}/{n}   8 MiB of a layer image from byte n * 8 MiB on, the last block perhaps less
    GET /v1/builds/{id}/{architecture}    names of the layer images that a running build may make for one, as JSON
    GET /v1/partial/{space}/{digest}      one range of a layer image, as far as it is written; waits for some seconds
    GET /livez, /readyz                   without a token

A block is sent with ``Content-Encoding: zstd`` (``layer.frames``) to a reader that accepts it, and as it is when that
would be no smaller, or when the server has no processor for it now.

The complete length of a partial layer is unknown: ``Content-Range: bytes 4096-8191/*``, and 416 without that field when
nothing of the range is written yet. A response that is no success is ``{"reason": ..., "message": ...}``. ``reason`` is
the name of a class in ``imagecache.errors``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from imagecache import limits
from imagecache.digest import Digest
from imagecache.errors import (
    BlobNotFound,
    ImageCacheError,
    InternalError,
    InvalidDigest,
    InvalidInput,
    MalformedDocument,
    NotFound,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreUnreachable,
)
from imagecache.store.layer_name import LayerName

BUNDLE_ID = re.compile(r"imc-[0-9a-z]{20}")
_ARCHITECTURE = re.compile(r"[0-9a-z_]{1,32}")
_NUMBER = re.compile(r"[0-9]{1,9}")
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")
_NO_RANGE = re.compile(r"bytes \*/([0-9]{1,18})")
BLOCK = 8 << 20
"""Bytes of a block: what a node asks for in one request (``fetch.transfer.FetchSettings.range_size``)."""
ZSTD = "zstd"
"""The content coding (RFC 8878)."""
BUNDLE_LIMIT = 64 << 20
"""Bytes of a bundle document: 20 images of 500 layers are about 10 MB."""
DOCUMENT_LIMIT = max(limits.DEFAULT.manifest_size, limits.DEFAULT.config_size)
"""Bytes of a manifest, index or config: what a build takes, a node can fetch."""
NOT_SELECTED = "NotSelected"
"""Reason, with 403: nothing that has it is for the node that asks."""
RETRY_AFTER = "1"
"""Seconds, with 503."""

_STATUS: tuple[tuple[type[ImageCacheError], int], ...] = (
    (NotFound, 404),
    (BlobNotFound, 404),
    (InvalidDigest, 400),
    (InvalidInput, 400),
    (StoreUnreachable, 503),
    (StoreBusy, 503),
    (StoreError, 500),
    (InternalError, 500),
    (ImageCacheError, 503),
)
"""Most special first. The last one: a failure outside the store and the reader (Kubernetes) passes with time."""
_PERMANENT: dict[str, type[NotFound | BlobNotFound | StoreCorrupt]] = {
    kind.__name__: kind for kind in (NotFound, BlobNotFound, StoreCorrupt)
}


class Problem(msgspec.Struct, frozen=True):
    """The body of a response that is no success."""

    reason: str = ""
    message: str = ""


def status_of(error: ImageCacheError) -> int:
    """The HTTP status for an error of ours."""
    return next(status for kind, status in _STATUS if isinstance(error, kind))


def permanent_error(reason: str) -> type[NotFound | BlobNotFound | StoreCorrupt] | None:
    """The class for a ``reason``, if it is one of those that a retry does not change."""
    return _PERMANENT.get(reason)


def problem(reason: str, message: str) -> bytes:
    return msgspec.json.encode(Problem(reason, message))


def problem_of(body: bytes) -> Problem:
    """Decoded; empty when it is not our server's (a proxy's page)."""
    try:
        return msgspec.json.decode(body, type=Problem)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Problem()


def bundle_path(bundle_id: str) -> str:
    return f"v1/bundles/{bundle_id}"


def document_path(digest: Digest) -> str:
    return f"v1/blobs/{digest}"


def layer_path(name: LayerName) -> str:
    return f"v1/layers/{name.space.value}/{name.digest}"


def block_path(name: LayerName, number: int) -> str:
    return f"v1/blocks/{name.space.value}/{name.digest}/{number}"


def build_path(bundle_id: str, architecture: str) -> str:
    return f"v1/builds/{bundle_id}/{architecture}"


def partial_path(name: LayerName) -> str:
    return f"v1/partial/{name.space.value}/{name.digest}"


def encode_names(names: Iterable[LayerName]) -> bytes:
    return msgspec.json.encode([str(name) for name in names])


def decode_names(body: bytes) -> tuple[LayerName, ...]:
    """Raises MalformedDocument."""
    try:
        return tuple(LayerName.parse(text) for text in msgspec.json.decode(body, type=list[str]))
    except (msgspec.DecodeError, UnicodeDecodeError, InvalidDigest, InvalidInput) as error:
        raise MalformedDocument(f"the list of a build's layers is malformed: {str(error)[:200]}") from error


def content_range(start: int, end: int, size: int | None) -> str:
    return f"bytes {start}-{end - 1}/{'*' if size is None else size}"


def parse_content_range(text: str) -> tuple[int, int, int | None] | None:
    """First byte, the one after the last, and the complete length if that is known; None for anything else.

    None also for what RFC 9110 14.4 calls invalid: no bytes, or bytes behind the end.
    """
    match = _CONTENT_RANGE.fullmatch(text)
    if match is None:
        return None
    start, end, size = int(match[1]), int(match[2]) + 1, None if match[3] == "*" else int(match[3])
    return (start, end, size) if start < end and (size is None or end <= size) else None


def parse_no_range(text: str) -> int | None:
    """The complete length in the Content-Range of a 416, if it has one."""
    match = _NO_RANGE.fullmatch(text)
    return None if match is None else int(match[1])


def check_bundle_id(text: str) -> str:
    """Raises InvalidInput."""
    if not BUNDLE_ID.fullmatch(text):
        raise InvalidInput(f"not a bundle id: {text[:80]!r}", hint="expected imc- and 20 lowercase alphanumerics")
    return text


def parse_number(text: str) -> int:
    """Of a block. Raises InvalidInput."""
    if not _NUMBER.fullmatch(text):
        raise InvalidInput(f"not the number of a block: {text[:80]!r}", hint="expected digits")
    return int(text)


def check_architecture(text: str) -> str:
    """Raises InvalidInput."""
    if not _ARCHITECTURE.fullmatch(text):
        raise InvalidInput(f"not an architecture: {text[:80]!r}", hint="expected GOARCH, for example amd64")
    return text
