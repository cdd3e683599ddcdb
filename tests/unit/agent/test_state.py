"""The state of a node: what is remembered across restarts."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagecache.agent.direct_layers import DirectLayers
from imagecache.agent.state import Known, NodeState
from imagecache.containerd.api import Attached
from testkit.attachable import MemoryDocuments, bundle

DOCUMENTS = MemoryDocuments()
PUBLIC = DOCUMENTS.image("app:1", ["base", "app"])
PRIVATE = DOCUMENTS.image("corp/secret:1", ["base", "secret"], private=True)
ODD = DOCUMENTS.image("odd:1", ["base", "odd"], chains=["odd"])


@pytest.fixture
def state(tmp_path: Path) -> NodeState:
    made = NodeState(tmp_path / "nodes" / "worker")
    made.load()
    return made


def reloaded(tmp_path: Path) -> NodeState:
    made = NodeState(tmp_path / "nodes" / "worker")
    made.load()
    return made


def test_what_the_node_had_is_what_the_last_attach_has_found(tmp_path: Path) -> None:
    """A record of the node's own that was collected, and made again by us, is ours."""
    state = reloaded(tmp_path)
    document = bundle(PUBLIC)
    state.write(document, ["a"])
    state.made(document.id, Attached({"app:1": "sha256:a", "own:1": "sha256:a"}, had=("own:1",)))
    for each in (state, reloaded(tmp_path)):
        assert (set(each.had(document.id)), set(each.all_made())) == ({"own:1"}, {"app:1"})
    state.made(document.id, Attached({"app:1": "sha256:a", "own:1": "sha256:a"}))
    for each in (state, reloaded(tmp_path)):
        assert (set(each.had(document.id)), set(each.all_made())) == (set(), {"app:1", "own:1"})
    assert state.had("imc-none") == frozenset()


def test_the_state_remembers(state: NodeState, tmp_path: Path) -> None:
    first, second = bundle(PUBLIC, number=1), bundle(PRIVATE, number=2)
    state.write(first, ["b", "a"])
    state.write(second, ["a"])
    state.used(first.id, 5.0)
    state.used("imc-unknown", 5.0)
    state.flush()
    state.erase(second.id)
    state.erase(second.id)

    for each in (state, reloaded(tmp_path)):
        assert each.documents == {first.id: first}
        assert each.known() == {first.id: Known(frozenset({"a", "b"}), 5.0)}


def test_what_was_asked_and_unpacked_is_remembered(state: NodeState, tmp_path: Path) -> None:
    first, second = bundle(PUBLIC, number=1), bundle(ODD, number=2)
    state.write(first, ["a"], ["overlayfs"])
    state.write(second, ["b"])
    state.made(first.id, Attached(unpacked=frozenset({"overlayfs"})))
    for each in (state, reloaded(tmp_path)):
        assert each.known()[first.id].unpacked == {"overlayfs"}
        assert each.known()[second.id].unpacked == frozenset()
        assert each.asked(without=second.id) == [(first, ("overlayfs",))]
    state.write(first, ["a"])
    assert state.asked(without=second.id) == [(first, ())]
    assert state.known()[first.id].unpacked == {"overlayfs"}


def test_layers_of_caches_that_ask_for_direct_io(state: NodeState, tmp_path: Path) -> None:
    directory = tmp_path / "nodes" / "worker"
    asked = DirectLayers(directory, lambda name: tmp_path / name.path)
    public, private = bundle(PUBLIC, number=1), bundle(PRIVATE, number=2)
    base, app = (tmp_path / layer.name.path for layer in PUBLIC.layers)
    secret = tmp_path / PRIVATE.layers[1].name.path
    assert not asked(base)
    state.write(public, ["a"], direct_io=True)
    state.write(private, ["b"])
    assert [asked(layer) for layer in (base, app, secret)] == [True, True, False]
    assert DirectLayers(directory, lambda name: tmp_path / name.path)(app), "another process asks"

    state.write(public, ["a"])
    assert not asked(base)
    state.write(private, ["b"], direct_io=True)
    assert [asked(layer) for layer in (base, app, secret)] == [True, False, True]
    state.erase(private.id)
    assert not asked(base)


def test_the_version_of_direct_layers_changes_with_them_alone(state: NodeState, tmp_path: Path) -> None:
    asked = DirectLayers(tmp_path / "nodes" / "worker", lambda name: tmp_path / name.path)
    public, private = bundle(PUBLIC, number=1), bundle(PRIVATE, number=2)
    state.write(public, ["a"], direct_io=True)
    before = asked.version()
    state.used(public.id, 5.0)
    state.flush()
    state.write(private, ["b"])
    assert asked.version() == before
    state.write(private, ["b"], direct_io=True)
    assert asked.version() != before


def test_direct_layers_after_a_kill_between_the_two_files(state: NodeState, tmp_path: Path) -> None:
    directory = tmp_path / "nodes" / "worker"
    state.write(bundle(PUBLIC), ["a"], direct_io=True)
    (base, *_) = PUBLIC.layers
    asked = DirectLayers(directory, lambda name: tmp_path / name.path)
    (directory / "direct-io").write_bytes(b"cut")
    assert not asked(tmp_path / base.name.path)
    reloaded(tmp_path)
    assert asked(tmp_path / base.name.path)


def test_nobody_asks_where_nothing_was_ever_attached(tmp_path: Path) -> None:
    assert not DirectLayers(tmp_path / "none", lambda name: tmp_path / name.path)(tmp_path / "layer")


def test_a_use_survives_another_attach(state: NodeState) -> None:
    document = bundle(PUBLIC)
    state.write(document, ["a"])
    state.used(document.id, 5.0)
    state.write(document, ["a", "b"])
    assert state.known()[document.id] == Known(frozenset({"a", "b"}), 5.0)


def test_an_erased_use_is_not_written(state: NodeState, tmp_path: Path) -> None:
    document = bundle(PUBLIC)
    state.write(document, ["a"])
    state.used(document.id, 5.0)
    state.erase(document.id)
    state.flush()
    assert reloaded(tmp_path).documents == {}


def test_files_that_cannot_be_read_count_as_absent(state: NodeState, tmp_path: Path) -> None:
    document = bundle(PUBLIC)
    state.write(document, ["a"])
    directory = tmp_path / "nodes" / "worker"
    (file,) = directory.iterdir()
    (directory / f"imc-{'z' * 20}.json").write_bytes(file.read_bytes())  # another one's name
    (directory / f"imc-{'y' * 20}.json").write_bytes(file.read_bytes()[:-5])
    (directory / "notes.json").write_text("{}")
    assert reloaded(tmp_path).documents == {document.id: document}
