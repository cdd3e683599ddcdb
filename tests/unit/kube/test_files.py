"""What the Kube port over files has beyond the suite: generations, status, many writers, files that are damaged."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import structlog

from imagecache.api import parse, yamltext
from imagecache.errors import ObjectNotFound, ObjectRefused, WatchExpired
from imagecache.kube import objects
from imagecache.kube.api import Object
from imagecache.kube.files import FileKube
from imagecache.kube.object_files import ObjectFiles
from imagecache.kube.resources import EVENTS, IMAGE_CACHES, NODES, SECRETS
from imagecache.kube.secret_directory import SecretDirectory
from imagecache.store.paths import StorePaths
from testkit.clock import FakeClock

STORED: Object = {"metadata": {"name": "a", "annotations": {"x": "1"}}, "spec": {"images": ["nginx:1.25"]}}


@pytest.fixture
def kube(tmp_path: Path) -> FileKube:
    return open_files(tmp_path)


def open_files(folder: Path) -> FileKube:
    return FileKube(ObjectFiles(StorePaths(folder / "store")), SecretDirectory(folder / "secrets"), FakeClock())


def generation(item: Object) -> object:
    return objects.at(item, "metadata", "generation")


async def test_what_decides_about_the_build_begins_a_generation(kube: FileKube) -> None:
    made = await kube.create(IMAGE_CACHES, {**STORED, "status": {"phase": "Ready"}})
    assert generation(made) == 1
    assert "status" not in made
    assert objects.text(made, "metadata", "creationTimestamp") == "2024-05-01T12:00:00Z"

    labelled = await kube.patch(IMAGE_CACHES, "a", {"metadata": {"labels": {"x": "1"}}, "status": {"phase": "Ready"}})
    assert generation(labelled) == 1
    assert "status" not in labelled
    ready = await kube.patch(IMAGE_CACHES, "a", {"status": {"phase": "Ready"}, "spec": {}}, subresource="status")
    assert (generation(ready), ready["status"], ready["spec"]) == (1, {"phase": "Ready"}, STORED["spec"])
    annotated = await kube.patch(IMAGE_CACHES, "a", {"metadata": {"annotations": {"x": "2"}}})
    assert generation(annotated) == 2
    edited = await kube.patch(IMAGE_CACHES, "a", {"spec": {"images": ["redis:7"]}})
    assert (generation(edited), edited["status"]) == (3, {"phase": "Ready"})


async def test_no_change_of_many_writers_is_lost(tmp_path: Path) -> None:
    await open_files(tmp_path).create(IMAGE_CACHES, STORED)
    labels = [f"l{number}" for number in range(20)]
    await asyncio.gather(
        *(open_files(tmp_path).patch(IMAGE_CACHES, "a", {"metadata": {"labels": {each: "1"}}}) for each in labels)
    )

    assert sorted(objects.texts(await open_files(tmp_path).get(IMAGE_CACHES, "a"), "metadata", "labels")) == sorted(
        labels
    )


async def test_a_damaged_file_hides_no_other(kube: FileKube, tmp_path: Path) -> None:
    await kube.create(IMAGE_CACHES, STORED)
    (tmp_path / "store" / "caches" / "b.json").write_text("{")

    assert [objects.name(item) for item in (await kube.list(IMAGE_CACHES)).items] == ["a"]


async def test_an_object_that_becomes_unreadable_is_not_deleted_and_is_logged_once(
    kube: FileKube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagecache.kube.files._POLL", 0.001)
    await kube.create(IMAGE_CACHES, STORED)
    listing = await kube.list(IMAGE_CACHES)
    file = tmp_path / "store" / "caches" / "a.json"
    whole = file.read_bytes()
    file.write_text("{")
    changes = kube.watch(IMAGE_CACHES, resource_version=listing.resource_version)
    with structlog.testing.capture_logs() as logged:
        following = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0.1)
        assert not following.done()
    assert [line["event"] for line in logged] == ["an object is left out"]

    file.write_bytes(whole)
    assert (await following).kind.value == "MODIFIED"


async def test_an_object_created_again_is_another_one(kube: FileKube) -> None:
    await kube.create(IMAGE_CACHES, STORED)
    listing = await kube.list(IMAGE_CACHES)
    await kube.delete(IMAGE_CACHES, "a")
    again = await kube.create(IMAGE_CACHES, STORED)

    changes = kube.watch(IMAGE_CACHES, resource_version=listing.resource_version)
    seen = [await anext(changes), await anext(changes)]
    assert [change.kind.value for change in seen] == ["DELETED", "ADDED"]
    assert objects.uid(seen[1].object) == objects.uid(again)


async def test_halves_of_surrogate_pairs_are_read_as_go_reads_them(kube: FileKube) -> None:
    """A manifest may have them as escapes, and a status as names of files that are no UTF-8."""
    text = '{"metadata": {"name": "a", "annotations": {"a": "\\ud83d", "b": "\\ud83d\\ude00"}}}'
    (document,) = yamltext.load(text)
    assert isinstance(document.value, dict)

    made = await kube.create(IMAGE_CACHES, document.value)
    assert objects.texts(made, "metadata", "annotations") == {"a": "\ufffd", "b": "\U0001f600"}
    changed = await kube.patch(IMAGE_CACHES, "a", {"status": {"message": "x\udcff"}}, subresource="status")
    assert objects.text(changed, "status", "message") == "x\ufffd"
    assert parse.stored(await kube.get(IMAGE_CACHES, "a")).cache.metadata.annotations["a"] == "\ufffd"


async def test_halves_of_surrogate_pairs_in_a_secret(kube: FileKube, tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    text = '{"kind": "Secret", "metadata": {"name": "s"}, "stringData": {"a": "\\ude00\\ud83d\\ude00"}}'
    (tmp_path / "secrets" / "s.json").write_text(text)

    found = await kube.get(SECRETS, "s", namespace="default")
    assert objects.texts(found, "stringData") == {"a": "\ufffd\U0001f600"}


async def test_a_version_that_is_no_number(kube: FileKube, tmp_path: Path) -> None:
    await kube.create(IMAGE_CACHES, STORED)
    file = tmp_path / "store" / "caches" / "a.json"
    version = objects.resource_version(await kube.get(IMAGE_CACHES, "a"))
    file.write_text(file.read_text().replace(version, "\u00b2"))

    patched = await kube.patch(IMAGE_CACHES, "a", {"metadata": {"labels": {"x": "1"}}})
    assert objects.resource_version(patched).isdecimal()


async def test_what_a_host_does_not_have(kube: FileKube) -> None:
    event: Object = {"metadata": {"name": "e"}}
    assert await kube.create(EVENTS, event, namespace="default") == event
    with pytest.raises(ObjectNotFound):
        await kube.list(NODES)
    with pytest.raises(ObjectNotFound, match="default:x is not in /"):
        await kube.get(SECRETS, "x", namespace="default")
    with pytest.raises(ObjectRefused):
        await kube.create(IMAGE_CACHES, {"metadata": {"name": "../x"}})
    with pytest.raises(WatchExpired):
        await anext(kube.watch(IMAGE_CACHES, resource_version="7"))
