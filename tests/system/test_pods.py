"""Pods of cached images: no pull, or one of documents only; nobody gets what he may not have."""

from __future__ import annotations

import base64
import json

from imagecache.kube.objects import text
from imagecache.store.store import Store
from testkit.cluster.accounts import identity
from testkit.cluster.installed import Installed
from testkit.cluster.pods import PodSpec, messages, run_pods
from testkit.images import busybox_image, tar_of
from testkit.peers.processes import wait_until
from testkit.real_images import big_image
from tools.install.rbac import AGENT

from .conftest import PASSWORD, USER, Site

PYTHON = ("python3", "-c", "import time; time.sleep(3600)")


def pull_secret(host: str, name: str, namespace: str, password: str = PASSWORD) -> dict[str, object]:
    auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
    config = json.dumps({"auths": {host: {"auth": auth}}})
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/dockerconfigjson",
        "metadata": {"name": name, "namespace": namespace},
        "data": {".dockerconfigjson": base64.b64encode(config.encode()).decode()},
    }


def one_for_each_node(system: Installed, name: str, image: str, **more: object) -> list[PodSpec]:
    return [PodSpec(f"{name}-{node.name}", image, node=node.name, **more) for node in system.cluster.nodes]  # type: ignore[arg-type]


def layers_asked_for(site: Site, image_layers: set[str]) -> set[str]:
    asked = {request.path.rpartition("/")[2] for request in site.guarded.requests() if "/blobs/" in request.path}
    return asked & image_layers


def test_900_mb_and_the_registry_off(site: Site, system: Installed) -> None:
    image = site.registry.push("pods/big:1", big_image())
    site.create("big", image)
    system.wait_ready("big")
    pods = one_for_each_node(system, "big", image, command=PYTHON)

    with site.registry_off():
        run_pods(system.cluster, *pods)

    for pod in pods:
        assert any("already present on machine" in line for line in messages(system.cluster, pod)), pod.name


def test_a_private_image_is_pulled_by_its_documents_alone(site: Site, system: Installed) -> None:
    made = site.image(5_000_000)
    image = site.guarded.push("pods/private:1", made)
    system.cluster.apply(pull_secret(site.guarded.address, "allowed", "default"))
    site.create("private", image, imagePullSecrets=["default:allowed"])
    system.wait_ready("private")
    site.guarded.clear_requests()

    run_pods(system.cluster, *one_for_each_node(system, "private", image, pull_secrets=["allowed"]))

    assert not layers_asked_for(site, {str(layer.digest) for layer in made.layers})


def test_who_has_no_secret_is_refused_as_without_a_cache(site: Site, system: Installed) -> None:
    image = site.guarded.push("pods/secret:1", site.image())
    system.cluster.apply(pull_secret(site.guarded.address, "allowed", "default"))
    site.create("secret", image, imagePullSecrets=["default:allowed"])
    system.wait_ready("secret")
    system.cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other"}})
    pods = one_for_each_node(system, "thief", image, namespace="other")

    system.cluster.apply(*(pod.document() for pod in pods))

    for pod in pods:

        def refused(pod: PodSpec = pod) -> bool:
            told = " ".join(messages(system.cluster, pod))
            return "401 Unauthorized" in told or "no basic auth credentials" in told

        assert wait_until(refused, seconds=60, every=0.5), messages(system.cluster, pod)


def test_delete_with_running_pods(site: Site, system: Installed) -> None:
    image = site.registry.push("pods/delete:1", site.image(2_000_000))
    site.create("delete", image)
    system.wait_ready("delete")
    pods = one_for_each_node(system, "delete", image)
    run_pods(system.cluster, *pods)

    system.delete("delete")

    read = ["sh", "-c", "sha256sum /srv/0 && echo written >/srv/new && cat /srv/new"]
    for pod in pods:
        assert system.cluster.kubectl("exec", pod.name, "--", *read).endswith("written\n")
    for node in system.cluster.nodes:
        assert wait_until(lambda node=node: "delete" not in system.states(node), seconds=30, every=0.2)  # type: ignore[misc]


def test_layers_stay_for_a_container_and_go_with_it(site: Site, system: Installed) -> None:
    node = system.cluster.nodes[0]
    # what a node has pulled on top of a cached layer keeps that layer, so those of earlier tests may stay
    others = set(node.store.rglob("*.erofs"))
    image = site.registry.push("pods/layers:1", site.image(2_000_000))
    site.create("layers", image)
    system.wait_ready("layers")
    pod = PodSpec("layers", image, node=node.name)
    run_pods(system.cluster, pod)
    own = set(node.store.rglob("*.erofs")) - others
    system.delete("layers")
    assert wait_until(lambda: "layers" not in system.states(node), seconds=30, every=0.2)
    assert set(node.store.rglob("*.erofs")) & own

    system.cluster.kubectl("delete", "pod", pod.name)

    gone = wait_until(lambda: not set(node.store.rglob("*.erofs")) & own, seconds=60, every=0.5)
    assert gone, Store.open(node.store).collect(dry_run=True).kept


def test_other_nodes_read_nothing_of_a_private_image(site: Site, system: Installed) -> None:
    """The agents of nodes that the cache does not select: the served store asks whose token it is."""
    chosen, other = system.cluster.nodes[:2]
    system.cluster.kubectl("label", "node", chosen.name, "imagecache-test=secret")
    made = busybox_image(site.directory / "for-some", tar_of({"srv": None, "srv/secret": b"for some nodes"}))
    image = site.guarded.push("pods/for-some:1", made)
    system.cluster.apply(pull_secret(site.guarded.address, "allowed", "default"))
    selector = {**site.plain, "imagecache.dev/node-selector": "imagecache-test=secret"}
    system.create("for-some", [image], selector, imagePullSecrets=["default:allowed"])
    system.wait_phase("for-some", "Ready")
    system.wait_nodes("for-some", 1)

    bundle = text(system.get("for-some"), "status", "imageCacheId")
    secret = Store.open(system.controller.store).bundles.get(bundle).images[0].layers[-1].name
    wanted = (f"bundles/{bundle}", f"layers/{secret}", f"blobs/{made.config.digest}")
    for node, status in ((chosen, 200), (other, 403)):
        token = identity(system.cluster, AGENT, node=node).store_token.read_text()
        assert [system.ask_store(f"/v1/{path}", token) for path in wanted] == [status] * 3
    system.cluster.kubectl("label", "node", chosen.name, "imagecache-test-")
