"""A runtime class whose handler has a snapshotter of its own: its pods start from the same cache."""

from __future__ import annotations

import pytest

from imagecache.kube.objects import at
from testkit.cluster.installed import Installed
from testkit.cluster.pods import PodSpec, messages, run_pods

from .conftest import Site

TWO = """\
version = 3
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.two]
  runtime_type = "io.containerd.runc.v2"
  snapshotter = "overlayfs"
"""
CLASS = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "two"}, "handler": "two"}


@pytest.mark.timeout(300)
def test_one_cache_serves_every_runtime_class(site: Site, system: Installed) -> None:
    cluster = system.cluster
    agent = system.add_node(drop_ins=[TWO])
    try:
        cluster.apply(CLASS)
        image = site.registry.push("classes/two:1", site.image(2_000_000))
        site.create("two", image)
        system.wait_ready("two")
        pods = [
            PodSpec("two-its-own", image, node=agent.node.name, runtime_class="two"),
            PodSpec("two-default", image, node=agent.node.name),
        ]
        with site.registry_off():
            run_pods(cluster, *pods)

        for pod in pods:
            assert any("already present on machine" in line for line in messages(cluster, pod)), pod.name
        roots = [cluster.kubectl("exec", pod.name, "--", "sh", "-c", "grep ' / ' /proc/mounts") for pod in pods]
        for root, snapshotter in zip(roots, ("overlayfs", "imagecache"), strict=True):
            assert f"/io.containerd.snapshotter.v1.{snapshotter}/" in root
        read = [cluster.kubectl("exec", pod.name, "--", "sha256sum", "/srv/0") for pod in pods]
        assert read[0] == read[1]
        assert at(system.states(agent.node)["two"], "unpackedInto") == ["overlayfs"]
    finally:
        cluster.kubectl("delete", "runtimeclass", "two", "--ignore-not-found")
        system.remove_node(agent)
