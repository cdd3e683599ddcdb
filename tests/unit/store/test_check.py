from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from imagecache.digest import DiffID, Digest
from imagecache.store.bundle_document import PlacedLayer
from imagecache.store.check import Proofs
from imagecache.store.layer_name import LayerName, Space
from imagecache.store.paths import StorePaths
from imagecache.store.store import Store
from testkit.store import NO_LAYER_IMAGE, PROOFS, put_bundle, put_layer

A = "imc-aaaaaaaaaaaaaaaaaaaa"
BASE, APP = (DiffID(Digest.sha256(text)) for text in (b"base", b"app"))


def name(diff_id: DiffID) -> LayerName:
    return LayerName(space=Space.LAYERS, digest=diff_id)


def spoil(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


@pytest.fixture
def full(store: Store) -> Store:
    put_bundle(store, A, [BASE, APP], [b"base", b"app"])
    return store


def test_a_sound_store_is_healthy(full: Store) -> None:
    for report in (full.check(), full.check(proofs=PROOFS)):
        assert report.healthy
        assert report.checked == 7
        assert report.corrupt == report.missing == report.unexpected == []


def test_a_spoiled_blob_is_corrupt(full: Store) -> None:
    path = full.paths.blob(full.bundles.get(A).images[0].config.digest)
    spoil(path, b"spoiled")

    assert [finding.path for finding in full.check().corrupt] == [path]
    assert not full.check().healthy
    assert path.read_bytes() == b"spoiled"


def test_a_layer_of_another_size_is_corrupt_at_a_glance(full: Store) -> None:
    path = full.layers.path(name(APP))
    spoil(path, b"ap")

    (finding,) = full.check().corrupt
    assert (finding.path, finding.problem) == (path, "has 2 bytes; the bundle records 3")


def test_a_layer_of_other_content_is_found_by_a_deep_check(full: Store) -> None:
    spoil(full.layers.path(name(APP)), b"apq")

    assert full.check().healthy
    (finding,) = full.check(proofs=PROOFS).corrupt
    assert f"not {APP}" in finding.problem


@pytest.mark.parametrize(("content", "problem"), [(NO_LAYER_IMAGE, "no layer image"), (b"other", f"not {APP}")])
def test_a_layer_that_no_bundle_records_proves_itself(store: Store, content: bytes, problem: str) -> None:
    put_layer(store, name(APP), content)

    assert store.check().healthy
    (finding,) = store.check(proofs=PROOFS).corrupt
    assert problem in finding.problem


def test_a_layer_keyed_by_chain_proves_nothing_by_its_name(store: Store) -> None:
    put_layer(store, LayerName(space=Space.CHAINS, digest=APP), b"other")

    assert store.check(proofs=PROOFS).healthy


def test_missing_files_are_reported_with_who_needs_them(full: Store) -> None:
    full.layers.path(name(APP)).unlink()
    full.leases.lease("node", name(APP))
    config = full.paths.blob(full.bundles.get(A).images[0].config.digest)
    config.unlink()

    report = full.check()

    assert report.corrupt == []
    assert sorted((finding.path, finding.problem) for finding in report.missing) == sorted(
        [
            (full.layers.path(name(APP)), f"missing, bundle {A}"),
            (full.layers.path(name(APP)), "missing, leased by node"),
            (config, f"missing, bundle {A}"),
        ]
    )


def test_a_bundle_that_cannot_be_read_is_named(full: Store) -> None:
    entry = full.bundles.index().manifests[0]
    full.paths.blob(entry.digest).unlink()

    (finding,) = full.check().missing
    assert A in finding.problem
    assert finding.path == full.paths.blob(entry.digest)


def test_a_damaged_index_is_corrupt_and_never_moved(full: Store) -> None:
    full.paths.index.write_bytes(b"{")

    assert [finding.path for finding in full.check(quarantine=True).corrupt] == [full.paths.index]
    assert full.paths.index.exists()


def test_strangers_are_reported_and_left_alone(full: Store, tmp_path: Path) -> None:
    link = full.layers.path(name(DiffID(Digest.sha256(b"link"))))
    link.parent.mkdir()
    link.symlink_to(tmp_path)
    strangers = [full.root / "layers" / "note", full.paths.blobs / "sha256" / "note", link]
    for path in strangers[:2]:
        path.touch()

    report = full.check(proofs=PROOFS, quarantine=True)

    assert sorted(finding.path for finding in report.unexpected) == sorted(strangers)
    assert report.healthy
    assert all(path.is_symlink() or path.exists() for path in strangers)


def test_the_quarantine_takes_what_is_corrupt_and_only_that(full: Store) -> None:
    path = full.layers.path(name(APP))
    spoil(path, b"apq")

    (finding,) = full.check(proofs=PROOFS, quarantine=True).corrupt

    assert not path.exists()
    assert finding.moved_to is not None
    assert finding.moved_to.parent == full.paths.quarantine
    assert finding.moved_to.read_bytes() == b"apq"
    assert full.layers.has(name(BASE))
    assert [each.path for each in full.check().missing] == [path]


def vanishing(store: Store) -> Proofs:
    """Proofs that are beaten by a deletion and a collection."""

    def prove(path: Path, placed: PlacedLayer, lowers: Sequence[Path]) -> Digest:
        store.bundles.delete(A)
        store.collect()
        return PROOFS.placed(path, placed, lowers)

    return Proofs(prove, PROOFS.alone)


def test_what_vanishes_under_the_check_is_no_error(full: Store) -> None:
    report = full.check(proofs=vanishing(full), quarantine=True)

    assert report.healthy
    assert report.checked == 5  # the blobs
    assert list(full.paths.quarantine.iterdir()) == []


def test_a_bundle_deleted_under_the_check_misses_nothing(full: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = StorePaths.layer_files

    def delete_first(paths: StorePaths) -> object:
        full.bundles.delete(A)
        monkeypatch.undo()
        full.collect()
        return listing(paths)

    monkeypatch.setattr(StorePaths, "layer_files", delete_first)

    assert full.check(proofs=PROOFS).healthy
