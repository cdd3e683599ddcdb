"""Manifests in, documents or a message with the place out."""

from __future__ import annotations

import pytest

from imagecache.api import yamltext
from imagecache.api.parse import parse
from imagecache.errors import InvalidManifest

SAMPLE = """\
apiVersion: eci.alibabacloud.com/v1
kind: ImageCache
metadata:
  name: imagecache-sample
  annotations:
    k8s.aliyun.com/imc-enable-reuse: "true"
spec:
  images:
  - 127.0.0.1:5000/team/app:1.4
  - nginx:1.25
  imagePullSecrets:
  - default:secret1
  imageCacheSize: 25
  retentionDays: 7
"""


def manifest(**changes: str) -> str:
    """The sample with lines replaced: ``name="..."`` replaces the line that starts with it."""
    lines = []
    for line in SAMPLE.splitlines():
        key = line.strip().split(":")[0]
        lines.append(changes.get(key, line) if key in changes else line)
    return "\n".join(line for line in lines if line) + "\n"


def test_sample_is_read_as_written() -> None:
    (parsed,) = parse(SAMPLE)

    cache = parsed.cache
    assert parsed.notes == ()
    assert cache.name == "imagecache-sample"
    assert cache.metadata.annotations == {"k8s.aliyun.com/imc-enable-reuse": "true"}
    assert cache.spec.images == ("127.0.0.1:5000/team/app:1.4", "nginx:1.25")
    assert cache.spec.image_pull_secrets == ("default:secret1",)
    assert (cache.spec.image_cache_size, cache.spec.retention_days) == (25, 7)
    assert cache.status is None


def test_json_with_tabs_and_flow_yaml_are_read() -> None:
    text = '{\n\t"apiVersion": "eci.alibabacloud.com/v1",\n\t"kind": "ImageCache",'
    text += '\n\t"metadata": {"name": "a"},\n\t"spec": {"images": ["nginx"]}\n}'
    flow = "{apiVersion: eci.alibabacloud.com/v1, kind: ImageCache, metadata: {name: b}, spec: {images: [nginx]}}"

    assert parse(text)[0].cache.spec.images == ("nginx",)
    assert parse(flow)[0].cache.name == "b"


def test_several_documents_and_lists() -> None:
    second = SAMPLE.replace("imagecache-sample", "second")
    item = "\n".join("  " + line for line in SAMPLE.replace("imagecache-sample", "third").splitlines())
    listed = "apiVersion: v1\nkind: List\nitems:\n-" + item[1:] + "\n"

    names = [parsed.cache.name for parsed in parse(f"{SAMPLE}---\n# nothing\n---\n{second}---\n{listed}")]

    assert names == ["imagecache-sample", "second", "third"]


def test_what_the_server_sets_is_dropped_and_nulls_are_absent() -> None:
    text = manifest(
        name="  name: a\n  uid: x\n  creationTimestamp: 2020-01-01T00:00:00Z\n  labels: null",
        retentionDays="  retentionDays: null\nstatus: {phase: Ready}",
    )

    cache = parse(text)[0].cache

    assert cache.metadata.uid == ""
    assert cache.metadata.creation_timestamp == ""
    assert cache.metadata.labels == {}
    assert cache.spec.retention_days is None
    assert cache.status is None


def test_unknown_fields_and_namespace_are_noted() -> None:
    text = manifest(name="  name: a\n  namespace: default", retentionDays="  flavour: sweet\nextra: 1")

    assert parse(text)[0].notes == (
        "extra: unknown field, ignored",
        "metadata.namespace: an ImageCache is cluster-scoped, ignored",
        "spec.flavour: unknown field, ignored",
    )


def test_merge_keys_and_aliases_work() -> None:
    text = (
        "apiVersion: eci.alibabacloud.com/v1\nkind: ImageCache\n"
        "metadata: {name: a, labels: {<<: [{x: '1', y: '1'}, {x: '2'}], y: '3'}, annotations: &n {q: r}}\n"
        "spec:\n  <<: {retentionDays: 3}\n  images: [nginx]\n"
    )

    cache = parse(text)[0].cache

    assert cache.metadata.labels == {"x": "1", "y": "3"}
    assert cache.spec.retention_days == 3


@pytest.mark.parametrize("name", ["a", "a.b-c.9", "x" * 253])
def test_names_that_kubernetes_takes(name: str) -> None:
    assert parse(manifest(name=f"  name: {name!r}"))[0].cache.name == name


BAD = {
    "empty": ("", "f.yaml: contains no ImageCache"),
    "only-comments": ("# nothing\n---\n", "f.yaml: contains no ImageCache"),
    "not-a-mapping": ("- a\n- b\n", "f.yaml:1: not an ImageCache: expected a mapping"),
    "not-yaml": ("a: [1,\n b: {", "f.yaml:2: not YAML: "),
    "control-character": ("a: \x01", "f.yaml: not YAML: "),
    "bad-indentation": (SAMPLE.replace("  images:", " images:"), "f.yaml:11: not YAML: "),
    "no-version": (manifest(apiVersion=""), "f.yaml:1: apiVersion: required"),
    "wrong-version": (manifest(apiVersion="apiVersion: v1"), "f.yaml:1: apiVersion: 'v1' is not"),
    "version-is-a-number": (manifest(apiVersion="apiVersion: 1"), "f.yaml:1: apiVersion: 1 is not"),
    "wrong-kind": (manifest(kind="kind: Pod"), "f.yaml:2: kind: 'Pod' is not ImageCache"),
    "no-metadata": ("apiVersion: eci.alibabacloud.com/v1\nkind: ImageCache\n", "f.yaml:1: metadata: required"),
    "no-name": (manifest(name=""), "f.yaml:3: metadata.name: required"),
    "capitals": (manifest(name="  name: Nginx"), "f.yaml:4: metadata.name: 'Nginx' is not a valid name"),
    "slash": (manifest(name="  name: ../x"), "f.yaml:4: metadata.name: '../x' is not a valid name"),
    "name-is-a-number": (manifest(name="  name: 7"), "f.yaml:4: metadata.name: 7 is not a valid name"),
    "long-name": (manifest(name="  name: " + "x" * 254), "f.yaml:4: metadata.name: "),
    "annotation-not-text": (
        SAMPLE.replace('"true"', "true"),
        "f.yaml:6: metadata.annotations[k8s.aliyun.com/imc-enable-reuse]: expected text, got true",
    ),
    "annotations-not-a-mapping": (
        manifest(name="  name: a\n  labels: [a]"),
        "f.yaml:5: metadata.labels: expected a mapping of text to text",
    ),
    "no-spec": (SAMPLE.partition("spec:")[0], "f.yaml:1: spec: required"),
    "spec-not-a-mapping": (SAMPLE.partition("spec:")[0] + "spec: 3\n", "f.yaml:7: spec: expected a mapping, got"),
    "no-images": (
        SAMPLE.partition("spec:")[0] + "spec: {retentionDays: 1}\n",
        "f.yaml:7: spec.images: required",
    ),
    "empty-images": (
        SAMPLE.partition("spec:")[0] + "spec:\n  images: []\n",
        "f.yaml:8: spec.images: expected a list of length >= 1",
    ),
    "image-not-text": (
        SAMPLE.replace("nginx:1.25", "125"),
        "f.yaml:10: spec.images[1]: expected text, got a whole number",
    ),
    "image-null": (SAMPLE.replace("nginx:1.25", "null"), "f.yaml:10: spec.images[1]: expected text, got nothing"),
    "images-not-a-list": (
        SAMPLE.partition("spec:")[0] + "spec:\n  images: nginx\n",
        "f.yaml:8: spec.images: expected a list, got text",
    ),
    "size-is-text": (
        manifest(imageCacheSize="  imageCacheSize: 25Gi"),
        "f.yaml:13: spec.imageCacheSize: expected a whole number, got text",
    ),
    "size-is-a-fraction": (
        manifest(imageCacheSize="  imageCacheSize: 2.5"),
        "f.yaml:13: spec.imageCacheSize: expected a whole number, got a number",
    ),
    "duplicate-key": (SAMPLE + "  retentionDays: 8\n", "f.yaml:15: spec.retentionDays: duplicate key"),
    "same-name-twice": (f"{SAMPLE}---\n{SAMPLE}", "f.yaml:19: metadata.name: imagecache-sample is repeated"),
    "key-not-text": ("? [a]\n: b\n", "f.yaml:1: a key must be text"),
    "tag": ("a: !!binary aGVsbG8=\n", "f.yaml:1: a: the tag tag:yaml.org,2002:binary is not supported"),
    "lying-tag": ("a: !!int hello\n", "f.yaml:1: a: value does not match its tag"),
    "merge-of-a-scalar": ("a: {<<: 3}\n", "f.yaml:1: only a mapping can be merged"),
    "alias-bomb": (
        "a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "".join(
            f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefg", "bcdefgh", strict=True)
        ),
        "more than 50000 values",
    ),
    "deep": ("a: " + "[" * 70 + "]" * 70, "f.yaml:1: nested deeper than 64 levels"),
    "very-deep": ("[" * 20_000, "f.yaml: nested deeper than 64 levels"),
    "huge": ("#" * (1 << 20) + "##", "f.yaml: longer than 1048576 characters"),
    "list-without-items": ("apiVersion: v1\nkind: List\n", "f.yaml:1: items: expected a list"),
    "bad-item": (
        "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n",
        "f.yaml:4: apiVersion: 'v1' is not",
    ),
}


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD)
def test_bad_manifest_names_the_place(text: str, message: str) -> None:
    with pytest.raises(InvalidManifest) as caught:
        parse(text, "f.yaml")

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_a_file_name_the_line_is_enough() -> None:
    with pytest.raises(InvalidManifest, match=r"^2: kind: "):
        parse(manifest(kind="kind: Pod"))


@pytest.mark.parametrize("around", [" ", "\u00a0", "\u3000", "\u200b", "\ufeff"])
def test_what_is_around_a_name_in_a_list_is_not_part_of_it(around: str) -> None:
    text = SAMPLE.replace("- nginx:1.25", f'- "{around}nginx:1.25{around}"')
    text = text.replace("- default:secret1", f'- "{around}default:secret1{around}"')

    assert parse(text)[0].cache == parse(SAMPLE)[0].cache


def test_halves_of_surrogate_pairs_are_read_as_go_reads_them() -> None:
    (document,) = yamltext.load('{"a\\ud83d": "\\ud83d\\ude00", "b": ["x\\ude00"]}')

    assert document.value == {"a\ufffd": "\U0001f600", "b": ["x\ufffd"]}
