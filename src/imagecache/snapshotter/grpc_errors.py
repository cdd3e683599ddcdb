"""Our errors as gRPC status codes: the one table of this edge.

containerd acts on the codes (``errdefs``): any code but FAILED_PRECONDITION from Remove stops its garbage collection.
Source: core/snapshots/storage/bolt.go and the test suite of containerd. It must not decide anything beyond the table.
"""

from __future__ import annotations

from grpclib.const import Status

from imagecache.errors import (
    BlobNotFound,
    HasChildren,
    ImageCacheError,
    InvalidInput,
    InvalidSnapshotArgument,
    NoSpace,
    PrivilegeMissing,
    SnapshotExists,
    SnapshotNotFound,
    StoreBusy,
    StoreCorrupt,
    StoreDenied,
    WrongKind,
)
from imagecache.written import explained

_TABLE: tuple[tuple[type[ImageCacheError], Status], ...] = (
    (SnapshotNotFound, Status.NOT_FOUND),
    (SnapshotExists, Status.ALREADY_EXISTS),
    (WrongKind, Status.FAILED_PRECONDITION),
    (HasChildren, Status.FAILED_PRECONDITION),
    (InvalidSnapshotArgument, Status.INVALID_ARGUMENT),
    (InvalidInput, Status.INVALID_ARGUMENT),
    (BlobNotFound, Status.DATA_LOSS),
    (StoreCorrupt, Status.DATA_LOSS),
    (NoSpace, Status.RESOURCE_EXHAUSTED),
    (StoreDenied, Status.PERMISSION_DENIED),
    (PrivilegeMissing, Status.PERMISSION_DENIED),
    (StoreBusy, Status.UNAVAILABLE),
    (ImageCacheError, Status.INTERNAL),
)
"""Most special first."""


def status_of(error: ImageCacheError) -> Status:
    return next(status for kind, status in _TABLE if isinstance(error, kind))


def message_of(error: ImageCacheError) -> str:
    """What happened and what to do, in one line: kubelet puts it into an event."""
    return explained(str(error), error.hint)
