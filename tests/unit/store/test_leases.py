from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagecache.digest import Digest
from imagecache.errors import NoSpace
from imagecache.store import build_leases
from imagecache.store.durable_files import write_all
from imagecache.store.layer_name import LayerName, Space
from imagecache.store.locks import locked
from imagecache.store.store import Store

ONE, TWO, THREE = (LayerName(space=Space.LAYERS, digest=Digest.sha256(text)) for text in (b"1", b"2", b"3"))
CHAIN = LayerName(space=Space.CHAINS, digest=ONE.digest)
BUNDLE, OTHER = "imc-" + "0" * 20, "imc-" + "1" * 20


def test_held_says_what_and_by_whom(store: Store) -> None:
    store.leases.lease("a", ONE)
    store.leases.lease("b", ONE)
    store.leases.lease_many("b", [TWO, CHAIN])

    assert store.leases.leased() == {ONE: {"a", "b"}, TWO: {"b"}, CHAIN: {"b"}}
    assert store.leases.of("b") == {ONE, TWO, CHAIN}


def test_holds_outlive_the_process(store: Store) -> None:
    store.leases.lease("a", ONE)

    assert Store.open(store.root).leases.of("a") == {ONE}


def test_release_all_is_for_one_holder(store: Store) -> None:
    store.leases.lease_many("a", [ONE, TWO])
    store.leases.lease("b", ONE)
    assert store.leases.holders() == {"a", "b"}
    store.leases.release_all("a")

    assert store.leases.leased() == {ONE: {"b"}}
    assert store.leases.holders() == {"b"}
    store.leases.release_all("a")
    store.leases.lease("a", ONE)
    assert store.leases.of("a") == {ONE}


def test_what_another_process_released_can_be_held_again(store: Store) -> None:
    store.leases.lease("a", ONE)
    Store.open(store.root).leases.release("a", ONE)

    store.leases.lease("a", ONE)

    assert store.leases.of("a") == {ONE}


def test_a_burst_is_one_sync(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr("imagecache.store.leases.fsync_directory", synced.append)
    names = [LayerName(space=Space.LAYERS, digest=Digest.sha256(str(number).encode())) for number in range(100)]

    store.leases.lease_many("a", names)
    store.leases.lease_many("a", names)
    store.leases.lease("a", names[50])

    assert synced == [store.paths.holder("a"), store.paths.node_leases]


def test_foreign_files_among_the_leases_are_ignored(store: Store) -> None:
    store.leases.lease("a", ONE)
    (store.paths.holder("a") / "notes").touch()
    (store.paths.node_leases / "stray").touch()

    assert store.leases.leased() == {ONE: {"a"}}


def live(store: Store) -> Iterator[tuple[set[LayerName], set[Digest]]]:
    return ((set(names), set(digests)) for _build, names, digests in build_leases.live_builds(store.paths))


def test_a_build_lease_lives_as_long_as_its_block(store: Store) -> None:
    with store.leases.build_lease([ONE, CHAIN], [TWO.digest]) as lease:
        lease.add([THREE])
        lease.add(digests=[THREE.digest])

        assert list(live(store)) == [({ONE, CHAIN, THREE}, {TWO.digest, THREE.digest})]
    assert list(live(store)) == []
    assert list(store.paths.build_leases.iterdir()) == []


def test_the_remains_of_a_killed_build_count_for_nothing(store: Store) -> None:
    remains = store.paths.build_leases / "4711-abc.lease"
    remains.write_text(f"{ONE}\n{ONE.digest}\nlay")

    assert list(live(store)) == []
    assert not remains.exists()


def test_a_lease_that_did_not_fit_on_the_disk_keeps_what_it_had(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: bytes, offset: int) -> None:
        write_all(fd, data[:20], offset)
        raise OSError(28, "No space left on device")

    with store.leases.build_lease([ONE]) as lease:
        with monkeypatch.context() as patch:
            patch.setattr(build_leases, "write_all", full)
            with pytest.raises(NoSpace):
                lease.add([TWO])
        lease.add([THREE])

        assert list(live(store)) == [({ONE, THREE}, set())]


def test_a_build_lease_that_cannot_be_written_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_fd: int, _data: bytes, _offset: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build_leases, "write_all", full)
    with pytest.raises(NoSpace):
        store.leases.build_lease([ONE])

    assert list(store.paths.build_leases.iterdir()) == []


def test_a_lease_waits_for_a_running_collection(store: Store) -> None:
    held = threading.Event()

    def lease() -> None:
        store.leases.lease("a", ONE)
        held.set()

    with locked(store.paths.collect_lock):
        thread = threading.Thread(target=lease)
        thread.start()
        assert not held.wait(0.1)
    thread.join()

    assert held.is_set()


def test_a_build_tells_what_it_makes_in_its_order(store: Store) -> None:
    with store.leases.build_lease([THREE, CHAIN], [TWO.digest], build=BUNDLE) as lease:
        assert store.leases.wanted_by(BUNDLE) == (THREE, CHAIN)
        lease.add([ONE, THREE, TWO], [ONE.digest])

        assert store.leases.wanted_by(BUNDLE) == (THREE, CHAIN, ONE, TWO)
        assert Store.open(store.root).leases.wanted_by(BUNDLE) == (THREE, CHAIN, ONE, TWO)
    assert store.leases.wanted_by(BUNDLE) == ()


def test_other_builds_make_other_things(store: Store) -> None:
    with (
        store.leases.build_lease([ONE], build=OTHER),
        store.leases.build_lease([TWO]),
        store.leases.build_lease([THREE], build=BUNDLE),
    ):
        assert store.leases.wanted_by(BUNDLE) == (THREE,)
        assert store.leases.wanted_by(OTHER) == (ONE,)
        assert store.leases.wanted_by("imc-*") == ()


def test_two_builds_of_a_bundle_are_told_as_one(store: Store) -> None:
    with store.leases.build_lease([ONE, TWO], build=BUNDLE), store.leases.build_lease([TWO, ONE], build=BUNDLE):
        assert sorted(store.leases.wanted_by(BUNDLE)) == sorted([ONE, TWO])


def test_a_build_with_an_id_counts_as_live(store: Store) -> None:
    with store.leases.build_lease([ONE], build=BUNDLE):
        assert list(live(store)) == [({ONE}, set())]


def test_a_name_that_is_being_written_is_left_out(store: Store) -> None:
    lease = store.paths.build_lease(BUNDLE, "abc")
    lease.write_text(f"{ONE}\n{TWO}\n{str(THREE)[:40]}")
    assert store.leases.wanted_by(BUNDLE) == (ONE, TWO)

    lease.write_text(f"{ONE}\n{TWO}")
    assert store.leases.wanted_by(BUNDLE) == (ONE,)

    lease.write_text("")
    assert store.leases.wanted_by(BUNDLE) == ()
