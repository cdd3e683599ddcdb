"""One cluster for the run: containerd 1.6 and 2.4 in proxy mode, 2.4 in native mode; a controller, agents."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bench.link import Link
from testkit.cluster.installed import THREE_NODES, Installed
from testkit.cluster.seen_pods import SeenPods
from testkit.images import busybox_image, tar_of, thin_layers
from testkit.oci_layout import Image, ImageConfig, LayerSpec, Layout
from testkit.peers.processes import mounts_below, processes_of
from testkit.peers.registry import Registry
from testkit.peers.workspace import workspace

USER, PASSWORD = "user", "correct horse"
WORKLOADS = ("deployments", "statefulsets", "daemonsets", "jobs", "pods")
_SLOW = 40_000_000
"""Bits a second of ``Site.slowly``."""
_STORED = 0
"""gzip's level for random bytes: nothing makes them smaller, and to try takes half a minute of a busy machine."""


@dataclass
class Site:
    """The cluster, and registries that its nodes can pull from."""

    system: Installed
    registry: Registry
    guarded: Registry
    """Asks for USER and PASSWORD."""
    slow: str
    """Address of ``registry`` on a slow link."""
    directory: Path
    _random: random.Random = field(default_factory=lambda: random.Random(7))

    @property
    def plain(self) -> Mapping[str, str]:
        """Annotations with which the controller speaks HTTP to them."""
        addresses = (self.registry.address, self.guarded.address, self.slow)
        return {"k8s.aliyun.com/plain-http-registry": ",".join(addresses)}

    def slowly(self, reference: str) -> str:
        """The same image of ``registry``, 5 MB a second: its build takes a time, and no processor for it."""
        return reference.replace(self.registry.address, self.slow, 1)

    def image(self, *sizes: int, layers: int = 0) -> Image:
        """An image that nobody has seen: busybox, and a layer of random bytes for each size; ``layers`` at least."""
        folder = Path(tempfile.mkdtemp(dir=self.directory))
        made = [
            LayerSpec(tar_of({"srv": None, f"srv/{number}": self._random.randbytes(size)}), level=_STORED)
            for number, size in enumerate(sizes or (1000,))
        ]
        return busybox_image(folder, *made, *thin_layers(layers - len(made) - 1))

    def on(self, base: Image, size: int) -> Image:
        """An image of the base's layers and one of random bytes."""
        layout = Layout(Path(tempfile.mkdtemp(dir=self.directory)))
        shared = [layout.add(layer.media_type, base.blob(layer.digest).read_bytes()) for layer in base.layers]
        top, diff = layout.add_layer(LayerSpec(tar_of({"srv/top": self._random.randbytes(size)}), level=_STORED))
        return layout.add_manifest([*shared, top], [*base.diff_ids, diff], ImageConfig())

    def create(self, name: str, *images: str, **spec: object) -> None:
        self.system.create(name, images, self.plain, **spec)  # type: ignore[arg-type]  # JSON values, as written

    @contextmanager
    def registry_off(self) -> Iterator[None]:
        self.registry.stop()
        try:
            yield
        finally:
            self.registry.start()


@pytest.fixture(scope="session")
def whole_site() -> Iterator[Site]:
    with workspace() as directory:
        with Installed(directory / "cluster", THREE_NODES) as system:
            cluster = system.cluster
            with (
                Registry(directory / "public", host=cluster.address) as public,
                Registry(directory / "guarded", users={USER: PASSWORD}, host=cluster.address) as guarded,
            ):
                cluster.trust(public)
                cluster.trust(guarded)
                with Link((public.host, public.port), _SLOW, 0, host=cluster.address) as link:
                    yield Site(system, public, guarded, link.address, directory)
        assert not processes_of(directory), "processes left behind"
        assert not mounts_below(directory), "mounts left behind"


@pytest.fixture
def site(whole_site: Site) -> Iterator[Site]:
    """Without pods and ImageCaches, before and after."""
    yield whole_site
    _clear(whole_site.system)
    whole_site.system.delete_all()


def _clear(system: Installed) -> None:
    """No pod, and nothing that makes pods. kubectl takes turns, so most of them go at once before that."""
    for kind in WORKLOADS:
        group = {"jobs": "apis/batch/v1", "pods": "api/v1"}.get(kind, "apis/apps/v1")
        system.ask("DELETE", f"/{group}/namespaces/default/{kind}?gracePeriodSeconds=0&propagationPolicy=Background")
    kinds = ",".join(WORKLOADS)
    system.cluster.kubectl("delete", kinds, "--all", "--all-namespaces", "--force", "--grace-period=0")


@pytest.fixture
def system(site: Site) -> Installed:
    return site.system


@pytest.fixture
def pods(system: Installed) -> SeenPods:
    """Those of the namespace default, and of this test."""
    return SeenPods.from_now(system)
