"""``reserved_names``: of which images no cache may make a record."""

from __future__ import annotations

import pytest

from imagecache.containerd.reserved import ReservedNames
from imagecache.errors import InvalidSetting
from imagecache.oci.reference import Reference
from imagecache.settings.table import Settings


@pytest.mark.parametrize(
    ("entry", "image", "reserved"),
    [
        ("registry.k8s.io/", "registry.k8s.io/pause:3.9", True),
        ("registry.k8s.io/", "registry.k8s.io/coredns/coredns:v1.11", True),
        ("registry.k8s.io/", "Registry.K8s.io/pause:3.9", True),
        ("registry.k8s.io/", f"registry.k8s.io/pause@sha256:{'a' * 64}", True),
        ("registry.k8s.io/", f"registry.k8s.io/pause:3.9@sha256:{'a' * 64}", True),
        ("registry.k8s.io/", "registry.k8s.io:443/pause:3.9", False),
        ("registry.k8s.io/", "registry.k8s.io.example/pause:3.9", False),
        ("registry.k8s.io/", "mirror.example/registry.k8s.io/pause:3.9", False),
        ("ghcr.io/imagecache/imagecache", "ghcr.io/imagecache/imagecache:1.2", True),
        ("ghcr.io/imagecache/imagecache:1.2", "ghcr.io/imagecache/imagecache:1.3", True),
        ("ghcr.io/imagecache/imagecache", "ghcr.io/imagecache/imagecache-demo:1.2", False),
        ("ghcr.io/imagecache/imagecache", "ghcr.io/imagecache/imagecache/more:1.2", False),
        ("ghcr.io/imagecache/imagecache/", "ghcr.io/imagecache/imagecache:1.2", False),
        ("ghcr.io/imagecache/imagecache/", "ghcr.io/imagecache/imagecache/more:1.2", True),
        ("nginx", "docker.io/library/nginx:1.25", True),
        ("nginx", "bitnami/nginx:1.25", False),
        ("library/", "nginx", True),
        ("docker.io/", "nginx", True),
        ("index.docker.io/", "bitnami/nginx", True),
        ("bitnami/", "bitnami/nginx", True),
        ("bitnami/", "nginx", False),
        ("localhost:5000/", "localhost:5000/a:1", True),
    ],
)
def test_which_images_are_reserved(entry: str, image: str, reserved: bool) -> None:
    assert (Reference.parse(image).name in ReservedNames.parse([entry])) is reserved


def test_nothing_is_reserved_by_itself() -> None:
    assert "registry.k8s.io/pause:3.9" not in ReservedNames.parse([])
    assert "registry.k8s.io/pause:3.9" in ReservedNames.parse(Settings().reserved_names)


@pytest.mark.parametrize("entry", ["/", "https://registry.k8s.io/", "a b", "a/B", "registry.k8s.io//", "*"])
def test_what_is_neither_repository_nor_prefix(entry: str) -> None:
    with pytest.raises(InvalidSetting, match="reserved_names"):
        ReservedNames.parse([entry])
