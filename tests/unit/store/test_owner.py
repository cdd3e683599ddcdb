"""A store whose controller is nobody and whose agents are root. Needs root, as much here does."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from imagecache.digest import DiffID, Digest
from imagecache.errors import StoreDenied
from imagecache.store.locks import locked
from imagecache.store.owner import make_directory
from imagecache.store.store import Store
from testkit.store import put_bundle

USER = 65532
CONTENT = b"layer"
DIFF_ID = DiffID(Digest.sha256(CONTENT))
BUNDLE = "imc-" + "0" * 20


@pytest.fixture
def root() -> Iterator[Path]:
    """The user's, where he can get to."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        path = Path(made, "store")
        path.mkdir(0o700)
        os.chown(path, USER, USER)
        yield path


@contextmanager
def controller() -> Iterator[None]:
    os.seteuid(USER)
    try:
        yield
    finally:
        os.seteuid(0)


def owners(root: Path) -> set[int]:
    return {path.lstat().st_uid for path in (root, *root.rglob("*"))}


@pytest.mark.parametrize("agent_first", [True, False])
def test_each_removes_what_the_other_has_made(root: Path, *, agent_first: bool) -> None:
    agent = Store.open(root) if agent_first else None
    with controller():
        store = Store.open(root)
        document = put_bundle(store, BUNDLE, [DIFF_ID], [CONTENT])
    agent = agent or Store.open(root)
    (name,) = document.layer_names()
    agent.leases.lease("node-1-proxy", name)

    with controller():
        store.bundles.delete(BUNDLE)
        assert store.collect().kept == {name: ("leased by node-1-proxy",)}
    agent.leases.release("node-1-proxy", name)
    with controller():
        assert store.collect().layers == (name,)
    assert owners(root) == {USER}


def test_what_root_writes_is_the_owners(root: Path) -> None:
    agent = Store.open(root)
    put_bundle(agent, BUNDLE, [DIFF_ID], [CONTENT])
    agent.check()

    with controller():
        Store.open(root).bundles.delete(BUNDLE)
    assert owners(root) == {USER}


def test_what_is_somebody_elses_stays_so(root: Path) -> None:
    path = root / "lock"
    path.touch()
    os.chown(path, 1234, 1234)
    with locked(path):
        pass

    assert path.stat().st_uid == 1234


def test_what_is_linked_into_the_store_is_not_given_away(root: Path) -> None:
    secret = root.parent / "secret"
    secret.touch()
    (root / "lock").hardlink_to(secret)
    with locked(root / "lock"):
        pass

    assert secret.stat().st_uid == 0


def test_a_link_will_do(root: Path) -> None:
    target, link = root / "target", root / "link"
    target.mkdir()
    link.symlink_to(target)
    make_directory(link)
    make_directory(link / "below")

    assert target.stat().st_uid == 0
    assert (target / "below").is_dir()


def test_leases_that_cannot_be_read_keep_everything(root: Path) -> None:
    with controller():
        store = Store.open(root)
        put_bundle(store, BUNDLE, [DIFF_ID], [CONTENT])
        store.bundles.delete(BUNDLE)
    (root / "leases/nodes/other").mkdir(0o700)

    with controller():
        with pytest.raises(StoreDenied):
            store.collect()
        assert list(root.glob("layers/*/*/*"))
