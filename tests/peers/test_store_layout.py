"""The store is an OCI image layout: other tools read it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec
import pytest

from imagecache.digest import DiffID, Digest
from imagecache.store.store import Store
from testkit.store import put_bundle

pytestmark = pytest.mark.peers

ID = "imc-aaaaaaaaaaaaaaaaaaaa"


def output(*command: str | Path) -> bytes:
    return subprocess.run(command, check=True, capture_output=True).stdout


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.open(tmp_path / "store")
    put_bundle(store, ID, [DiffID(Digest.sha256(b"base"))], [b"image"])
    return store


def test_umoci_lists_the_snapshots(store: Store) -> None:
    assert output("umoci", "ls", "--layout", store.root).split() == [ID.encode()]


def test_skopeo_reads_a_snapshot_as_an_artifact(store: Store) -> None:
    manifest = msgspec.json.decode(output("skopeo", "inspect", "--raw", f"oci:{store.root}:{ID}"))

    assert manifest["artifactType"] == "application/vnd.imagecache.bundle.v1+json"
    assert manifest["config"]["mediaType"] == "application/vnd.oci.empty.v1+json"
    document = msgspec.json.decode(store.blobs.read(Digest(manifest["layers"][0]["digest"])))
    assert document["id"] == ID
    named = [layer["digest"] for layer in manifest["layers"][1:]]
    assert named == [document["images"][0][part]["digest"] for part in ("manifest", "config")]
    assert all(store.blobs.has(Digest(digest)) for digest in named)
