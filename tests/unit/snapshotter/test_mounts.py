"""The shapes of containerd's overlay snapshotter."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagecache.errors import InvalidSetting
from imagecache.snapshotter.id_map import GID_LABEL, UID_LABEL, id_map_of
from imagecache.snapshotter.mounts import Mount, Own, check_root, mounts_of, overlay_options
from imagecache.snapshotter.snapshot import Kind

OWN = Own(Path("/r/snapshots/9/fs"), Path("/r/snapshots/9/work"))
LOWERS = [Path("/r/m/2"), Path("/r/snapshots/1/fs")]


@pytest.mark.parametrize(
    ("kind", "lowers", "mount"),
    [
        (Kind.ACTIVE, 0, Mount("bind", "/r/snapshots/9/fs", ("rw", "rbind"))),
        (Kind.VIEW, 0, Mount("bind", "/r/snapshots/9/fs", ("ro", "rbind"))),
        (Kind.VIEW, 1, Mount("bind", "/r/m/2", ("ro", "rbind"))),
        (Kind.VIEW, 2, Mount("overlay", "overlay", ("lowerdir=/r/m/2:/r/snapshots/1/fs", "index=off"))),
        (
            Kind.ACTIVE,
            1,
            Mount(
                "overlay",
                "overlay",
                ("workdir=/r/snapshots/9/work", "upperdir=/r/snapshots/9/fs", "lowerdir=/r/m/2", "index=off"),
            ),
        ),
    ],
)
def test_shapes(kind: Kind, lowers: int, mount: Mount) -> None:
    assert mounts_of(kind, OWN, LOWERS[:lowers], ("index=off",)) == (mount,)


@pytest.mark.parametrize(
    ("layer_images", "stable_inodes", "options"),
    [
        (False, True, ("index=off",)),
        (True, True, ("index=off", "xino=on")),
        (True, False, ("index=off", "xino=off")),
        (False, False, ("index=off",)),
    ],
)
def test_inode_numbers_are_decided_above_layer_images(
    *, layer_images: bool, stable_inodes: bool, options: tuple[str, ...]
) -> None:
    assert overlay_options(layer_images=layer_images, stable_inodes=stable_inodes) == options


@pytest.mark.parametrize("lowers", [0, 1, 2])
def test_what_is_written_to_is_never_read_only(lowers: int) -> None:
    assert all("ro" not in mount.options for mount in mounts_of(Kind.ACTIVE, OWN, LOWERS[:lowers]))


def test_a_committed_snapshot_has_no_mounts() -> None:
    with pytest.raises(ValueError, match="committed"):
        mounts_of(Kind.COMMITTED, OWN, LOWERS)


@pytest.mark.parametrize("root", ["/a:b", "/a,b", "/a\\b", "relative"])
def test_roots_that_overlay_options_cannot_express(root: str) -> None:
    with pytest.raises(InvalidSetting):
        check_root(Path(root))


def test_the_default_root_leaves_room_for_many_layers() -> None:
    """containerd shortens lower directories by their common parent; 4096 bytes must do for 128 of them."""
    root = "/var/lib/containerd/io.containerd.snapshotter.v1.imagecache"
    lowers = [Path(f"{root}/m/{number}") for number in range(100_000, 100_128)]
    (mount,) = mounts_of(Kind.ACTIVE, Own(Path(f"{root}/snapshots/1/fs"), Path(f"{root}/snapshots/1/work")), lowers)
    shortened = ",".join(mount.options).replace(f"{root}/m/", "").replace(root, "")

    assert len(shortened) < 4096 - 512


def test_a_layer_that_is_there_twice_is_mounted_at_its_nearest_place() -> None:
    own = Own(Path("/own/fs"), Path("/own/work"))
    base, repeated, between = (Path(f"/m/{number}") for number in (1, 2, 3))

    (mount,) = mounts_of(Kind.ACTIVE, own, [repeated, between, repeated, base])

    assert "lowerdir=/m/2:/m/3:/m/1" in mount.options


def test_a_mapping_is_the_first_option() -> None:
    """As containerd's own overlay snapshotter has it."""
    labels = {UID_LABEL: "0:100000:65536", GID_LABEL: "0:200000:65536,70000:5:1"}
    id_map = id_map_of("k8s.io/1/container", labels)

    (bound,) = mounts_of(Kind.ACTIVE, OWN, (), id_map=id_map)
    (stacked,) = mounts_of(Kind.ACTIVE, OWN, LOWERS, ("index=off",), id_map=id_map)

    mapping = ("uidmap=0:100000:65536", "gidmap=0:200000:65536,70000:5:1")
    assert bound.options == (*mapping, "rw", "rbind")
    assert stacked.options[:2] == mapping
    assert stacked.options[-1] == "index=off"
