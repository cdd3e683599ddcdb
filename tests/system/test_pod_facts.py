"""What agents tell of pods, as kubectl shows it: layers from caches, bytes pulled, time; on nodes of each mode."""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
import tempfile
from pathlib import Path

from imagecache.api import columns
from testkit.cluster.agent import AgentHost
from testkit.cluster.installed import Installed
from testkit.cluster.pods import PodSpec, run_pods, wait_ready
from testkit.images import busybox_tar, make_image
from testkit.oci_layout import Image, LayerSpec
from testkit.peers.processes import wait_until

from .conftest import Site

REASON = "ImageCacheServed"


def image_of(site: Site, *sizes: int) -> Image:
    """Layers of random bytes, and busybox on them: as a bottom layer, nodes have it already, from the pause image."""
    made = site.image(*sizes)  # bytes that nobody has seen
    blobs = [gzip.decompress(made.blob(layer.digest).read_bytes()) for layer in made.layers]
    return make_image(
        Path(tempfile.mkdtemp(dir=site.directory)), [*(LayerSpec(tar, level=0) for tar in blobs[1:]), busybox_tar()]
    )


def lone_image(site: Site) -> Image:
    """One layer that nobody has seen, busybox in it: native mode finds a layer below whatever it stands."""
    folder = Path(tempfile.mkdtemp(dir=site.directory))
    content = io.BytesIO(busybox_tar())
    with tarfile.open(fileobj=content, mode="a") as tar:
        member = tarfile.TarInfo("unique")
        member.size = len(folder.name)
        tar.addfile(member, io.BytesIO(folder.name.encode()))
    return make_image(folder, [content.getvalue()])


def one_for_each_node(system: Installed, name: str, image: str) -> list[tuple[AgentHost, PodSpec]]:
    return [(agent, PodSpec(f"{name}-{agent.node.name}", image, node=agent.node.name)) for agent in system.agents]


def told(system: Installed, pod: PodSpec) -> list[dict[str, object]]:
    chosen = f"--field-selector=involvedObject.kind=Pod,involvedObject.name={pod.name},reason={REASON}"
    listed = system.cluster.kubectl("get", "events", f"--namespace={pod.namespace}", chosen, "--output=json")
    items: list[dict[str, object]] = json.loads(listed)["items"]
    return items


def wait_told(system: Installed, agent: AgentHost, pod: PodSpec) -> str:
    """The text of the only event about it."""
    assert wait_until(lambda: bool(told(system, pod)), seconds=60, every=0.5), agent.daemon.tail(30)
    (item,) = told(system, pod)
    return str(item["message"])


def timed(agent: AgentHost, text: str) -> str:
    """The pattern of a message: our snapshotter knows the time, containerd's own does not tell it."""
    return re.escape(text) + (r", \d+(\.\d)? ms" if agent.mode == "proxy" else "")


def test_pods_of_a_cached_image(site: Site, system: Installed) -> None:
    image = site.registry.push("facts/cached:1", image_of(site, 1_000_000, 2_000_000))
    site.create("cached", image)
    system.wait_ready("cached")
    pods = one_for_each_node(system, "cached", image)
    with site.registry_off():
        run_pods(system.cluster, *(pod for _, pod in pods))

    for agent, pod in pods:
        text = wait_told(system, agent, pod)
        assert re.fullmatch(timed(agent, "3/3 layers from cache, 0 B pulled"), text)
        (item,) = told(system, pod)
        uid = system.cluster.kubectl("get", "pod", pod.name, "--output=jsonpath={.metadata.uid}")
        assert item["involvedObject"] == {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": "default",
            "name": pod.name,
            "uid": uid,
        }
        assert (item["type"], item["source"]) == ("Normal", {"component": "imagecache-agent", "host": agent.node.name})
        assert text in system.cluster.kubectl("describe", "pod", pod.name)


def test_a_pod_that_used_no_cache_is_told_nothing(site: Site, system: Installed) -> None:
    plain = site.registry.push("facts/plain:1", lone_image(site))
    image = site.registry.push("facts/beside:1", image_of(site, 1_000_000))
    site.create("beside", image)
    system.wait_ready("beside")
    pods = one_for_each_node(system, "plain", plain)
    beside = one_for_each_node(system, "beside", image)
    run_pods(system.cluster, *(pod for _, pod in pods))
    run_pods(system.cluster, *(pod for _, pod in beside))

    for agent, pod in beside:
        wait_told(system, agent, pod)
    for _, pod in pods:
        assert told(system, pod) == []


def test_an_image_whose_lower_layers_are_cached(site: Site, system: Installed) -> None:
    base = image_of(site, 1_000_000)
    top = site.on(base, 300_000)
    site.create("lower", site.registry.push("facts/lower:1", base))
    system.wait_ready("lower")
    image = site.registry.push("facts/upper:1", top)
    pods = one_for_each_node(system, "upper", image)
    run_pods(system.cluster, *(pod for _, pod in pods))

    size = columns.size(top.layers[-1].size, blank=" ")
    for agent, pod in pods:
        text = wait_told(system, agent, pod)
        assert re.fullmatch(timed(agent, f"2/3 layers from cache, {size} pulled"), text)


def test_all_containers_of_a_pod_are_told_in_one_event(site: Site, system: Installed) -> None:
    images = [site.registry.push(f"facts/{name}:1", image_of(site, 500_000)) for name in ("init", "main", "side")]
    site.create("several", *images)
    system.wait_ready("several")
    pods = one_for_each_node(system, "several", images[1])
    for _, pod in pods:
        document = pod.document()
        spec = document["spec"]
        assert isinstance(spec, dict)
        spec["initContainers"] = [{"name": "init", "image": images[0], "command": ["true"]}]
        spec["containers"].append({"name": "side", "image": images[2], "command": list(pod.command)})
        system.cluster.apply(document)
    for _, pod in pods:
        wait_ready(system.cluster, pod)

    for agent, pod in pods:
        text = wait_told(system, agent, pod)
        assert re.fullmatch(timed(agent, "6/6 layers from cache, 0 B pulled"), text)


def test_restarts_tell_nothing_twice(site: Site, system: Installed) -> None:
    image = site.registry.push("facts/restarted:1", image_of(site, 500_000))
    site.create("restarted", image)
    system.wait_ready("restarted")
    pods = one_for_each_node(system, "restarted", image)
    run_pods(system.cluster, *(pod for _, pod in pods))
    before = {pod.name: (wait_told(system, agent, pod), told(system, pod)) for agent, pod in pods}

    for agent, pod in pods:
        agent.restart()
        system.cluster.try_kubectl("exec", pod.name, "--", "sh", "-c", "kill 1")  # it may end with the container
    for _, pod in pods:

        def again(pod: PodSpec = pod) -> bool:
            path = "--output=jsonpath={.status.containerStatuses[0].restartCount}"
            return system.cluster.kubectl("get", "pod", pod.name, path) == "1"

        assert wait_until(again, seconds=60, every=0.5)
    later = one_for_each_node(system, "later", image)
    run_pods(system.cluster, *(pod for _, pod in later))

    for agent, pod in later:
        wait_told(system, agent, pod)
    for _, pod in pods:
        assert told(system, pod) == before[pod.name][1]
