"""Object files: whole or not there, one writer, no name that leaves the directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagecache.errors import NotFound, StoreBusy, StoreCorrupt, StoreError
from imagecache.standalone.objects import ObjectFiles
from imagecache.store.paths import StorePaths

from .conftest import manifest


@pytest.fixture
def objects(tmp_path: Path) -> ObjectFiles:
    return ObjectFiles(StorePaths(tmp_path / "store"))


def test_put_get_all_remove(objects: ObjectFiles, tmp_path: Path) -> None:
    assert objects.all() == []
    assert objects.find("b") is None
    for name in ("b", "a.z", "a"):
        objects.put(manifest(name))

    assert [cache.name for cache in objects.all()] == ["a", "a.z", "b"]
    assert objects.get("b") == manifest("b")
    file = tmp_path / "store" / "caches" / "b.json"
    assert file.stat().st_mode & 0o777 == 0o600
    objects.remove("b")
    objects.remove("b")
    with pytest.raises(NotFound):
        objects.get("b")


def test_the_longest_names_are_files_too(objects: ObjectFiles) -> None:
    names = ["x" * 253, "x" * 252 + "y", "x" * 200]
    for name in names:
        objects.put(manifest(name))
        with objects.locked(name):
            assert objects.busy(name)

    assert sorted(cache.name for cache in objects.all()) == sorted(names)


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "..", "A", "a\0b"])
def test_other_text_never_reaches_the_file_system(objects: ObjectFiles, name: str) -> None:
    for touch in (objects.get, objects.remove, objects.busy):
        with pytest.raises(NotFound):
            touch(name)
    with pytest.raises(NotFound), objects.locked(name):
        pass


def test_one_at_a_time(objects: ObjectFiles) -> None:
    assert not objects.busy("a")
    with objects.locked("a"):
        assert objects.busy("a")
        with pytest.raises(StoreBusy, match="a is being worked on"), objects.locked("a"):
            pass
        objects.remove("a")
    with objects.locked("a"):
        pass
    assert not objects.busy("a")


def test_a_damaged_object_is_named(objects: ObjectFiles, tmp_path: Path) -> None:
    objects.put(manifest("a"))
    (tmp_path / "store" / "caches" / "a.json").write_text('{"kind": 3')

    with pytest.raises(StoreCorrupt, match=r"caches/a\.json is malformed"):
        objects.all()


def test_a_store_that_cannot_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    objects = ObjectFiles(StorePaths(tmp_path / "file"))

    assert objects.all() == []
    with pytest.raises(StoreError):
        objects.put(manifest("a"))
