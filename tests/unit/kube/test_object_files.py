"""Object files: whole or not there, claimed by one, no name that leaves the directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagecache.api.parse import is_name
from imagecache.errors import NotFound, StoreBusy, StoreCorrupt, StoreError
from imagecache.kube.api import Object
from imagecache.kube.object_files import ObjectFiles
from imagecache.store.paths import StorePaths


@pytest.fixture
def files(tmp_path: Path) -> ObjectFiles:
    return ObjectFiles(StorePaths(tmp_path / "store"))


def item(name: str) -> Object:
    version: Object = {"apiVersion": "eci.alibabacloud.com/v1", "kind": "ImageCache"}
    return {**version, "metadata": {"name": name}, "spec": {"images": ["nginx:1.25"]}}


def put(files: ObjectFiles, *names: str) -> None:
    for name in names:
        with files.writing():
            files.write(name, item(name))


def test_write_read_list_remove(files: ObjectFiles, tmp_path: Path) -> None:
    assert files.caches() == []
    assert files.read("b") is None
    put(files, "b", "a.z", "a")

    assert [cache.name for cache in files.caches()] == ["a", "a.z", "b"]
    assert files.read("b") == item("b")
    assert files.cache("b").spec.images == ("nginx:1.25",)
    assert (tmp_path / "store" / "caches" / "b.json").stat().st_mode & 0o777 == 0o600
    files.remove("b")
    files.remove("b")
    with pytest.raises(NotFound, match=r'^imagecaches\.eci\.alibabacloud\.com "b" not found$'):
        files.cache("b")


def test_the_longest_names_are_files_too(files: ObjectFiles) -> None:
    names = ["x" * 253, "x" * 252 + "y", "x" * 200]
    put(files, *names)
    for name in names:
        with files.claimed(name):
            assert files.busy(name)

    assert sorted(cache.name for cache in files.caches()) == sorted(names)


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "..", "A", "a\0b"])
def test_other_text_never_reaches_the_file_system(files: ObjectFiles, name: str) -> None:
    for touch in (files.cache, files.remove, files.busy):
        with pytest.raises(NotFound):
            touch(name)
    with pytest.raises(NotFound), files.claimed(name):
        pass
    assert files.read(name) is None


def test_one_at_a_time(files: ObjectFiles, tmp_path: Path) -> None:
    assert not files.busy("a")
    with files.claimed("a"):
        assert files.busy("a")
        with pytest.raises(StoreBusy, match="a is being worked on by another process"), files.claimed("a"):
            pass
        put(files, "a")
    with files.claimed("a"):
        files.remove("a")
    assert not files.busy("a")
    assert not list((tmp_path / "store" / "locks").glob("cache-*"))


def test_a_damaged_object_is_named(files: ObjectFiles, tmp_path: Path) -> None:
    put(files, "a")
    (tmp_path / "store" / "caches" / "a.json").write_text('{"kind": 3')

    with pytest.raises(StoreCorrupt, match=r"caches/a\.json is malformed"):
        files.caches()
    (tmp_path / "store" / "caches" / "a.json").write_text('{"kind": 3}')
    with pytest.raises(StoreCorrupt, match=r"caches/a\.json is malformed"):
        files.cache("a")


def test_a_store_that_cannot_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    files = ObjectFiles(StorePaths(tmp_path / "file"))

    assert files.caches() == []
    with pytest.raises(StoreError):
        put(files, "a")


def test_a_short_name_is_never_the_file_of_a_long_one(files: ObjectFiles, tmp_path: Path) -> None:
    long = "a" * 253
    put(files, long)
    [file] = (tmp_path / "store" / "caches").glob("*.json")
    assert not is_name(file.stem)
