"""What containerd asks for with the labels of a user namespace."""

from __future__ import annotations

import os

import pytest

from imagecache.errors import InvalidSnapshotArgument
from imagecache.snapshotter.id_map import GID_LABEL, UID_LABEL, id_map_of
from testkit.snapshotter import SnapshotterRig, mounts_for

KEY = "k8s.io/7/container"
IDS = "0:100000:65536"
LABELS = {UID_LABEL: IDS, GID_LABEL: IDS}


def test_root_is_where_the_range_of_id_0_begins() -> None:
    found = id_map_of(KEY, {UID_LABEL: "1:5:10,0:100000:1", GID_LABEL: IDS})

    assert found is not None
    assert found.root == (100000, 100000)


@pytest.mark.parametrize(
    ("key", "labels"),
    [
        (KEY, {}),
        (KEY, {UID_LABEL: IDS}),
        (KEY, {UID_LABEL: IDS, GID_LABEL: ""}),
        ("k8s.io/7/extract-123-abc sha256:00", LABELS),
    ],
)
def test_nothing_is_asked_for(key: str, labels: dict[str, str]) -> None:
    assert id_map_of(key, labels) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0:1",
        "0:1:2:3",
        "a:b:c",
        "-1:0:5",
        "0:4294967295:1",
        "1:100000:65536",
        "0:100000:0",
        "0:1:2,",
    ],
)
def test_what_is_no_mapping_is_refused(text: str) -> None:
    labels = {UID_LABEL: IDS, GID_LABEL: text or ","}

    with pytest.raises(InvalidSnapshotArgument, match="user namespace mapping"):
        id_map_of(KEY, labels)


def test_the_upper_directory_belongs_to_the_mapped_root(rig: SnapshotterRig) -> None:
    base = rig.commit("base")

    mounts = mounts_for(rig.snapshotter.prepare(KEY, base, LABELS))

    upper = (rig.root / "snapshots/2/fs").stat()
    assert (upper.st_uid, upper.st_gid) == (100000, 100000)
    assert mounts[0].options[:2] == (f"uidmap={IDS}", f"gidmap={IDS}")


def test_mounts_after_a_restart_have_the_mapping(rig: SnapshotterRig) -> None:
    base = rig.commit("base")
    before = rig.snapshotter.prepare(KEY, base, LABELS)

    rig.restart()

    assert rig.snapshotter.mounts(KEY) == before


def test_what_containerd_has_copied_is_not_mapped_again(rig: SnapshotterRig) -> None:
    """As by one that does not know that we map: it changes the owners of a copy, and sends the labels all the same."""
    copied = rig.commit("copied")
    os.chown(rig.root / "snapshots/1/fs", 100000, 100000)

    prepared = mounts_for(rig.snapshotter.prepare(KEY, copied, LABELS))

    assert not any("map=" in option for option in prepared[0].options)
    assert rig.snapshotter.mounts(KEY) == prepared
