"""A container's user namespace: which ids of the host the ids of its image become.

containerd tells it with two labels at Prepare (core/snapshots/snapshotter.go), ``0:100000:65536`` or several of these
with commas between: id in the container, id on the host, how many. A snapshotter with the capability ``remap-ids``
answers with the mount options ``uidmap`` and ``gidmap``, and containerd mounts what is below through idmapped clones
(core/mount/mount_idmapped_linux.go). Pure: it must not do I/O.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from imagecache.errors import InvalidSnapshotArgument
from imagecache.snapshotter.snapshot import is_unpack

UID_LABEL = "containerd.io/snapshot/uidmapping"
GID_LABEL = "containerd.io/snapshot/gidmapping"
_RANGE = re.compile(r"(\d{1,10}):(\d{1,10}):(\d{1,10})", re.ASCII)
_NOBODY = 2**32 - 1
"""(uid_t)-1: no id of anybody, so a range that reaches it is not valid (user_namespaces(7))."""


@dataclass(frozen=True, slots=True)
class IdMap:
    uids: str
    """As in the label."""
    gids: str
    root: tuple[int, int]
    """User and group on the host of the container's root."""

    @property
    def options(self) -> tuple[str, str]:
        return f"uidmap={self.uids}", f"gidmap={self.gids}"


def id_map_of(key: str, labels: Mapping[str, str]) -> IdMap | None:
    """What containerd asks for with a snapshot's labels; None: the ids stay as they are.

    It maps both kinds of ids or none. Labels of an unpack come from the image's manifest, so they ask for nothing.
    Raises InvalidSnapshotArgument.
    """
    uids, gids = labels.get(UID_LABEL, ""), labels.get(GID_LABEL, "")
    if not uids or not gids or is_unpack(key):
        return None
    return IdMap(uids, gids, (_of_root(uids), _of_root(gids)))


def _of_root(text: str) -> int:
    """The id on the host of the container's 0."""
    ranges = [_range(each) for each in text.split(",")]
    found = next((host for inside, host, count in ranges if not inside and count), None)
    if found is None:
        raise InvalidSnapshotArgument(f"user namespace mapping {text!r} has no range for id 0, the container's root")
    return found


def _range(text: str) -> tuple[int, int, int]:
    match = _RANGE.fullmatch(text)
    inside, host, count = (int(number) for number in match.groups()) if match else (0, 0, _NOBODY + 1)
    if max(inside, host) + count > _NOBODY:
        raise InvalidSnapshotArgument(
            f"user namespace mapping {text!r} is not <id in the container>:<id on the host>:<how many>, all below 2^32"
        )
    return inside, host, count
