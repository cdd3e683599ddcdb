"""A bundle document is what the API server says, byte for byte, or it is not read."""

from __future__ import annotations

import dataclasses
import json

import msgspec
import pytest

from imagecache.api.types import StatusImage
from imagecache.digest import Digest
from imagecache.errors import DigestMismatch, ImageCacheError, MalformedDocument, StoreCorrupt
from imagecache.oci.descriptor import Descriptor, Platform
from imagecache.store import bundle_document
from imagecache.store.bundle_document import Bundle, ImageRecord
from imagecache.store.expected_bundle import ExpectedImage, expected_bundle
from imagecache.store.layer_name import LayerName, Space
from testkit.attachable import MemoryDocuments
from testkit.mutations import mutations

ID = "imc-" + "a" * 20
AMD64, ARM64 = (Platform(os="linux", architecture=each, variant="v1") for each in ("amd64", "arm64"))
EXAMPLE = Descriptor(media_type="application/example", digest=Digest.sha256(b"example"), size=7)


def described(descriptor: Descriptor) -> Descriptor:
    """With a value in each field that most documents leave out."""
    more = {"annotations": {"key": "value"}, "urls": ("https://example.com",), "artifact_type": "example"}
    return msgspec.structs.replace(descriptor, platform=AMD64, **more)


def document() -> Bundle:
    made = MemoryDocuments()
    images = [
        made.image("app:1", ["base", "app"], index=2, chains=["app"]),
        made.image("app:1", ["base", "arm"], index=1, platform=ARM64),
        made.image("private:1", ["base"], private=True),
    ]
    first = images[0]
    layers = (msgspec.structs.replace(first.layers[0], blob=described(first.layers[0].blob)), *first.layers[1:])
    images[0] = msgspec.structs.replace(first, config=described(first.config), layers=layers, notes=("odd",))
    return Bundle(
        id=ID,
        created="2025-01-01T00:00:00Z",
        platforms=(AMD64, ARM64),
        images=tuple(images),
        revision="1",
    )


DOCUMENT = document()
LIES = dict(mutations(DOCUMENT, examples=(EXAMPLE, AMD64, Digest.sha256(b"sealed"))))


def test_the_document_that_was_expected() -> None:
    expected = expected_bundle(DOCUMENT)

    assert expected.read(bundle_document.encode(DOCUMENT)) == DOCUMENT
    expected.check(DOCUMENT)


def test_the_lies_are_about_every_field() -> None:
    """Of every type that a document consists of; the list below is what the enumeration finds, to be looked at."""
    kinds: list[type[msgspec.Struct]] = [
        Bundle,
        ImageRecord,
        bundle_document.LayerRecord,
        Descriptor,
        Platform,
        LayerName,
    ]
    for kind in kinds:
        for field in msgspec.structs.fields(kind):
            assert any(f".{field.name}" in path for path in LIES), (kind, field.name)
    assert len(LIES) > 200


@pytest.mark.parametrize("lie", LIES)
def test_each_field_that_differs_is_refused(lie: str) -> None:
    with pytest.raises(DigestMismatch):
        expected_bundle(DOCUMENT).read(bundle_document.encode(LIES[lie]))
    with pytest.raises(DigestMismatch):
        expected_bundle(DOCUMENT).check(LIES[lie])


TOLD = dict(mutations(expected_bundle(DOCUMENT)))


@pytest.mark.parametrize("told", TOLD)
def test_each_field_of_the_status_that_differs_is_refused(told: str) -> None:
    """Whichever of the two was changed: the other one does not agree."""
    with pytest.raises((DigestMismatch, StoreCorrupt)):
        TOLD[told].read(bundle_document.encode(DOCUMENT))


def test_what_is_compared_of_an_image_is_in_the_status() -> None:
    names = {each.name for each in dataclasses.fields(ExpectedImage)} - {"reference"} | {"image"}
    assert names <= set(StatusImage.__struct_fields__)


IMAGE = DOCUMENT.images[0]
NAMES: dict[str, dict[str, object]] = {
    "name": {"name": "registry.k8s.io/pause:3.9"},
    "repository": {"repository": "registry.k8s.io/pause"},
    "both": {"name": "docker.io/library/app:2", "repository": "docker.io/library/app2"},
    "no-reference": {"reference": "APP:1"},
    "another-digest": {
        "reference": f"app@{Digest.sha256(b'another')}",
        "name": f"docker.io/library/app@{Digest.sha256(b'another')}",
    },
}


@pytest.mark.parametrize("lie", NAMES)
def test_a_name_that_is_not_the_references_is_refused_whoever_has_made_it(lie: str) -> None:
    other = msgspec.structs.replace(DOCUMENT, images=(msgspec.structs.replace(IMAGE, **NAMES[lie]),))

    with pytest.raises(StoreCorrupt):
        expected_bundle(other).read(bundle_document.encode(other))


def changed(**changes: object) -> bytes:
    found = json.loads(bundle_document.encode(DOCUMENT)) | changes
    return json.dumps(found, separators=(",", ":")).encode()


FORMS: dict[str, bytes] = {
    "blanks": json.dumps(json.loads(bundle_document.encode(DOCUMENT))).encode(),
    "another-order": json.dumps(
        dict(reversed(json.loads(bundle_document.encode(DOCUMENT)).items())), separators=(",", ":")
    ).encode(),
    "a-field-that-nobody-knows": changed(unknown="x"),
    "a-key-twice": bundle_document.encode(DOCUMENT)[:-1] + b',"revision":"1"}',
    "a-default-that-is-written": bundle_document.encode(DOCUMENT).replace(
        b'"entries":1}', b'"entries":1,"verity":null}'
    ),
    "a-line-behind-it": bundle_document.encode(DOCUMENT) + b"\n",
    "no-json": b"{",
    "no-text": b"\xff",
    "no-digest": changed(images=[{"digest": "md5:1"}]),
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("form", FORMS)
def test_a_document_has_one_form(form: str) -> None:
    """Also when the digest is of that other form."""
    with pytest.raises(MalformedDocument):
        bundle_document.decode(FORMS[form])
    told = dataclasses.replace(expected_bundle(DOCUMENT), digest=Digest.sha256(FORMS[form]))
    with pytest.raises(ImageCacheError):
        told.read(FORMS[form])


def test_the_same_form_again() -> None:
    body = bundle_document.encode(DOCUMENT)

    assert bundle_document.encode(bundle_document.decode(body)) == body
    assert bundle_document.digest_of(DOCUMENT) == Digest.sha256(body)


def test_layers_and_what_they_have_to_be_right_for() -> None:
    made = MemoryDocuments()
    images = (
        made.image("one:1", ["a", "b", "c"], chains=["c"]),
        made.image("two:1", ["b", "a"]),
    )
    found = bundle_document.Bundle(
        id=ID, created="2025-01-01T00:00:00Z", platforms=(AMD64,), images=images
    ).placed_layers()

    one, two = (image.layers for image in images)
    assert {str(name): (each.bottom, each.below) for name, each in found.items()} == {
        str(one[0].name): (True, ()),
        str(one[1].name): (True, ()),  # at the bottom of the other image
        str(one[2].name): (False, (one[1].name, one[0].name)),
    }
    assert one[2].name.space is Space.CHAINS
    assert two[0].name == one[1].name
