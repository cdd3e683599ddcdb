"""Our values as containerd's protobuf messages. Pure: it must not do I/O."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

from google.protobuf.timestamp_pb2 import Timestamp

from imagecache._proto.containerd import mount_pb2, snapshots_pb2
from imagecache.snapshotter.mounts import Mount
from imagecache.snapshotter.snapshot import Info, Kind

_KINDS = {
    Kind.VIEW: snapshots_pb2.VIEW,
    Kind.ACTIVE: snapshots_pb2.ACTIVE,
    Kind.COMMITTED: snapshots_pb2.COMMITTED,
}


def mounts_message(mounts: Iterable[Mount]) -> list[mount_pb2.Mount]:
    return [mount_pb2.Mount(type=m.type, source=m.source, options=m.options) for m in mounts]


def info_message(info: Info) -> snapshots_pb2.Info:
    return snapshots_pb2.Info(
        name=info.name,
        parent=info.parent,
        kind=_KINDS[info.kind],
        created_at=_timestamp(info.created),
        updated_at=_timestamp(info.updated),
        labels=dict(info.labels),
    )


def _timestamp(moment: dt.datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
