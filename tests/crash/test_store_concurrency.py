"""Several processes work on one store at once, some are killed: nothing that is needed goes, nothing else stays."""

from __future__ import annotations

import os
import random
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from imagecache.digest import ChainID, DiffID, Digest
from imagecache.errors import NotFound
from imagecache.store.layer_name import LayerName, Space
from imagecache.store.store import Store
from testkit.faults import killed_at
from testkit.store import PROOFS, put_bundle, put_layer

CONTENTS = [f"layer {number}".encode() * (number + 1) for number in range(8)]
DIFF_IDS = [DiffID(Digest.sha256(content)) for content in CONTENTS]
NAMES = [LayerName(space=Space.LAYERS, digest=diff_id) for diff_id in DIFF_IDS]


@pytest.fixture
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory) / "store"


def together(workers: Sequence[Callable[[], None]]) -> None:
    """Run each in a process of its own; all must succeed."""
    children = []
    for worker in workers:
        child = os.fork()
        if child == 0:
            try:
                worker()
            except BaseException:  # noqa: BLE001 - the parent asserts on the exit code
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * len(children)


class Worker:
    """Does what builds, nodes and administrators do, in random order, and looks whether its own things stay."""

    def __init__(self, root: Path, number: int) -> None:
        self.holder = f"node {number}"
        self.number = number
        self.random = random.Random(number)
        self.store = Store.open(root)
        self.bundles: dict[str, list[int]] = {}
        self.held: set[int] = set()

    def run(self, steps: int) -> None:
        actions = [self.put, self.put, self.delete, self.lease, self.release, self.collect, self.build, self.check]
        for step in range(steps):
            self.random.choice(actions)(step)
            self.look()

    def put(self, step: int) -> None:
        bundle = f"imc-{self.number:010d}{step:010d}"
        chosen = self.random.sample(range(len(CONTENTS)), 3)
        put_bundle(self.store, bundle, [DIFF_IDS[each] for each in chosen], [CONTENTS[each] for each in chosen])
        self.bundles[bundle] = chosen

    def delete(self, _step: int) -> None:
        if self.bundles:
            bundle = self.random.choice(sorted(self.bundles))
            del self.bundles[bundle]
            self.store.bundles.delete(bundle)
            with pytest.raises(NotFound):
                self.store.bundles.get(bundle)

    def lease(self, _step: int) -> None:
        """Hold whatever there is, then look: only what is there after holding is relied on."""
        each = self.random.randrange(len(NAMES))
        self.store.provider.lease(self.holder, NAMES[each])
        if self.store.provider.open_layer(NAMES[each]) is None:
            self.store.provider.release(self.holder, NAMES[each])
            self.held.discard(each)
        else:
            self.held.add(each)

    def release(self, _step: int) -> None:
        if self.held:
            each = self.random.choice(sorted(self.held))
            self.held.remove(each)
            self.store.leases.release(self.holder, NAMES[each])

    def build(self, _step: int) -> None:
        """Find or make a layer under its lock; nobody else makes it meanwhile, and it stays while it is leased."""
        each = self.random.randrange(len(NAMES))
        with self.store.leases.build_lease([NAMES[each]]), self.store.layers.lock(NAMES[each]):
            if not self.store.layers.has(NAMES[each]):
                put_layer(self.store, NAMES[each], CONTENTS[each])
            self.store.collect()
            assert self.store.layers.path(NAMES[each]).read_bytes() == CONTENTS[each]

    def collect(self, _step: int) -> None:
        collected = self.store.collect()
        assert not set(collected.layers) & {NAMES[each] for each in self.needed()}

    def check(self, _step: int) -> None:
        report = self.store.check(proofs=PROOFS)
        assert report.corrupt == report.unexpected == []
        assert all("leased by" in finding.problem for finding in report.missing)  # between lease and look, of others

    def look(self) -> None:
        for each in self.needed():
            assert self.store.layers.path(NAMES[each]).read_bytes() == CONTENTS[each]
        for bundle, chosen in self.bundles.items():
            layers = self.store.bundles.get(bundle).images[0].layers
            assert [layer.diff_id for layer in layers] == [DIFF_IDS[each] for each in chosen]
            assert self.store.provider.lookup(ChainID(layers[-1].chain_id)) is not None

    def needed(self) -> set[int]:
        return self.held.union(*self.bundles.values())


def life(root: Path, number: int, steps: int = 120) -> None:
    Worker(root, number).run(steps)


def short_lives(root: Path, number: int) -> None:
    """Workers that are killed at random points, one after the other."""
    points = random.Random(number)
    for each in range(40):
        worker = number * 1000 + each
        killed_at(points.randrange(600), partial(life, root, worker, 10))


def assert_collectable(root: Path) -> None:
    """When everybody is gone, exactly what bundles and leases name is left; without those, nothing."""
    store = Store.open(root)
    store.collect()
    needed = {name for document in store.bundles.all() for name in document.layer_names()}
    assert set(store.layers.names()) - set(store.leases.leased()) == needed - set(store.leases.leased())
    report = store.check(proofs=PROOFS)
    assert report.corrupt == report.unexpected == []
    for bundle in store.bundles.ids():
        store.bundles.delete(bundle)
    for holder in {holder for holder, _name in store.paths.node_lease_files()}:
        store.leases.release_all(holder)
    store.collect()
    assert store.usage().total == 0


def test_four_processes_at_once(root: Path) -> None:
    together([partial(life, root, number) for number in range(4)])

    assert_collectable(root)


def test_some_of_them_are_killed(root: Path) -> None:
    together([partial(kind, root, number) for number, kind in enumerate((life, life, short_lives, short_lives))])

    assert_collectable(root)


def test_a_layer_is_made_once(root: Path) -> None:
    """All want the same layers; each is made by one of them, and the others wait and find it."""
    Store.open(root)
    made = root.parent / "made"

    def build() -> None:
        store = Store.open(root)
        for name, content in zip(NAMES, CONTENTS, strict=True):
            with store.leases.build_lease([name]), store.layers.lock(name):
                if not store.layers.has(name):
                    with made.open("a") as log:
                        log.write(f"{name}\n")
                    put_layer(store, name, content)

    with Store.open(root).leases.build_lease(NAMES):
        together([build] * 4)

    assert sorted(made.read_text().split()) == sorted(map(str, NAMES))
