"""Part of ``./dev demo --kubernetes``: pods find their cache, wait for one that they pin, and have one made."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from demo.shown import say, show, show_ours
from imagecache.kube.objects import text
from imagecache.match import events, keys
from testkit.cluster.cluster import Cluster
from testkit.cluster.installed import Installed
from testkit.cluster.pods import PodSpec
from testkit.cluster.seen_pods import SeenPods
from testkit.images import busybox_tar, make_image, tar_of
from testkit.oci_layout import Image
from testkit.peers.processes import wait_until
from testkit.peers.registry import Registry

AUTO = {keys.AUTO: "true"}
REFRESH = "imagecache.dev/refresh"
VERSION = "/srv/version"
_MATCHED = keys.MATCHED.replace(".", r"\.")


def image(cluster: Cluster, version: str) -> Image:
    """A file that says which version it is, and busybox above it: a chain of layers that the nodes have nothing of."""
    folder = Path(tempfile.mkdtemp(dir=cluster.directory))
    return make_image(
        folder, [tar_of({"srv": None, VERSION.lstrip("/"): f"version {version}\n".encode()}), busybox_tar()]
    )


def tell_pods(system: Installed, registry: Registry) -> None:
    """The registry is started for it, and stays so."""
    registry.start()
    pods = SeenPods(system)
    web, batch, later = (
        registry.push(f"team/{name}:1", image(system.cluster, name)) for name in ("web", "batch", "later")
    )
    plain = {"k8s.aliyun.com/plain-http-registry": registry.address}
    hit(system, pods, web, plain)
    missed(system, pods, batch, plain)
    pinned(system, pods, later, plain)
    updated(system, pods, registry, web)
    system.cluster.kubectl("delete", "pods", "--all", "--now")
    system.delete_all()


def hit(system: Installed, pods: SeenPods, reference: str, plain: dict[str, str]) -> None:
    say("A pod whose image is cached is told so:")
    system.create("web", [reference], plain)
    system.wait_ready("web")
    pods.create(PodSpec("hit", reference, annotations=AUTO))
    pods.wait_matched("hit")
    pods.wait_running("hit")
    pods.wait_told("hit", events.SERVED)
    show(system.cluster, f"get pod/hit -o=jsonpath={{.metadata.annotations.{_MATCHED}}}")
    show(system.cluster, "events --for=pod/hit")
    show_ours(system.cluster, "explain pod/hit")


def missed(system: Installed, pods: SeenPods, reference: str, plain: dict[str, str]) -> None:
    say("A pod whose image is not cached starts at once, and has a cache made; the next one hits:")
    asks = {**AUTO, keys.CREATE: "true", **plain}
    pods.create(PodSpec("missed", reference, annotations=asks))
    pods.wait_running("missed")
    pods.wait_told("missed", events.AUTO_CREATED)
    show(system.cluster, "events --for=pod/missed")
    (made,) = [name for name in system.cluster.kubectl("get", "imagecache", "-o=name").split() if "auto-create" in name]
    system.wait_ready(made.rpartition("/")[2])
    show(system.cluster, "get imagecache")
    pods.create(PodSpec("second", reference, annotations=asks))
    pods.wait_matched("second")
    pods.wait_running("second")
    show(system.cluster, "events --for=pod/second")


def pinned(system: Installed, pods: SeenPods, reference: str, plain: dict[str, str]) -> None:
    say("A pod that pins a cache waits until it is usable on nodes:")
    pods.create(PodSpec("pinned", reference, annotations={keys.PIN: "later"}))
    pods.wait_held("pinned")
    pods.wait_told("pinned", events.NOT_FOUND)
    show(system.cluster, "get pod/pinned")
    system.create("later", [reference], plain)
    pods.wait_running("pinned")
    show(system.cluster, "get pod/pinned")
    show(system.cluster, "events --for=pod/pinned")


def updated(system: Installed, pods: SeenPods, registry: Registry, reference: str) -> None:
    say("The same tag has new content. The cache is built anew beside the old one; pods get the one or the other:")
    before = cache_id(system)
    registry.push("team/web:1", image(system.cluster, "web-2"))
    show(system.cluster, f"annotate imagecache/web {REFRESH}=1")
    if not wait_until(lambda: cache_id(system) not in {"", before}, seconds=60, every=0.1):
        raise TimeoutError("the cache was not built anew")
    system.wait_ready("web")
    pods.create(PodSpec("fresh", reference, annotations={keys.PIN: "web"}))
    pods.wait_running("fresh")
    for name in ("hit", "fresh"):
        show(system.cluster, f"exec {name} -- cat {VERSION}")
    sys.stdout.write(f"\n{before} before, {cache_id(system)} now\n")


def cache_id(system: Installed) -> str:
    return text(system.get("web"), "status", "imageCacheId")
