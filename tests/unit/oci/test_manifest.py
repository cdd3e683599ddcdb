"""Documents: what is accepted, and one id per malformed one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from imagecache.errors import ImageCacheError, LimitExceeded, MalformedDocument, UnsupportedMediaType
from imagecache.limits import Limits
from imagecache.oci import mediatypes
from imagecache.oci.manifest import (
    Index,
    Manifest,
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


def test_an_empty_index() -> None:
    assert parse_index(body(changed(INDEX, manifests=None)), mediatypes.OCI_INDEX).manifests == ()


def long_layers() -> dict[str, Any]:
    return changed(MANIFEST, layers=[LAYER] * 4)


BAD_MANIFESTS: dict[str, tuple[dict[str, Any], type[ImageCacheError], str]] = {
    "schema 1 by version": ({"schemaVersion": 1}, UnsupportedMediaType, "schema 1"),
    "schema 1 by layers": (changed(MANIFEST, fsLayers=[]), UnsupportedMediaType, "schema 1"),
    "schema 3": (changed(MANIFEST, schemaVersion=3), MalformedDocument, "schemaVersion is 3"),
    "no schema": (changed(MANIFEST, schemaVersion="absent"), MalformedDocument, "schemaVersion is 0"),
    "another type": (changed(MANIFEST, mediaType="x/y"), MalformedDocument, "states the type x/y"),
    "says index": (changed(MANIFEST, mediaType=mediatypes.OCI_INDEX), MalformedDocument, "states the type"),
    "also an index": (changed(MANIFEST, manifests=[]), MalformedDocument, "fields of an index"),
    "no config": (changed(MANIFEST, config="absent"), MalformedDocument, "no config"),
    "config of a chart": (
        changed(MANIFEST, config={**CONFIG, "mediaType": "application/vnd.cncf.helm.config.v1+json"}),
        UnsupportedMediaType,
        "artifact",
    ),
    "config too large": (changed(MANIFEST, config={**CONFIG, "size": 2049}), LimitExceeded, "the limit is 2048"),
    "too many layers": (long_layers(), LimitExceeded, "4 layers; the limit is 3"),
    "encrypted layer": (
        changed(MANIFEST, layers=[{**LAYER, "mediaType": mediatypes.OCI_LAYER_GZIP + "+encrypted"}]),
        UnsupportedMediaType,
        "encrypted",
    ),
    "layer too large": (changed(MANIFEST, layers=[{**LAYER, "size": 101}]), LimitExceeded, "101 bytes"),
    "negative size": (changed(MANIFEST, layers=[{**LAYER, "size": -1}]), MalformedDocument, "size -1"),
    "two sizes": (changed(MANIFEST, layers=[LAYER, {**LAYER, "size": 8}]), MalformedDocument, "two sizes"),
    "bad digest": (changed(MANIFEST, layers=[{**LAYER, "digest": "sha256:x"}]), MalformedDocument, "not a digest"),
    "path as digest": (changed(MANIFEST, layers=[{**LAYER, "digest": "../../etc"}]), MalformedDocument, "not a digest"),
    "digest is a number": (changed(MANIFEST, layers=[{**LAYER, "digest": 5}]), MalformedDocument, "malformed"),
    "size is text": (changed(MANIFEST, layers=[{**LAYER, "size": "9"}]), MalformedDocument, "malformed"),
    "too long": (changed(MANIFEST, annotations={"a": "x" * 5000}), LimitExceeded, "bytes in the manifest"),
}


@pytest.mark.parametrize("case", BAD_MANIFESTS)
def test_bad_manifests(case: str) -> None:
    document, error, why = BAD_MANIFESTS[case]

    with pytest.raises(error, match=why):
        parse_manifest(body(document), mediatypes.OCI_MANIFEST, SMALL)


@pytest.mark.parametrize("data", [b"", b"{", b"null", b"[]", b"[" * 4000, b'{"mediaType":"\xff"}', b"<html>"])
def test_not_json(data: bytes) -> None:
    with pytest.raises(MalformedDocument, match="malformed"):
        parse_manifest(data, mediatypes.OCI_MANIFEST, SMALL)


BAD_INDEXES: dict[str, tuple[dict[str, Any], type[ImageCacheError], str]] = {
    "also a manifest": (changed(INDEX, layers=[]), MalformedDocument, "fields of a manifest"),
    "has a config": (changed(INDEX, config=CONFIG), MalformedDocument, "fields of a manifest"),
    "too many entries": (changed(INDEX, manifests=[ENTRY] * 4), LimitExceeded, "4 manifests in the index"),
    "entry too large": (changed(INDEX, manifests=[{**ENTRY, "size": 5000}]), LimitExceeded, "5000 bytes"),
    "schema 1": (changed(INDEX, schemaVersion=1), UnsupportedMediaType, "schema 1"),
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
        (config(A, rootfs={}), "rootfs.type"),
        (config("nonsense"), "not a digest"),
        (body({"os": "linux"}), "missing required field `rootfs`"),
        (b"", "malformed"),
    ],
)
def test_bad_configs(data: bytes, why: str) -> None:
    with pytest.raises(MalformedDocument, match=why):
        parse_config(data, manifest_of(1))


def test_a_long_config() -> None:
    with pytest.raises(LimitExceeded, match="bytes in the config"):
        parse_config(config(A, history="x" * 3000), manifest_of(1), SMALL)


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
