"""Layers that the store has: no pull, one mount, and no trouble that is not a pull."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from imagecache.digest import ChainID, Digest
from imagecache.errors import BlobNotFound, SnapshotExists, SnapshotNotFound, StoreBusy
from imagecache.snapshotter.mounts import SHORT_INODES, STABLE_INODES
from imagecache.snapshotter.snapshot import IMAGE_LABEL, REF_LABEL, Kind, Usage
from imagecache.store.layer_name import LayerName
from testkit.snapshotter import SETTINGS, SnapshotterRig, mounts_for
from testkit.store import MemoryLayers


def targets(rig: SnapshotterRig) -> list[str]:
    return sorted(path.name for path in rig.mounter.mounts)


def test_containerd_finds_what_it_was_told_is_there(rig: SnapshotterRig) -> None:
    image = rig.image("base", "app")
    names = rig.pull(image)
    base, app = rig.infos

    assert [base.name, app.name] == names
    assert (base.kind, base.parent, app.parent) == (Kind.COMMITTED, "", base.name)
    assert app.labels == {REF_LABEL: image[1].chain_id}
    assert rig.snapshotter.usage(names[0]) == Usage(image[0].size, 1)


def test_a_container_stands_on_the_mounted_layers(rig: SnapshotterRig) -> None:
    image = rig.image("base", "app")
    names = rig.pull(image)
    (mount,) = rig.container(names[-1])

    assert f"lowerdir={rig.root}/m/2:{rig.root}/m/1" in mount.options
    assert {target.name: file for target, file in rig.mounter.mounts.items()} == {
        "1": image[0].path,
        "2": image[1].path,
    }


@pytest.mark.parametrize("stable", [True, False])
def test_a_layer_image_below_has_stable_inode_numbers_unless_set(tmp_path: Path, *, stable: bool) -> None:
    rig = SnapshotterRig(tmp_path / "root", replace(SETTINGS, stable_inodes=stable))
    (served,) = rig.pull(rig.image("base"))
    key = rig.key("container")
    (alone,) = mounts_for(rig.snapshotter.prepare(key, served))
    pulled = rig.commit("app", served)
    (mixed,) = rig.container(pulled)
    (asked,) = rig.snapshotter.mounts(key)
    (viewed,) = rig.snapshotter.view("view", pulled)
    rig.snapshotter.close()

    expected = STABLE_INODES if stable else SHORT_INODES
    assert [mount.options[-1] for mount in (alone, mixed, asked, viewed)] == [expected] * 4


def test_a_view_of_one_layer_is_its_mount(rig: SnapshotterRig) -> None:
    (name,) = rig.pull(rig.image("base"))
    (mount,) = rig.snapshotter.view("v", name)

    assert (mount.type, mount.source, mount.options) == ("bind", f"{rig.root}/m/1", ("ro", "rbind"))


def test_the_same_question_has_the_same_answer(rig: SnapshotterRig) -> None:
    image = rig.image("base", "app")

    assert rig.pull(image) == rig.pull(image)
    assert len(rig.infos) == 2


@pytest.mark.parametrize(
    ("label", "is_served"),
    [
        ({}, True),
        ({IMAGE_LABEL: "registry.example.com/team/app:1"}, True),
        ({IMAGE_LABEL: "registry.example.com/team/app@sha256:" + "a" * 64}, True),
        ({IMAGE_LABEL: "registry.example.com/evil/app:1"}, False),
        ({IMAGE_LABEL: "registry.example.com/team/app2:1"}, False),
        ({IMAGE_LABEL: "no reference at all"}, False),
    ],
)
def test_a_private_chain_is_for_pulls_of_its_repository(
    rig: SnapshotterRig, label: dict[str, str], *, is_served: bool
) -> None:
    (layer,) = rig.image("secret")
    rig.layers.private[layer.chain_id] = {"registry.example.com/team/app"}

    answer = rig.snapshotter.prepare(rig.key(f"extract-1 {layer.chain_id}"), "", {REF_LABEL: layer.chain_id, **label})

    assert (len(rig.infos) == 1 and rig.infos[0].kind is Kind.COMMITTED) is is_served, answer


def test_two_namespaces_share_a_snapshot(rig: SnapshotterRig) -> None:
    image = rig.image("base", "app")

    assert rig.pull(image) == rig.pull(image, namespace="moby")


def test_the_same_layer_twice_in_an_image_is_mounted_once(rig: SnapshotterRig) -> None:
    names = rig.pull(rig.image("base", "same", "same"))

    assert len(set(names)) == 3
    assert targets(rig) == ["1", "2"]


def test_a_label_that_was_taken_away_comes_back(rig: SnapshotterRig) -> None:
    image = rig.image("base")
    names = rig.pull(image)
    rig.snapshotter.update(names[0], {"containerd.io/snapshot/x": "1"})

    assert rig.pull(image) == names
    assert rig.snapshotter.stat(names[0]).labels == {REF_LABEL: image[0].chain_id, "containerd.io/snapshot/x": "1"}


def test_what_the_store_lacks_is_pulled(rig: SnapshotterRig) -> None:
    image = rig.image("base", "app")
    rig.layers.withdraw(image[1])
    (base,) = rig.pull(image[:1])

    assert rig.unpack(image[1].chain_id, base) is None


def test_a_served_layer_goes_on_a_pulled_one_with_the_right_chain(rig: SnapshotterRig) -> None:
    image = rig.image("base", "app")
    rig.layers.withdraw(image[0])
    chain = image[0].chain_id
    pulled = rig.commit(chain, labels={REF_LABEL: chain})
    name = rig.unpack(image[1].chain_id, pulled)

    assert name is not None
    assert rig.snapshotter.stat(name).parent == pulled
    (mount,) = rig.container(name)
    assert f"lowerdir={rig.root}/m/1:{rig.root}/snapshots/1/fs" in mount.options


@pytest.mark.parametrize("parent", ["", "other", "unknown", "active"])
def test_a_layer_is_not_served_on_anything_else(rig: SnapshotterRig, parent: str) -> None:
    image = rig.image("base", "app")
    rig.snapshotter.prepare("active")
    name = rig.commit("other") if parent == "other" else parent
    key = rig.key(f"extract-1-a {image[1].chain_id}")
    labels = {REF_LABEL: str(image[1].chain_id)}
    if parent in {"", "other"}:
        rig.snapshotter.prepare(key, name, labels)
        assert rig.snapshotter.stat(key).kind is Kind.ACTIVE
    else:
        with pytest.raises(Exception, match=parent):
            rig.snapshotter.prepare(key, name, labels)
    assert not rig.mounter.mounts


def test_a_label_on_anything_but_an_unpack_is_not_believed(rig: SnapshotterRig) -> None:
    """The annotations of a pod become labels of its sandbox's snapshot."""
    (layer,) = rig.image("base")
    rig.snapshotter.prepare(rig.key("sandbox"), "", {REF_LABEL: layer.chain_id})
    rig.snapshotter.view(rig.key(f"extract-1-a {layer.chain_id}"), "", {REF_LABEL: layer.chain_id})

    assert [info.kind for info in rig.infos] == [Kind.ACTIVE, Kind.VIEW]


def test_a_mount_that_fails_is_a_pull(rig: SnapshotterRig) -> None:
    (layer,) = rig.image("base")
    rig.mounter.broken.add(layer.path)

    assert rig.unpack(layer.chain_id) is None
    assert not rig.held
    assert not rig.names


class _Collected(MemoryLayers):
    """Every file goes between ``lookup`` and ``hold``."""

    def lease(self, holder: str, name: LayerName) -> None:
        self.lose(name)
        super().lease(holder, name)


def test_a_file_that_goes_while_we_look_is_a_pull(tmp_path: Path) -> None:
    rig = SnapshotterRig(tmp_path / "root", layers=_Collected())
    (layer,) = rig.image("base")

    assert rig.unpack(layer.chain_id) is None
    assert not rig.held
    rig.snapshotter.close()


def test_a_mount_that_hangs_is_a_pull_for_everybody_else(rig: SnapshotterRig) -> None:
    (layer,) = rig.image("base")
    rig.mounter.gate.clear()
    hanging = threading.Thread(target=rig.unpack, args=(layer.chain_id,))
    hanging.start()
    assert rig.mounter.entered.wait(10)

    assert rig.unpack(layer.chain_id) is None
    assert rig.snapshotter.walk() == []
    rig.snapshotter.cleanup()
    rig.mounter.gate.set()
    hanging.join()
    assert len(rig.names) == 1


def test_a_container_on_a_hanging_mount_is_an_error_in_time(rig: SnapshotterRig) -> None:
    (layer,) = rig.image("base")
    (name,) = rig.pull([layer])
    rig.reboot()
    rig.mounter.gate.clear()
    rig.mounter.entered.clear()
    hanging = threading.Thread(target=rig.container, args=(name,))
    hanging.start()
    assert rig.mounter.entered.wait(10)
    with pytest.raises(StoreBusy, match="has not ended"):
        rig.container(name)
    rig.mounter.gate.set()
    hanging.join()


def test_after_a_reboot_prepare_view_and_mounts_mount_again(rig: SnapshotterRig) -> None:
    names = rig.pull(rig.image("base", "app"))
    rig.snapshotter.prepare("container", names[1])
    calls: list[Callable[[], object]] = [
        lambda: rig.snapshotter.mounts("container"),
        lambda: rig.snapshotter.prepare("another", names[1]),
        lambda: rig.snapshotter.view("view", names[1]),
    ]
    for call in calls:
        rig.reboot()
        assert not rig.mounter.mounts
        call()
        assert targets(rig) == ["1", "2"]


def test_a_restart_changes_nothing(rig: SnapshotterRig) -> None:
    names = rig.pull(rig.image("base", "app"))
    rig.mounter.calls.clear()
    rig.restart()
    rig.snapshotter.cleanup()

    assert rig.names == names
    assert targets(rig) == ["1", "2"]
    assert not rig.mounter.calls


def test_a_layer_that_was_set_aside_is_a_clear_error(rig: SnapshotterRig) -> None:
    image = rig.image("base")
    (name,) = rig.pull(image)
    rig.layers.lose(image[0].name)
    rig.container(name)
    rig.reboot()
    with pytest.raises(BlobNotFound, match=str(image[0].name)) as caught:
        rig.container(name)

    assert "ImageCache" in caught.value.hint


def test_the_last_snapshot_of_a_layer_takes_mount_and_hold_along(rig: SnapshotterRig) -> None:
    names = rig.pull(rig.image("base", "same", "same"))
    assert len(rig.held) == 2
    for name, left in ((names[2], ["1", "2"]), (names[1], ["1"]), (names[0], [])):
        rig.snapshotter.remove(name)
        rig.snapshotter.cleanup()
        assert targets(rig) == left

    assert not rig.held
    assert not rig.mounter.mounts
    assert list((rig.root / "m").iterdir()) == []


def test_what_is_busy_goes_later(rig: SnapshotterRig) -> None:
    names = rig.pull(rig.image("base"))
    target = rig.root / "m/1"
    rig.mounter.busy.add(target)
    rig.snapshotter.remove(names[0])
    assert not rig.snapshotter.cleanup(), "something is left"
    assert not rig.names
    assert rig.held
    rig.restart()
    rig.snapshotter.cleanup()
    assert rig.mounter.mounted(target)
    rig.mounter.busy.clear()
    assert rig.snapshotter.cleanup()

    assert not rig.mounter.mounts
    assert not rig.held


def test_a_layer_comes_back_after_its_collection(rig: SnapshotterRig) -> None:
    image = rig.image("base")
    first = rig.pull(image)
    rig.snapshotter.remove(first[0])
    assert rig.pull(image) == first
    assert targets(rig) == ["1"], "it was not unmounted yet"
    rig.snapshotter.remove(first[0])
    rig.snapshotter.cleanup()

    assert rig.pull(image) == first
    assert targets(rig) == ["2"]


def test_the_observer_hears_of_containers_and_not_of_unpacks(rig: SnapshotterRig) -> None:
    image = rig.image("base", "app")
    names = rig.pull(image)
    files = (image[1].path, image[0].path)
    rig.unpack(image[1].chain_id, names[0])
    assert rig.observer.reads == []
    rig.snapshotter.prepare("container", names[1])
    rig.snapshotter.mounts("container")

    assert rig.observer.reads == [files, files]


def test_the_observer_hears_of_lookups_and_releases(rig: SnapshotterRig) -> None:
    (name,) = rig.pull(rig.image("base"))
    assert rig.unpack(ChainID(Digest.sha256(b"foreign"))) is None
    assert rig.observer.lookups == [True, False]
    assert rig.observer.releases == 0

    rig.snapshotter.remove(name)
    rig.snapshotter.cleanup()

    assert rig.observer.releases == 1


def test_after_a_lost_database_containerds_names_work_again(rig: SnapshotterRig) -> None:
    image = rig.image("base", "app", "config")
    names = rig.pull(image)
    rig.lose_database()
    rig.container(names[-1])

    assert set(names) < set(rig.names)
    assert rig.snapshotter.stat(names[1]).parent == names[0]


def test_a_stat_brings_a_lost_snapshot_back(rig: SnapshotterRig) -> None:
    names = rig.pull(rig.image("base", "app"))
    rig.lose_database()

    assert rig.snapshotter.stat(names[1]).parent == names[0]
    assert rig.pull(rig.image("base", "app")) == names


def test_a_lost_pulled_snapshot_comes_back_when_the_store_serves_it_now(rig: SnapshotterRig) -> None:
    image = rig.image("base", "app")
    lost = f"k8s.io/4/{image[1].chain_id}"
    rig.container(lost)

    assert rig.snapshotter.stat(lost).labels == {REF_LABEL: image[1].chain_id}


def test_mounts_of_a_lost_database_are_replaced(rig: SnapshotterRig) -> None:
    names = rig.pull(rig.image("base"))
    rig.lose_database()
    rig.container(names[0])
    rig.snapshotter.cleanup()

    assert targets(rig) == ["2"]


def test_a_stat_never_waits_for_a_mount(rig: SnapshotterRig) -> None:
    image = rig.image("base", "app")
    names = rig.pull(image)
    rig.reboot()
    rig.lose_database()
    rig.mounter.gate.clear()

    assert rig.snapshotter.stat(names[1]).parent == names[0]
    assert not rig.mounter.mounts
    rig.mounter.gate.set()
    rig.container(names[1])
    assert len(rig.mounter.mounts) == 2


@pytest.mark.parametrize("lost", ["base", "app"])
def test_what_cannot_be_made_again_is_not_found(rig: SnapshotterRig, lost: str) -> None:
    image = rig.image("base", "app")
    rig.layers.withdraw(image[["base", "app"].index(lost)])
    name = f"k8s.io/4/{image[1].chain_id}"
    with pytest.raises(SnapshotNotFound):
        rig.snapshotter.prepare("container", name)
    with pytest.raises(SnapshotNotFound):
        rig.snapshotter.stat(name)


def test_what_was_removed_stays_removed(rig: SnapshotterRig) -> None:
    (name,) = rig.pull(rig.image("base"))
    rig.snapshotter.remove(name)
    with pytest.raises(SnapshotNotFound):
        rig.snapshotter.stat(name)
    with pytest.raises(SnapshotNotFound):
        rig.snapshotter.prepare("container", name)


def test_many_at_once(rig: SnapshotterRig) -> None:
    image = rig.image(*(f"layer {number}" for number in range(4)))
    wrong: list[BaseException] = []

    def pull(number: int) -> None:
        try:
            names = rig.pull(image)
            rig.snapshotter.prepare(f"container {number}", names[-1])
            rig.snapshotter.cleanup()
        except BaseException as error:  # noqa: BLE001 - whatever a thread met, the test reports
            wrong.append(error)

    threads = [threading.Thread(target=pull, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []
    assert len(rig.infos) == 12
    assert len(rig.mounter.mounts) == 4


def test_an_unpack_with_a_key_in_use_is_refused(rig: SnapshotterRig) -> None:
    rig.snapshotter.prepare("extract-1-a x")
    with pytest.raises(SnapshotExists, match="already exists"):
        rig.snapshotter.prepare("extract-1-a x")
