import pytest

from imagecache.containerd import image_records
from imagecache.digest import Digest
from imagecache.oci.manifest import parse_index
from testkit.attachable import MemoryDocuments

A = "a" * 64


@pytest.mark.parametrize(
    ("text", "by_tag"),
    [
        ("nginx", "docker.io/library/nginx:latest"),
        ("nginx:1.25", "docker.io/library/nginx:1.25"),
        ("127.0.0.1:5000/team/app:1.4", "127.0.0.1:5000/team/app:1.4"),
    ],
)
def test_an_image_is_named_by_tag_and_by_digest(text: str, by_tag: str) -> None:
    image = MemoryDocuments().image(text, ["base"])
    assert image_records.names(image) == (by_tag, f"{image.repository}@{image.manifest.digest}")


@pytest.mark.parametrize("text", [f"nginx@sha256:{A}", f"nginx:1.25@sha256:{A}"])
def test_containerd_drops_the_tag_when_there_is_a_digest(text: str) -> None:
    image = MemoryDocuments().image(text, ["base"])
    assert image_records.names(image) == (f"docker.io/library/nginx@{image.manifest.digest}",)


def test_the_digest_name_is_the_index_when_there_is_one() -> None:
    image = MemoryDocuments().image("nginx", ["base"], index=True)
    assert image_records.names(image)[1] == f"docker.io/library/nginx@{image.target.digest}"


def test_the_labels_hold_the_parts_together() -> None:
    documents = MemoryDocuments()
    image = documents.image("127.0.0.1:5000/team/app", ["base", "app"], index=True)
    index = parse_index(documents.read(image.target.digest), image.target.media_type)
    source = {"containerd.io/distribution.source.127.0.0.1": "team/app"}
    assert image_records.index_labels(image, index) == {
        "containerd.io/gc.ref.content.m.0": image.manifest.digest,
        **source,
    }
    assert image_records.manifest_labels(image) == {
        "containerd.io/gc.ref.content.config": image.config.digest,
        "containerd.io/gc.ref.content.l.0": Digest.sha256(b"gzip base"),
        "containerd.io/gc.ref.content.l.1": Digest.sha256(b"gzip app"),
        **source,
    }
    assert image_records.config_labels(image, "imagecache") == {
        "containerd.io/gc.ref.snapshot.imagecache": image.layers[-1].chain_id,
        **source,
    }


def test_an_image_without_layers_has_no_snapshot_to_keep() -> None:
    image = MemoryDocuments().image("scratch:1", [])
    assert image_records.config_labels(image, "imagecache") == {
        "containerd.io/distribution.source.docker.io": "library/scratch"
    }


@pytest.mark.parametrize(
    ("text", "host", "path"),
    [
        ("registry.example.com/app:1", "registry.example.com", "app"),
        ("registry.example.com:5000/team/app:1", "registry.example.com", "team/app"),
        ("[::1]:5000/app:1", "::1", "app"),
        ("[::1]/app:1", "::1", "app"),
    ],
)
def test_the_source_has_no_port_as_in_containerd(text: str, host: str, path: str) -> None:
    """``url.URL.Hostname`` of Go, by which a push looks for a repository to mount blobs from."""
    image = MemoryDocuments().image(text, ["base"])
    assert image_records.manifest_labels(image)[f"containerd.io/distribution.source.{host}"] == path
