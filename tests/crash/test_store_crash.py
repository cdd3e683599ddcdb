"""The store after a kill, a power failure, or on a full disk: nothing half-visible, nothing lost, all collectable."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from imagecache.digest import DiffID, Digest
from imagecache.errors import NoSpace
from imagecache.store.durable_files import StagedFile, write_all
from imagecache.store.layer_name import LayerName, Space
from imagecache.store.store import Store
from testkit.faults import Loss, PowerLog, killed_at, write_out
from testkit.store import PROOFS, bundle_document, put_bundle, put_layer

A, B = "imc-aaaaaaaaaaaaaaaaaaaa", "imc-bbbbbbbbbbbbbbbbbbbb"
BASE, APP, OLD = (DiffID(Digest.sha256(text)) for text in (b"base", b"app", b"old"))


def name(diff_id: DiffID) -> LayerName:
    return LayerName(space=Space.LAYERS, digest=diff_id)


def life(root: Path, done: list[str]) -> None:
    """Everything that a store is for, once. ``done`` gets what has been promised."""
    store = Store.open(root)
    with store.downloads.open(Digest.sha256(b"compressed"), 10) as download:
        download.write(b"compressed"[download.offset : 5])
    with store.leases.build_lease([name(BASE)]):
        put_layer(store, name(BASE), b"base")
        done.append("layer")
        put_bundle(store, A, [BASE, APP], [b"base", b"app"])
    done.append("put A")
    put_bundle(store, B, [BASE, OLD], [b"base", b"old"])
    done.append("put B")
    store.leases.lease_many("node", [name(BASE), name(APP)])
    done.append("hold")
    store.leases.lease("node", name(OLD))
    done.append("begin to delete B")
    store.bundles.delete(B)
    done.append("delete B")
    store.leases.release("node", name(OLD))
    store.collect()
    with store.downloads.open(Digest.sha256(b"compressed"), 10) as download:
        download.write(b"compressed"[download.offset :])
        download.discard()


def assert_sound(root: Path, done: list[str]) -> None:
    """Whatever happened: what was promised is there, what is there is right, and the rest can be collected."""
    store = Store.open(root)
    assert "layer" not in done or store.layers.has(name(BASE))
    ids = set(store.bundles.ids())
    assert ids <= {A, B}
    assert "put A" not in done or A in ids
    assert "put B" not in done or "begin to delete B" in done or B in ids
    assert "delete B" not in done or B not in ids
    assert "hold" not in done or {name(BASE), name(APP)} <= store.leases.of("node")
    report = store.check(proofs=PROOFS)
    assert (report.corrupt, report.missing, report.unexpected) == ([], [], [])

    store.collect()

    needed = {layer for document in store.bundles.all() for layer in document.layer_names()}
    assert set(store.layers.names()) - set(store.leases.leased()) == needed - set(store.leases.leased())
    assert {digest for _path, digest in store.paths.blob_files()} == set().union(
        *(stored.blobs for stored in store.bundles.stored())
    )
    for directory in (store.paths.staging, store.paths.trash, store.paths.build_leases):
        assert list(directory.iterdir()) == []
    assert list(root.glob(".*")) == []
    assert store.check(proofs=PROOFS).healthy


def assert_recovers(root: Path, done: list[str]) -> None:
    """Sound, and the same life can be lived again to its end."""
    assert_sound(root, done)
    again: list[str] = []
    life(root, again)
    assert_sound(root, again)
    store = Store.open(root)
    assert set(store.layers.names()) == {name(BASE), name(APP)}
    assert store.usage().downloads == 0


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory that costs no disk: these tests are about what was called, not about the disk."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory)


@pytest.mark.slow
def test_killed_at_every_point(memory: Path) -> None:
    for point in itertools.count():
        root = memory / f"store-{point}"
        if not killed_at(point, partial(life, root, [])):
            break
        assert_recovers(root, [])
        shutil.rmtree(root)

    assert point > 200


def test_killed_while_recovering(memory: Path) -> None:
    """A store that was killed in the middle is killed again at every point of the next life."""
    middle = memory / "middle"
    assert killed_at(150, lambda: life(middle, []))
    for point in itertools.count(step=3):
        root = memory / f"store-{point}"
        shutil.copytree(middle, root)
        if not killed_at(point, partial(life, root, [])):
            break
        assert_recovers(root, [])
        shutil.rmtree(root)


@pytest.mark.parametrize(
    ("loss", "seed"), [(Loss.ALL, 0), (Loss.CONTENT, 0), *((Loss.SOME, seed) for seed in range(3))]
)
def test_power_fails_at_every_point(memory: Path, loss: Loss, seed: int) -> None:
    root = memory / "store"
    root.mkdir(0o700)
    done: list[str] = []
    log = PowerLog(root, done, loss, seed)
    with log.watching():
        life(root, done)
    assert len(log.failures) > 200
    for number, failure in enumerate(log.failures):
        after = memory / f"after-{number}"
        write_out(failure.disk, after)
        assert_recovers(after, list(failure.promised))
        shutil.rmtree(after)


def test_a_promise_covers_what_another_process_has_not_synced(memory: Path) -> None:
    """The other one has linked a layer image and a document, and never gets to sync the directories."""
    root = memory / "store"
    root.mkdir(0o700)
    log = PowerLog(root, [], Loss.ALL)
    document = bundle_document(A, [BASE], [b"base"], config=b"config", manifest=b"manifest")
    with log.watching():
        store = Store.open(root)
        link_unsynced(store, store.layers.path(name(BASE)), b"base")
        link_unsynced(store, store.paths.blob(Digest.sha256(b"config")), b"config")
        store.blobs.put(b"config")
        put_blob = len(log.failures)
        store.blobs.put(b"manifest")
        store.bundles.put(document)
    write_out(log.failures[put_blob - 1].disk, memory / "blob")
    write_out(log.failures[-1].disk, memory / "bundle")

    assert Store.open(memory / "blob").blobs.read(Digest.sha256(b"config")) == b"config"
    assert_sound(memory / "bundle", ["put A"])


def link_unsynced(store: Store, target: Path, content: bytes) -> None:
    with StagedFile(store.paths.staging) as staged:
        write_all(staged.fd, content, 0)
        os.fsync(staged.fd)
        target.parent.mkdir(0o700, exist_ok=True)
        os.link(staged.path, target)


@pytest.fixture
def small_disk(memory: Path) -> Iterator[Path]:
    """A filesystem of 1 MiB."""
    mountpoint = memory / "small"
    mountpoint.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", mountpoint], check=True)
    yield mountpoint
    subprocess.run(["umount", mountpoint], check=True)


def test_disk_full_at_every_size(small_disk: Path) -> None:
    """With ever more free space the work gets further, until it fits; each time it can be done after making room."""
    root, ballast = small_disk / "store", small_disk / "ballast"
    failed = 0
    for pages in itertools.count():
        Store.open(root)
        ballast.write_bytes(bytes(free_pages(small_disk) * PAGE))
        os.truncate(ballast, max(0, ballast.stat().st_size - pages * PAGE))
        done: list[str] = []
        try:
            life(root, done)
            break
        except NoSpace:
            failed += 1
        ballast.unlink()
        assert_recovers(root, done)
        shutil.rmtree(root)

    assert failed > 10


PAGE = 4096


def free_pages(path: Path) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize // PAGE
