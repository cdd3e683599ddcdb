"""Private images on a real node: who may start them, and who gets their layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from grpclib.exceptions import GRPCError

from testkit.images import busybox_image, tar_of
from testkit.oci_layout import Image
from testkit.peers.containerd import VERSIONS, Version
from testkit.peers.cri import Cri
from testkit.peers.node import CachingNode
from testkit.peers.registry import Registry

from .conftest import USER

pytestmark = pytest.mark.peers
SAYS = """\
version = 3
[plugins."io.containerd.cri.v1.images"]
  disable_snapshot_annotations = false
"""
"""Debian's containerd 1.6 of the harness has it, too."""


@pytest.fixture(params=VERSIONS)
def node(request: pytest.FixtureRequest, directory: Path, pause: str) -> Iterator[CachingNode]:
    with CachingNode(directory / "node", request.param, sandbox_image=pause) as running:
        yield running


async def test_a_private_image_is_pulled_with_the_pods_own_credential(
    node: CachingNode, guarded: Registry, busybox: Image
) -> None:
    reference = guarded.push("team/private:1", busybox)
    node.secret({guarded.address: USER})
    node.command("create", "-f", node.manifest("cache", [reference], imagePullSecrets=["default:secret1"]))
    async with Cri(node.address) as cri:
        assert await cri.image_status(reference) is None
        with pytest.raises(Exception, match=r"(?i)authoriz|basic auth"):
            await cri.pull(reference)
        guarded.clear_requests()
        await cri.pull(reference, auth=USER)
        fetched = {
            request.path for request in guarded.requests() if "/blobs/" in request.path and request.status == 200
        }
        assert len(fetched) <= 1, f"only the config: {fetched}"


@pytest.mark.parametrize(("version", "told"), [("system", True), ("2.4", True), ("2.4", False)])
async def test_whoever_knows_a_private_layers_digest_does_not_get_it(
    version: Version, guarded: Registry, registry: Registry, directory: Path, pause: str, *, told: bool
) -> None:
    """An image of his own lists the layer, and his registry does not have it. A public one is served to anybody.

    ``told``: containerd says what it pulls. Where it does not, as 2.x by default, he gets it, here as with overlayfs
    once a pod has pulled it (docs/security.md).
    """
    own = {
        kind: busybox_image(directory / kind, tar_of({"srv": None, "srv/own": kind.encode()}))
        for kind in ("private", "public")
    }
    references = {
        "private": guarded.push("team/private:1", own["private"]),
        "public": registry.push(f"{directory.name}/public:1", own["public"]),
    }
    his = {kind: registry.push(f"{directory.name}/his-{kind}:1", image) for kind, image in own.items()}
    node = CachingNode(directory / "node", version, sandbox_image=pause)
    if version == "2.4" and told:
        (node.containerd.directory / "conf.d" / "says.toml").write_text(SAYS)
    with node:
        node.secret({guarded.address: USER})
        manifest = node.manifest("cache", list(references.values()), imagePullSecrets=["default:secret1"])
        node.command("create", "-f", manifest)
        for kind, image in own.items():
            registry.delete_blob(f"{directory.name}/his-{kind}", image.layers[1].digest)
        guarded.delete_blob("team/private", own["private"].layers[1].digest)

        async with Cri(node.address) as cri:
            with pytest.raises(GRPCError, match="not found") if told else nullcontext():
                await cri.pull(his["private"])
            await cri.pull(his["public"])
            assert await cri.run(his["public"], ["cat", "/srv/own"]) == "public"
            await cri.pull(references["private"], auth=USER)
            assert await cri.run(references["private"], ["cat", "/srv/own"]) == "private"
