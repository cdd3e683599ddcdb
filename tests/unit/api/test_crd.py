"""The CRD documents: names, columns, what a structural schema needs, and that the files are current."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from imagecache.api import crd, nodes, types
from imagecache.api.columns import WIDE_COLUMNS
from imagecache.api.yamltext import JSON

ROOT = Path(__file__).resolve().parents[3]


def at(value: JSON, *path: str | int) -> JSON:
    for part in path:
        if isinstance(part, int):
            assert isinstance(value, list)
            value = value[part]
        else:
            assert isinstance(value, dict)
            value = value[part]
    return value


def schema(document: crd.Document) -> JSON:
    return at(document, "spec", "versions", 0, "schema", "openAPIV3Schema")


def schemas(value: JSON, path: str = "") -> Iterator[tuple[str, dict[str, JSON]]]:
    """Every schema below one, with its path."""
    assert isinstance(value, dict)
    yield path, value
    properties = value.get("properties", {})
    assert isinstance(properties, dict)
    for name, item in properties.items():
        yield from schemas(item, f"{path}.{name}")
    if "items" in value:
        yield from schemas(value["items"], f"{path}[]")


def test_there_is_a_file_for_each() -> None:
    """That they are current is tested with everything else that is rendered, in ``tests/unit/install``."""
    assert {path.name for path in (ROOT / "config" / "crd").glob("*.yaml")} == set(crd.all_documents())


def test_the_resource_has_both_generations_names() -> None:
    document = crd.image_cache()
    names = at(document, "spec", "names")

    assert at(document, "metadata", "name") == "imagecaches.eci.alibabacloud.com"
    assert at(document, "spec", "scope") == "Cluster"
    assert names == {
        "kind": "ImageCache",
        "listKind": "ImageCacheList",
        "plural": "imagecaches",
        "singular": "imagecache",
        "shortNames": ["ic", "imc"],
    }
    assert at(document, "spec", "versions", 0, "subresources") == {"status": {}}


def test_no_kind_without_a_namespace_is_in_the_category_all() -> None:
    """Whoever may list one namespace only would get an error, and exit code 1, of every ``kubectl get all``."""
    for document in crd.all_documents().values():
        assert at(document, "spec", "scope") == "Cluster"
        assert "categories" not in at(document, "spec", "names")  # type: ignore[operator]


def test_kubectl_shows_the_columns_of_imagecache_get() -> None:
    columns = at(crd.image_cache(), "spec", "versions", 0, "additionalPrinterColumns")
    assert isinstance(columns, list)
    shown = [(str(at(column, "name")).upper(), "priority" in at(column)) for column in columns]  # type: ignore[operator]

    assert ("NAME", *(name for name, _ in shown)) == WIDE_COLUMNS
    assert [name for name, wide in shown if wide] == ["NODES", "SIZE", "REASON"]


@pytest.mark.parametrize("document", [crd.image_cache(), crd.node_image_cache()], ids=["imagecache", "node"])
def test_the_schema_is_structural_and_explains_every_field(document: crd.Document) -> None:
    for path, item in schemas(schema(document)):
        assert item["type"] in {"object", "array", "string", "integer", "boolean"}, path
        assert item.get("description") or path.endswith("[]"), path
        assert not {"minimum", "maximum", "enum", "pattern", "format"} & set(item), path
        assert "default" not in item or path == ".status", path
        if item["type"] == "array":
            assert "items" in item, path


def test_only_what_both_generations_require_is_required() -> None:
    root = schema(crd.image_cache())

    assert at(root, "required") == ["spec"]
    assert at(root, "properties", "spec", "required") == ["images"]
    assert at(root, "properties", "spec", "properties", "images", "minItems") == 1
    assert "required" not in at(root, "properties", "status")  # type: ignore[operator]
    for path in ((), ("properties", "spec"), ("properties", "status"), ("properties", "status", "properties", "nodes")):
        assert at(root, *path, "x-kubernetes-preserve-unknown-fields") is True


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        (types.Spec, ("properties", "spec")),
        (types.Status, ("properties", "status")),
        (types.Attempt, ("properties", "status", "properties", "attempt")),
        (types.StatusImage, ("properties", "status", "properties", "images", "items")),
        (types.NodeCounts, ("properties", "status", "properties", "nodes")),
        (types.Display, ("properties", "status", "properties", "display")),
        (types.Condition, ("properties", "status", "properties", "conditions", "items")),
    ],
)
def test_the_schema_has_the_fields_of_the_types(kind: type[types.Status], path: tuple[str, ...]) -> None:
    properties = at(schema(crd.image_cache()), *path, "properties")
    assert isinstance(properties, dict)

    assert set(properties) == set(kind.__struct_encode_fields__)


def test_a_new_object_is_not_taken_for_one_that_was_seen() -> None:
    """Source: cli-utils, pkg/kstatus: a status without conditions and observedGeneration is current."""
    assert at(schema(crd.image_cache()), "properties", "status", "default") == {"observedGeneration": -1}


def test_what_people_read_of_an_event_is_explained() -> None:
    item = at(schema(crd.image_cache()), "properties", "status", "properties", "events", "items")
    properties = at(item, "properties")
    assert isinstance(properties, dict)

    published = {"name", "message", "type", "timestamp", "count", "firstTimestamp", "lastTimestamp", "reason"}
    assert set(properties) == published <= set(types.Event.__struct_encode_fields__)
    assert at(item, "x-kubernetes-preserve-unknown-fields") is True


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        (nodes.NodeStatus, ("properties", "status")),
        (nodes.NodeCache, ("properties", "status", "properties", "caches", "items")),
    ],
)
def test_the_node_schema_has_the_fields_of_the_types(kind: type[nodes.NodeCache], path: tuple[str, ...]) -> None:
    properties = at(schema(crd.node_image_cache()), *path, "properties")
    assert isinstance(properties, dict)

    assert set(properties) == set(kind.__struct_encode_fields__)
