"""Media types: what is a layer, and why the rest is refused."""

from __future__ import annotations

import pytest

from imagecache.errors import UnsupportedMediaType
from imagecache.oci import mediatypes
from imagecache.oci.mediatypes import (
    check_config,
    check_layer,
    check_resolved,
    is_decompressed,
    is_foreign,
    is_layer,
)


@pytest.mark.parametrize(
    "media_type",
    [
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
        "application/vnd.oci.image.layer.v1.tar+bzip2",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ],
)
def test_layers(media_type: str) -> None:
    assert is_layer(media_type)
    check_layer(media_type)
    assert is_foreign(media_type) is ("foreign" in media_type or "nondistributable" in media_type)


@pytest.mark.parametrize(
    ("media_type", "why"),
    [
        ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "encrypted"),
        ("application/vnd.oci.image.layer.v1.tar+encrypted", "encrypted"),
        ("application/vnd.in-toto+json", "not a tar"),
        ("application/vnd.erofs.layer.v1", "not a tar"),
        ("application/vnd.oci.image.layer.v2.tar", "not a tar"),
        ("application/vnd.oci.image.layer.v1.tar+encrypted+gzip", "encrypted"),
        ("", "no type"),
    ],
)
def test_refused_layers(media_type: str, why: str) -> None:
    with pytest.raises(UnsupportedMediaType, match=why) as caught:
        check_layer(media_type)

    assert caught.value.hint


@pytest.mark.parametrize(
    ("media_type", "decompressed"),
    [
        ("application/vnd.oci.image.layer.v1.tar", False),
        ("application/vnd.oci.image.layer.v1.tar+gzip", True),
        ("application/vnd.oci.image.layer.v1.tar+zstd", True),
        ("application/vnd.oci.image.layer.v1.tar+bzip2", False),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar", False),
        ("application/vnd.docker.image.rootfs.diff.tar", True),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", True),
    ],
)
def test_what_containerd_decompresses(media_type: str, *, decompressed: bool) -> None:
    assert is_decompressed(media_type) is decompressed


@pytest.mark.parametrize("media_type", ["", "application/vnd.in-toto+json", "application/vnd.erofs.layer.v1"])
def test_what_is_no_layer(media_type: str) -> None:
    assert not is_layer(media_type)


def test_configs() -> None:
    check_config(mediatypes.OCI_CONFIG)
    check_config(mediatypes.DOCKER_CONFIG)
    with pytest.raises(UnsupportedMediaType, match=r"artifact.*helm"):
        check_config("application/vnd.cncf.helm.config.v1+json")
    with pytest.raises(UnsupportedMediaType, match=r"octet-stream, as an old registry.*another digest") as caught:
        check_config("application/octet-stream")
    assert "artifact" not in f"{caught.value} {caught.value.hint}"


def test_resolved() -> None:
    for media_type in mediatypes.RESOLVABLE:
        check_resolved(media_type)
    with pytest.raises(UnsupportedMediaType, match="schema 1"):
        check_resolved("application/vnd.docker.distribution.manifest.v1+prettyjws")
    with pytest.raises(UnsupportedMediaType, match="neither"):
        check_resolved("text/html")
