"""Documents: what is accepted, and one id per malformed one."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from imagecache.errors import ImageCacheError, LimitExceeded, MalformedDocument, UnsupportedMediaType
from imagecache.limits import MIB, Limits
from imagecache.oci import mediatypes
from imagecache.oci.manifest import (
    Index,
    Manifest,
    chosen,
    detect_media_type,
    parse_config,
    parse_document,
    parse_index,
    parse_manifest,
)

A = "sha256:" + "a" * 64
B = "sha256:" + "b" * 64
CONFIG = {"mediaType": mediatypes.OCI_CONFIG, "digest": A, "size": 7}
LAYER = {"mediaType": mediatypes.OCI_LAYER_GZIP, "digest": B, "size": 9}
MANIFEST = {"schemaVersion": 2, "mediaType": mediatypes.OCI_MANIFEST, "config": CONFIG, "layers": [LAYER]}
ENTRY = {"mediaType": mediatypes.OCI_MANIFEST, "digest": A, "size": 3, "platform": {"os": "linux", "architecture": "a"}}
INDEX = {"schemaVersion": 2, "mediaType": mediatypes.OCI_INDEX, "manifests": [ENTRY]}
SMALL = Limits(manifest_size=4096, config_size=2048, index_entries=3, layers=3, layer_compressed=100)


def body(document: object) -> bytes:
    return json.dumps(document).encode()


def changed(base: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {key: value for key, value in {**base, **fields}.items() if value != "absent"}


def manifest_of(layers: int) -> Manifest:
    return parse_manifest(body(changed(MANIFEST, layers=[LAYER] * layers)), mediatypes.OCI_MANIFEST)


def config(*diff_ids: str, **fields: Any) -> bytes:
    return body({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": diff_ids}, **fields})


def test_manifest() -> None:
    manifest = parse_manifest(body(MANIFEST), mediatypes.OCI_MANIFEST)

    assert manifest.config.digest == A
    assert [layer.digest for layer in manifest.layers] == [B]
    assert manifest.media_type == mediatypes.OCI_MANIFEST


def test_a_manifest_needs_no_media_type_of_its_own() -> None:
    assert parse_manifest(body(changed(MANIFEST, mediaType="absent")), mediatypes.OCI_MANIFEST).layers


@pytest.mark.parametrize("layers", [[], None, "absent"])
def test_zero_layers(layers: object) -> None:
    manifest = parse_manifest(body(changed(MANIFEST, layers=layers)), mediatypes.OCI_MANIFEST)

    assert manifest.layers == ()
    assert parse_config(config(), manifest).diff_ids == ()
    assert parse_config(config(rootfs={"type": "layers", "diff_ids": None}), manifest).diff_ids == ()


def test_repeated_layers_count_once_for_the_size() -> None:
    manifest = manifest_of(200)

    assert len(manifest.layers) == 200
    assert manifest.size == 9
    assert len(parse_config(config(*[A] * 200), manifest).diff_ids) == 200


def test_config_platform() -> None:
    parsed = parse_config(config(A, variant="v8", **{"os.version": "1", "os.features": ["x"]}), manifest_of(1))

    assert str(parsed.platform) == "linux/amd64/v8"
    assert parsed.platform.os_features == ("x",)
    assert parsed.diff_ids == (A,)


def test_index() -> None:
    index = parse_index(body(INDEX), mediatypes.OCI_INDEX)

    assert str(index.manifests[0].platform) == "linux/a"


def test_either() -> None:
    assert isinstance(parse_document(body(INDEX), mediatypes.OCI_INDEX), Index)
    assert isinstance(parse_document(body(MANIFEST), mediatypes.OCI_MANIFEST), Manifest)
    with pytest.raises(UnsupportedMediaType, match="neither"):
        parse_document(body(MANIFEST), "text/plain")


GO_READS: dict[str, dict[str, Any]] = {
    "null for what is optional": changed(
        MANIFEST,
        mediaType=None,
        subject=None,
        annotations=None,
        artifactType=None,
        config={**CONFIG, "annotations": None, "urls": None, "platform": None, "artifactType": None},
        layers=[{**LAYER, "annotations": {"a": None}, "urls": [None]}],
    ),
    "keys in another case": {
        "SchemaVersion": 2,
        "Config": {"MediaType": mediatypes.OCI_CONFIG, "Digest": A, "Size": 7},
        "LAYERS": [{"mediatype": mediatypes.OCI_LAYER_GZIP, "DIGEST": B, "size": 9}],
    },
    "another schemaVersion": changed(MANIFEST, schemaVersion=3),
    "no schemaVersion": changed(MANIFEST, schemaVersion="absent"),
    "schemaVersion 1 in a manifest of today": changed(MANIFEST, schemaVersion=1),
    "Docker's type inside": changed(MANIFEST, mediaType=mediatypes.DOCKER_MANIFEST),
    "an unknown type inside": changed(MANIFEST, mediaType="x/y"),
    "Docker's config and layers": changed(
        MANIFEST,
        config={**CONFIG, "mediaType": mediatypes.DOCKER_CONFIG},
        layers=[{**LAYER, "mediaType": mediatypes.DOCKER_LAYER_GZIP}],
    ),
    "half a surrogate pair in an annotation": changed(MANIFEST, annotations={"a": "\ud83d"}),
    "an artifactType": changed(MANIFEST, artifactType="application/vnd.example+type"),
    "what is no layer beside the layers": changed(
        MANIFEST, layers=[LAYER, {**LAYER, "mediaType": "application/vnd.in-toto+json", "digest": A, "size": 7}]
    ),
}


@pytest.mark.parametrize("case", GO_READS)
def test_what_containerd_takes_for_the_same_manifest(case: str) -> None:
    for media_type in (mediatypes.OCI_MANIFEST, mediatypes.DOCKER_MANIFEST):
        manifest = parse_manifest(body(GO_READS[case]), media_type)

        assert (manifest.media_type, manifest.config.digest) == (media_type, A)
        assert [(layer.digest, layer.size) for layer in manifest.layers] == [(B, 9)]


def test_null_is_a_field_where_containerd_looks_for_one() -> None:
    with pytest.raises(MalformedDocument, match="fields of an index"):
        parse_manifest(body(changed(MANIFEST, manifests=None)), mediatypes.OCI_MANIFEST)
    with pytest.raises(MalformedDocument, match="fields of a manifest"):
        parse_index(body(changed(INDEX, Config=None)), mediatypes.OCI_INDEX)
    with pytest.raises(UnsupportedMediaType, match="schema 1"):
        parse_manifest(body(changed(MANIFEST, FSLAYERS=None)), mediatypes.OCI_MANIFEST)


TWO_IMAGES = [
    b'{"config":%s,"layers":[%s],"layers":[]}',
    b'{"config":%s,"layers":[%s],"Layers":null}',
    b'{"config":%s,"LAYERS":[],"layers":[%s]}',
    b'{"config":%s,"layers":[%s],"config":{"mediaType":"a","digest":"b","size":1}}',
]


@pytest.mark.parametrize("text", TWO_IMAGES)
def test_two_readers_would_see_two_images(text: bytes) -> None:
    with pytest.raises(MalformedDocument, match="occurs twice, with two values"):
        parse_manifest(text % (body(CONFIG), body(LAYER)), mediatypes.OCI_MANIFEST)


def test_entries_are_checked_when_they_are_chosen() -> None:
    bad = [{}, {"mediaType": "x", "digest": "y", "size": -1}, {**ENTRY, "digest": "../..", "platform": None}, None]
    listed = parse_index(body(changed(INDEX, manifests=[*bad, ENTRY, {**ENTRY, "size": 0}])), mediatypes.OCI_INDEX)

    assert listed.digests == (A, A)
    assert chosen(listed.manifests[4]).digest == A
    errors: list[type[ImageCacheError]] = [UnsupportedMediaType, UnsupportedMediaType, MalformedDocument]
    for entry, error in zip(listed.manifests[:3], errors, strict=True):
        with pytest.raises(error):
            chosen(entry)
    with pytest.raises(MalformedDocument, match="size 0"):
        chosen(listed.manifests[5])
    (large,) = parse_index(body(changed(INDEX, manifests=[{**ENTRY, "size": 5000}])), mediatypes.OCI_INDEX).manifests
    with pytest.raises(LimitExceeded, match="5000 bytes"):
        chosen(large, SMALL)


def test_an_empty_index() -> None:
    assert parse_index(body(changed(INDEX, manifests=None)), mediatypes.OCI_INDEX).manifests == ()


def long_layers() -> dict[str, Any]:
    return changed(MANIFEST, layers=[LAYER] * 4)


BAD_MANIFESTS: dict[str, tuple[dict[str, Any], type[ImageCacheError], str]] = {
    "schema 1 by layers": (changed(MANIFEST, fsLayers=[]), UnsupportedMediaType, "schema 1"),
    "says index": (changed(MANIFEST, mediaType=mediatypes.OCI_INDEX), MalformedDocument, "fields of an index"),
    "says list": (changed(MANIFEST, mediaType=mediatypes.DOCKER_LIST), MalformedDocument, "fields of an index"),
    "also an index": (changed(MANIFEST, manifests=[]), MalformedDocument, "fields of an index"),
    "no config": (changed(MANIFEST, config="absent"), MalformedDocument, "no config"),
    "config of a chart": (
        changed(MANIFEST, config={**CONFIG, "mediaType": "application/vnd.cncf.helm.config.v1+json"}),
        UnsupportedMediaType,
        "artifact",
    ),
    "config of an old registry": (
        changed(MANIFEST, config={**CONFIG, "mediaType": "application/octet-stream"}),
        UnsupportedMediaType,
        "type application/octet-stream, as an old registry wrote it",
    ),
    "config too large": (changed(MANIFEST, config={**CONFIG, "size": 2049}), LimitExceeded, "the limit is 2048"),
    "too many layers": (long_layers(), LimitExceeded, "4 layers; the limit is 3"),
    "encrypted layer": (
        changed(MANIFEST, layers=[{**LAYER, "mediaType": mediatypes.OCI_LAYER_GZIP + "+encrypted"}]),
        UnsupportedMediaType,
        "encrypted",
    ),
    "no tar among the layers": (
        changed(MANIFEST, layers=[{**LAYER, "mediaType": "application/vnd.in-toto+json"}]),
        UnsupportedMediaType,
        "no layer of the image is a tar",
    ),
    "an empty blob": (changed(MANIFEST, layers=[{**LAYER, "size": 0}]), MalformedDocument, "size 0"),
    "an empty config": (changed(MANIFEST, config={**CONFIG, "size": 0}), MalformedDocument, "size 0"),
    "size is a fraction": (changed(MANIFEST, layers=[{**LAYER, "size": 9.5}]), MalformedDocument, "malformed"),
    "layer too large": (changed(MANIFEST, layers=[{**LAYER, "size": 101}]), LimitExceeded, "101 bytes"),
    "negative size": (changed(MANIFEST, layers=[{**LAYER, "size": -1}]), MalformedDocument, "size -1"),
    "two sizes": (changed(MANIFEST, layers=[LAYER, {**LAYER, "size": 8}]), MalformedDocument, "two sizes"),
    "bad digest": (changed(MANIFEST, layers=[{**LAYER, "digest": "sha256:x"}]), MalformedDocument, "not a digest"),
    "path as digest": (changed(MANIFEST, layers=[{**LAYER, "digest": "../../etc"}]), MalformedDocument, "not a digest"),
    "digest is a number": (changed(MANIFEST, layers=[{**LAYER, "digest": 5}]), MalformedDocument, "malformed"),
    "size is too large for Go": (
        changed(MANIFEST, layers=[{**LAYER, "size": 1 << 63}]),
        MalformedDocument,
        "malformed",
    ),
    "schemaVersion is too large for Go": (changed(MANIFEST, schemaVersion=10**30), MalformedDocument, "malformed"),
    "size is text": (changed(MANIFEST, layers=[{**LAYER, "size": "9"}]), MalformedDocument, "malformed"),
    "too long": (changed(MANIFEST, annotations={"a": "x" * 5000}), LimitExceeded, "bytes in the manifest"),
}


@pytest.mark.parametrize("case", BAD_MANIFESTS)
def test_bad_manifests(case: str) -> None:
    document, error, why = BAD_MANIFESTS[case]

    with pytest.raises(error, match=why):
        parse_manifest(body(document), mediatypes.OCI_MANIFEST, SMALL)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"[" * 4000, b'{"mediaType":5}', b"<html>"])
def test_not_json(data: bytes) -> None:
    with pytest.raises(MalformedDocument, match="malformed"):
        parse_manifest(data, mediatypes.OCI_MANIFEST, SMALL)


BAD_INDEXES: dict[str, tuple[dict[str, Any], type[ImageCacheError], str]] = {
    "also a manifest": (changed(INDEX, layers=[]), MalformedDocument, "fields of a manifest"),
    "has a config": (changed(INDEX, config=CONFIG), MalformedDocument, "fields of a manifest"),
    "too many entries": (changed(INDEX, manifests=[ENTRY] * 4), LimitExceeded, "4 manifests in the index"),
    "says manifest": (changed(INDEX, mediaType=mediatypes.DOCKER_MANIFEST), MalformedDocument, "fields of a manifest"),
    "schema 1": (changed(INDEX, fsLayers=[]), UnsupportedMediaType, "schema 1"),
}


@pytest.mark.parametrize("case", BAD_INDEXES)
def test_bad_indexes(case: str) -> None:
    document, error, why = BAD_INDEXES[case]

    with pytest.raises(error, match=why):
        parse_index(body(document), mediatypes.OCI_INDEX, SMALL)


def test_the_descriptor_decides_which_document_it_is() -> None:
    with pytest.raises(MalformedDocument, match="expected a manifest, got an index"):
        parse_manifest(body(INDEX), mediatypes.OCI_INDEX)
    with pytest.raises(MalformedDocument, match="expected an index, got a manifest"):
        parse_index(body(MANIFEST), mediatypes.OCI_MANIFEST)
    with pytest.raises(UnsupportedMediaType, match="neither"):
        parse_manifest(body(MANIFEST), "text/plain")
    with pytest.raises(UnsupportedMediaType, match="neither"):
        parse_index(body(MANIFEST), "text/plain")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (config(A, B), "2 diff_ids for the 1 layers"),
        (config(), "0 diff_ids for the 1 layers"),
        (config(A, rootfs={"type": "windows", "diff_ids": [A]}), "rootfs.type"),
        (config(A, rootfs={}), "0 diff_ids for the 1 layers"),
        (config("nonsense"), "not a digest"),
        (body({"os": "linux"}), "0 diff_ids for the 1 layers"),
        (config(A, OS="windows"), "os occurs twice"),
        (config(A, architecture=5), "malformed"),
        (b"", "malformed"),
    ],
)
def test_bad_configs(data: bytes, why: str) -> None:
    with pytest.raises(MalformedDocument, match=why):
        parse_config(data, manifest_of(1))


@pytest.mark.parametrize(
    "fields",
    [
        {"rootfs": {"diff_ids": [A]}},
        {"rootfs": {"type": "", "diff_ids": [A]}},
        {"rootfs": {"type": None, "diff_ids": [A]}},
        {"RootFS": {"type": "layers", "Diff_IDs": [A]}, "rootfs": "absent"},
        {"variant": None, "os.version": None, "os.features": None, "history": None, "created": None, "config": None},
        {"config": {"Labels": {"a": "\udc00"}, "OnBuild": None}},
    ],
)
def test_configs_that_containerd_reads(fields: dict[str, Any]) -> None:
    document = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [A]}}
    parsed = parse_config(body(changed(document, **fields)), manifest_of(1))

    assert parsed.diff_ids == (A,)
    assert str(parsed.platform) == "linux/amd64"


def test_a_long_config() -> None:
    with pytest.raises(LimitExceeded, match="bytes in the config"):
        parse_config(config(A, history="x" * 3000), manifest_of(1), SMALL)


def padded(document: bytes, size: int) -> bytes:
    """With a field that nobody knows, of so many bytes."""
    return document[:-1] + b', "padding": "%s"}' % (b"x" * size)


def test_large_documents_that_containerd_pulls() -> None:
    manifest = parse_manifest(padded(body(MANIFEST), 5 * MIB), mediatypes.OCI_MANIFEST)
    assert parse_config(padded(config(A), 9 * MIB), manifest).diff_ids == (A,)
    large = changed(MANIFEST, config={**CONFIG, "size": 9 * MIB})
    assert parse_manifest(body(large), mediatypes.OCI_MANIFEST).config.size == 9 * MIB
    entries = [{**ENTRY, "size": 5 * MIB}, *[ENTRY] * 1100]
    listed = parse_index(body(changed(INDEX, manifests=entries)), mediatypes.OCI_INDEX)
    assert chosen(listed.manifests[0]).size == 5 * MIB


def test_a_document_that_would_take_much_memory() -> None:
    """Two bytes of text are two hundred of memory."""
    with pytest.raises(MalformedDocument, match="more than json_values, 250000, values"):
        parse_config(config(A)[:-1] + b', "new": [%s{}]}' % (b"{}," * 250_000), manifest_of(1))
    with pytest.raises(MalformedDocument, match="more than json_values, 20, values"):
        detect_media_type(body(INDEX)[:-1] + b', "new": [%s{}]}' % (b"{}," * 20), "", replace(SMALL, json_values=20))


DEEP = b"[" * 1500 + b'{"a": [null, "]["]}' + b"]" * 1500


def test_what_nobody_knows_may_be_deep() -> None:
    manifest = parse_manifest(body(MANIFEST)[:-1] + b', "new": ' + DEEP + b"}", mediatypes.OCI_MANIFEST)
    assert manifest.config.digest == A
    assert parse_config(config(A)[:-1] + b', "new": ' + DEEP + b"}", manifest).diff_ids == (A,)
    assert parse_index(body(INDEX)[:-1] + b', "new": ' + DEEP + b"}", mediatypes.OCI_INDEX).digests == (A,)


@pytest.mark.parametrize(
    ("document", "content_type", "media_type"),
    [
        (INDEX, mediatypes.OCI_INDEX, mediatypes.OCI_INDEX),
        (INDEX, mediatypes.OCI_INDEX.upper() + "; charset=utf-8", mediatypes.OCI_INDEX),
        (MANIFEST, "application/json", mediatypes.OCI_MANIFEST),
        (changed(MANIFEST, mediaType="absent"), "", mediatypes.OCI_MANIFEST),
        (changed(INDEX, mediaType="absent"), "text/plain", mediatypes.OCI_INDEX),
        ({"schemaVersion": 1}, "application/json", "application/vnd.docker.distribution.manifest.v1+json"),
        ({}, "text/html", "text/html"),
    ],
)
def test_detection(document: dict[str, Any], content_type: str, media_type: str) -> None:
    assert detect_media_type(body(document), content_type) == media_type


NO_MOMENTS = [
    "2024-13-01T00:00:00Z",
    "2023-02-29T12:00:00Z",
    "2024-05-01T24:00:00Z",
    "2024-01-01T00:00:00Z\n",
    "\n2024-01-01T00:00:00Z",
    "\u0662\u0660\u0662\u0664-01-01T00:00:00Z",
    "2024-01-01T00:00:00.\u0665Z",
    "2024-01-01T00:00:00+0\u0661:00",
    "2024-01-01T00:00:00.Z",
    "2024-01-01T00:00:00+25:00",
    "2024-01-01T00:00:00-00:61",
]
"""Some in Arabic digits."""


def of_type(field: str) -> list[object]:
    """Values that Go refuses for a field, whether we need it or not."""
    wrong: dict[str, list[object]] = {
        "annotations": [5, "", [], {"a": 5}, {"a": {}}],
        "artifactType": [5, {}],
        "subject": [5, [], {"size": "5"}],
        "urls": ["x", [5]],
        "data": [5, "?", "eA=", [256], [-1], ["x"], [[]], {}],
        "platform": ["linux/amd64", {"os": 5}],
        "created": [5, {}, "yesterday", "", *NO_MOMENTS],
        "author": [5],
        "config": ["x", {"Env": "A=b"}, {"Labels": {"a": 5}}, {"ExposedPorts": {"80/tcp": []}}, {"ArgsEscaped": "yes"}],
        "history": [{}, [5], [{"created_by": []}], [{"empty_layer": 1}], [{"created": "x"}]],
        "os.features": ["x"],
    }
    return wrong[field]


@pytest.mark.parametrize("field", ["annotations", "artifactType", "subject"])
def test_types_of_fields_that_nobody_needs(field: str) -> None:
    for value in of_type(field):
        with pytest.raises(MalformedDocument, match="malformed"):
            parse_manifest(body(changed(MANIFEST, **{field: value})), mediatypes.OCI_MANIFEST)
        with pytest.raises(MalformedDocument, match="malformed"):
            parse_index(body(changed(INDEX, **{field: value})), mediatypes.OCI_INDEX)


@pytest.mark.parametrize("field", ["annotations", "artifactType", "urls", "data", "platform"])
def test_types_of_fields_of_descriptors(field: str) -> None:
    for value in of_type(field):
        for document in (
            changed(MANIFEST, config={**CONFIG, field: value}),
            changed(MANIFEST, layers=[{**LAYER, field: value}]),
        ):
            with pytest.raises(MalformedDocument, match="malformed"):
                parse_manifest(body(document), mediatypes.OCI_MANIFEST)
        with pytest.raises(MalformedDocument, match="malformed"):
            parse_index(body(changed(INDEX, manifests=[{**ENTRY, field: value}])), mediatypes.OCI_INDEX)


@pytest.mark.parametrize("data", ["", "eA==", "e\nA=\r\n=", [], [0, 255], [1, None], None])
def test_data_of_a_descriptor_is_read_as_by_go(data: object) -> None:
    document = changed(MANIFEST, layers=[{**LAYER, "data": data}])
    assert parse_manifest(body(document), mediatypes.OCI_MANIFEST).layers


MOMENTS = [
    "0000-02-29T12:00:00Z",
    "2024-02-29T1:00:00,5Z",
    "2024-05-01T12:00:00+23:59",
    "2024-05-01T12:00:00-24:60",
    f"2024-05-01T12:00:00.{'7' * 70}Z",
]


@pytest.mark.parametrize("created", MOMENTS)
def test_moments_that_go_reads(created: str) -> None:
    parse_config(config(A, created=created, history=[{"created": created}]), manifest_of(1))


@pytest.mark.parametrize("field", ["created", "author", "config", "history", "os.features"])
def test_types_of_fields_of_configs(field: str) -> None:
    for value in of_type(field):
        with pytest.raises(MalformedDocument, match="malformed"):
            parse_config(config(A, **{field: value}), manifest_of(1))


def test_a_config_with_everything() -> None:
    everything = {
        "created": "2024-05-01T12:00:00.123456789+02:00",
        "author": "somebody",
        "config": {
            "User": "0:0",
            "ExposedPorts": {"80/tcp": {}, "81/tcp": None, "82/tcp": {"a": 1}},
            "Env": ["A=b", None],
            "Entrypoint": None,
            "Cmd": ["sh"],
            "Volumes": {"/srv": {}},
            "WorkingDir": "/",
            "Labels": {"a": None},
            "StopSignal": "SIGTERM",
            "ArgsEscaped": True,
            "Healthcheck": {"Test": 5},
        },
        "history": [{"created": None, "created_by": "x", "author": "", "comment": "", "empty_layer": True}, None],
        "docker_version": 5,
        "container_config": {"Cmd": 5},
    }
    assert parse_config(config(A, **everything), manifest_of(1)).diff_ids == (A,)
