"""Pods that pin a cache: held until nodes have it, told why, let go by themselves; whatever makes them, whatever ends.

That they are held at all is asked in ``test_pod_policies``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path

from imagecache.api.yamltext import JSON
from imagecache.kube.node_affinity import HOSTNAME
from imagecache.kube.objects import at, text
from imagecache.match import events, keys
from testkit.cluster.installed import Installed
from testkit.cluster.node import Node
from testkit.cluster.pods import PodSpec, run_pods, workload
from testkit.cluster.seen_pods import SeenPods, gates, is_held, is_running, matched, name_of, node_of
from testkit.peers.processes import wait_until

from .conftest import Site
from .test_auto_caches import caches

OTHER_GATE = "example.com/other"
MB = 1_000_000
PREFIX = "[eci.imagecache]"
NOT_FOUND = f"{PREFIX}The specified image cache {{}} does not exist."
NOT_COMPLETE = f"{PREFIX}The production for specified image cache {{}} is not yet complete."
HIT = f"{PREFIX}Successfully hit image cache {{}}, eci will be scheduled with this image cache."
STATIC = "/etc/kubernetes/manifests"


def cache_id(system: Installed, name: str) -> str:
    return text(system.get(name), "status", "imageCacheId")


def image(site: Site, name: str, size: int = 1000) -> str:
    return site.registry.push(f"pinned/{name}:1", site.image(size))


def usable(site: Site, name: str, reference: str) -> str:
    """A cache that every node has; its id."""
    site.create(name, reference)
    site.system.wait_ready(name)
    return cache_id(site.system, name)


def pinned(name: str, reference: str, pin: str, key: str = keys.PIN) -> PodSpec:
    return PodSpec(name, reference, annotations={key: pin})


def kubelet_pulled(pods: SeenPods, *names: str) -> list[str]:
    """kubelet's own words about pulls of these pods' images."""
    return [each.message for each in pods.told(*names) if each.reason == "Pulling"]


def take_gate(system: Installed, name: str, gate: str) -> None:
    """As its owner does."""
    body = {"spec": {"schedulingGates": [{"name": gate, "$patch": "delete"}]}}
    path = f"/api/v1/namespaces/default/pods/{name}"
    status, answer = system.ask("PATCH", path, body, content="application/strategic-merge-patch+json")
    assert status == HTTPStatus.OK, answer


def bind(system: Installed, name: str, node: str) -> None:
    """As a scheduler does."""
    target = {"apiVersion": "v1", "kind": "Node", "name": node}
    body = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
    status, answer = system.ask("POST", f"/api/v1/namespaces/default/pods/{name}/binding", body)
    assert status == HTTPStatus.CREATED, answer


@contextmanager
def without_agents(system: Installed, nodes: Sequence[Node]) -> Iterator[None]:
    """Inside, no agent runs on these nodes."""
    for node in nodes:
        system.agent(node).stop()
    try:
        yield
    finally:
        for node in nodes:
            system.agent(node).start()


# one pod


def test_a_pin_that_is_usable_by_name_id_and_the_old_key(site: Site, pods: SeenPods) -> None:
    reference = image(site, "usable")
    found = usable(site, "usable", reference)
    pods.create(
        pinned("by-name", reference, "usable"),
        pinned("by-id", reference, found),
        pinned("by-old-key", reference, found, keys.PIN_OLD),
        PodSpec("by-both", reference, annotations={keys.PIN: "usable", keys.PIN_OLD: "nothing"}),
    )
    names = ("by-name", "by-id", "by-old-key", "by-both")
    pods.wait_running(*names)

    for name in names:
        assert pods.matched(name) == found
        assert pods.wait_told(name, events.HIT) == HIT.format(found)
        assert pods.reasons(name).count(events.HIT) == 1
        assert not {events.NOT_FOUND, events.NOT_COMPLETE} & set(pods.reasons(name))
    assert not kubelet_pulled(pods, *names)


def test_a_pin_that_is_usable_and_has_other_images(site: Site, system: Installed, pods: SeenPods) -> None:
    """It is used all the same: what it lacks is pulled, and no cache is made for that, whoever asks for one."""
    reference, other = image(site, "one"), image(site, "other")
    found = usable(site, "one", reference)
    said = {keys.PIN: "one", keys.AUTO: "true", keys.CREATE: "true"}
    pods.create(
        PodSpec("other", other, annotations=said), PodSpec("both", reference, more_images=[other], annotations=said)
    )
    pods.wait_running("other", "both")

    for name in ("other", "both"):
        assert pods.matched(name) == found
        assert pods.wait_told(name, events.HIT) == HIT.format(found)
        own = {events.HIT, events.MISSED, events.NOT_FOUND, events.NOT_COMPLETE, events.AUTO_CREATED}
        assert [reason for reason in pods.reasons(name) if reason in own] == [events.HIT]
    pulled = kubelet_pulled(pods, "other", "both")
    assert pulled
    assert all(f'"{other}"' in each for each in pulled), pulled
    assert caches(system) == []


def test_an_id_of_an_earlier_bundle_still_names_its_cache(site: Site, system: Installed, pods: SeenPods) -> None:
    one, two = image(site, "earlier-one"), image(site, "earlier-two")
    before = usable(site, "earlier", one)
    system.cluster.kubectl("patch", "imagecache", "earlier", "--type=merge", f"--patch={spec(images=[one, two])}")
    assert wait_until(lambda: cache_id(system, "earlier") not in {"", before}, seconds=60, every=0.2)
    system.wait_ready("earlier")
    now = cache_id(system, "earlier")

    pods.create(pinned("old-id", two, before))

    pods.wait_running("old-id")
    assert pods.matched("old-id") == now
    assert not kubelet_pulled(pods, "old-id")


def spec(**fields: JSON) -> str:
    return json.dumps({"spec": fields})


def test_an_unknown_pin_is_held_told_and_let_go(site: Site, system: Installed, pods: SeenPods) -> None:
    reference = image(site, "unknown", 5 * MB)
    pods.create(pinned("waits", reference, "unknown"), PodSpec("plain", reference, node=system.cluster.nodes[0].name))
    pods.wait_held("waits")
    assert pods.wait_told("waits", events.NOT_FOUND) == NOT_FOUND.format("unknown")
    pods.wait_running("plain")

    with site.registry.frozen():
        site.create("unknown", reference)
        assert pods.wait_told("waits", events.NOT_COMPLETE) == NOT_COMPLETE.format("unknown")
        assert is_held(pods.get("waits"))

    pods.wait_running("waits")
    assert pods.wait_told("waits", events.HIT) == HIT.format(cache_id(system, "unknown"))
    assert pods.matched("waits") == cache_id(system, "unknown")
    own = {events.NOT_FOUND, events.NOT_COMPLETE, events.HIT}
    told = [reason for reason in pods.reasons("waits") if reason in own]
    assert sorted(told) == sorted(own), "each of them once"
    assert not kubelet_pulled(pods, "waits")


def test_held_until_nodes_have_it(site: Site, system: Installed, pods: SeenPods) -> None:
    """Ready is not enough: a pod that goes then is pulled for by kubelet, the very thing that a pin forbids."""
    reference = image(site, "late")
    with without_agents(system, system.cluster.nodes):
        site.create("late", reference)
        system.wait_phase("late", "Ready")
        pods.create(pinned("late", reference, "late"))
        pods.wait_held("late")
        assert not wait_until(lambda: not pods.gates("late"), seconds=5, every=0.2)

    pods.wait_running("late")
    assert pods.matched("late") == cache_id(system, "late")
    assert not kubelet_pulled(pods, "late")


def test_pods_go_to_a_node_that_has_it(site: Site, system: Installed, pods: SeenPods) -> None:
    """Some nodes never get it: after a while they are not waited for."""
    reference = image(site, "some")
    has, *others = system.cluster.nodes[::-1]
    prefers, needs = ("prefers-0", "prefers-1"), ("needs-0", "needs-1")
    pin = {keys.PIN: "some"}
    with without_agents(system, others):
        site.create("some", reference)
        system.wait_state(has, "some", "Ready")
        pods.create(
            *(PodSpec(name, reference, annotations=pin) for name in prefers),
            *(PodSpec(name, reference, annotations={**pin, keys.REQUIRE_NODE: "true"}) for name in needs),
        )
        pods.wait_running(*prefers, *needs)

        for names, rule in ((prefers, "preferred"), (needs, "required")):
            for pod in map(pods.get, names):
                assert node_of(pod) == has.name
                affinity = at(pod, "spec", "affinity", "nodeAffinity", f"{rule}DuringSchedulingIgnoredDuringExecution")
                assert has.name in json.dumps(affinity)
        assert not kubelet_pulled(pods, *prefers, *needs)


def test_gates_of_others_stay(site: Site, pods: SeenPods) -> None:
    reference = image(site, "others")
    usable(site, "others", reference)
    theirs = [OTHER_GATE, "kueue.x-k8s.io/admission"]
    pods.create(PodSpec("others", reference, annotations={keys.PIN: "others"}, gates=theirs))

    pods.wait("others", "let go by us", lambda: pods.gates("others") == theirs)
    assert not node_of(pods.get("others"))


def test_a_gate_in_the_manifest_is_enough(site: Site, pods: SeenPods) -> None:
    """As on clusters before 1.36; and whoever has it without a pin goes at once."""
    reference = image(site, "own-gate")
    usable(site, "own-gate", reference)
    pods.create(
        PodSpec("own-gate", reference, annotations={keys.PIN: "own-gate"}, gates=[keys.GATE]),
        PodSpec("no-pin", reference, gates=[keys.GATE]),
    )

    pods.wait_running("own-gate", "no-pin")
    assert pods.gates("own-gate") == pods.gates("no-pin") == []


def test_an_edited_pin_frees(site: Site, system: Installed, pods: SeenPods) -> None:
    reference = image(site, "good")
    found = usable(site, "good", reference)
    pods.create(*(pinned(name, reference, "bad") for name in ("edited", "removed", "emptied")))
    pods.wait_held("edited", "removed", "emptied")

    annotate = ["annotate", "pod", "--overwrite"]
    system.cluster.kubectl(*annotate, "edited", f"{keys.PIN}=good")
    system.cluster.kubectl(*annotate, "removed", f"{keys.PIN}-")
    system.cluster.kubectl(*annotate, "emptied", f"{keys.PIN}=")

    pods.wait_running("edited", "removed", "emptied")
    assert pods.matched("edited") == found


def test_a_name_that_comes_again_is_another_pod(site: Site, system: Installed, pods: SeenPods) -> None:
    reference = image(site, "again")
    found = usable(site, "again", reference)
    pods.create(pinned("again", reference, "nothing"))
    pods.wait_held("again")
    pods.wait_told("again", events.NOT_FOUND)
    before = text(pods.get("again"), "metadata", "uid")

    system.cluster.kubectl("delete", "pod", "again", "--now")
    pods.create(pinned("again", reference, "again"))

    pods.wait_running("again")
    assert pods.matched("again") == found
    after = text(pods.get("again"), "metadata", "uid")
    assert {each.uid for each in pods.told("again") if each.reason == events.NOT_FOUND} == {before}
    assert {each.uid for each in pods.told("again") if each.reason == events.HIT} == {after}


def test_a_cache_that_is_deleted_meanwhile(site: Site, system: Installed, pods: SeenPods) -> None:
    reference = image(site, "deleted", 5 * MB)
    with site.registry.frozen():
        site.create("deleted", reference)
        pods.create(pinned("waits", reference, "deleted"))
        pods.wait_told("waits", events.NOT_COMPLETE)
        system.delete("deleted")
        pods.wait_told("waits", events.NOT_FOUND)
        assert is_held(pods.get("waits"))

    usable(site, "deleted", reference)
    pods.wait_running("waits")


# what makes pods


def test_every_kind_of_workload_waits_and_goes(site: Site, system: Installed, pods: SeenPods) -> None:
    reference = image(site, "kinds")
    once = ("sh", "-c", "exit 0")
    made: list[tuple[str, int, dict[str, JSON]]] = [
        ("Deployment", 2, {"replicas": 2}),
        ("StatefulSet", 2, {"replicas": 2, "serviceName": "none"}),
        ("DaemonSet", len(system.cluster.nodes), {}),
        ("Job", 2, {"completions": 2, "parallelism": 2, "activeDeadlineSeconds": 120}),
    ]
    for kind, _, fields in made:
        pod = PodSpec(
            kind.lower(),
            reference,
            annotations={keys.PIN: "kinds"},
            **({"command": once, "restart_policy": "Never"} if kind == "Job" else {}),  # type: ignore[arg-type]
        )
        system.cluster.apply(workload(kind, pod, **fields))
    first = {kind: 1 if kind == "StatefulSet" else count for kind, count, _ in made}

    def held(kind: str) -> int:
        return sum(map(is_held, pods.of(kind.lower())))

    assert wait_until(lambda: {kind: held(kind) for kind in first} == first, seconds=60, every=0.2)
    site.create("kinds", reference)

    for kind, count, _ in made[:-1]:

        def running(kind: str = kind, count: int = count) -> bool:
            return sum(map(is_running, pods.of(kind.lower()))) == count

        assert wait_until(running, seconds=60, every=0.2), (kind, pods.of(kind.lower()))
    system.cluster.kubectl("wait", "--for=condition=Complete", "job/job", "--timeout=60s")
    found = [pod for kind, _, _ in made for pod in pods.of(kind.lower())]
    assert {matched(pod) for pod in found} == {cache_id(system, "kinds")}
    assert not kubelet_pulled(pods, *map(name_of, found))


def test_a_rollout_waits_without_harm_to_what_runs(site: Site, system: Installed, pods: SeenPods) -> None:
    reference = image(site, "rollout")
    fields: dict[str, JSON] = {
        "replicas": 2,
        "progressDeadlineSeconds": 3,
        "strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
    }
    system.cluster.apply(workload("Deployment", PodSpec("rollout", reference), **fields))
    assert wait_until(lambda: sum(map(is_running, pods.of("rollout"))) == 2, seconds=60, every=0.2)
    before = set(map(name_of, pods.of("rollout")))

    system.cluster.apply(workload("Deployment", pinned("rollout", reference, "rollout"), **fields))

    assert wait_until(lambda: progress(system, "rollout") == "ProgressDeadlineExceeded", seconds=60, every=0.2)
    now = pods.of("rollout")
    assert {name_of(pod) for pod in now if is_running(pod)} == before
    assert sum(map(is_held, now)) == 1

    found = usable(site, "rollout", reference)

    def rolled_out() -> bool:
        now = pods.of("rollout")
        return len(now) == 2 and all(is_running(pod) and matched(pod) == found for pod in now)

    assert wait_until(rolled_out, seconds=60, every=0.2), pods.of("rollout")
    assert wait_until(lambda: progress(system, "rollout") == "NewReplicaSetAvailable", seconds=30, every=0.2)


def progress(system: Installed, name: str) -> str:
    """Reason of the Deployment's condition Progressing."""
    found = at(system.read(f"/apis/apps/v1/namespaces/default/deployments/{name}"), "status", "conditions")
    conditions = found if isinstance(found, list) else []
    return "".join(text(each, "reason") for each in conditions if text(each, "type") == "Progressing")


def test_pods_that_wait_count_for_a_quota(system: Installed) -> None:
    system.cluster.add_namespace("quota")
    system.cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "two", "namespace": "quota"},
            "spec": {"hard": {"pods": "2"}},
        }
    )
    pods = SeenPods(system, "quota")
    made = [PodSpec(f"quota-{n}", "app:1", namespace="quota", annotations={keys.PIN: "nothing"}) for n in range(3)]
    try:
        counted = "--for=jsonpath={.status.hard.pods}=2"
        system.cluster.kubectl("wait", counted, "resourcequota/two", "--namespace=quota", "--timeout=30s")
        pods.create(*made[:2])
        pods.wait_held("quota-0", "quota-1")

        third = system.cluster.try_kubectl("create", "--filename=-", stdin=json.dumps(made[2].document()))
        assert "exceeded quota: two" in third.stderr
    finally:
        system.cluster.kubectl("delete", "namespace", "quota", "--timeout=60s")


def test_a_static_pod_starts_whatever_it_pins(site: Site, system: Installed, pods: SeenPods) -> None:
    reference = image(site, "static")
    agent = system.add_node(kubelet={"staticPodPath": STATIC, "fileCheckFrequency": "1s"})
    node = agent.node
    try:
        manifest = json.dumps(pinned("static", reference, "nothing").document())
        script = f"mkdir -p {STATIC} && cat >{STATIC}/static.json <<'END'\n{manifest}\nEND"
        node.run("sh", "-c", script)

        pods.wait_running(f"static-{node.name}")
        assert gates(pods.get(f"static-{node.name}")) == []
        node.run("rm", Path(STATIC) / "static.json")
        assert wait_until(lambda: not pods.get(f"static-{node.name}"), seconds=30, every=0.2)
    finally:
        system.remove_node(agent)


# what ends


def test_while_the_controller_is_away(site: Site, system: Installed, pods: SeenPods) -> None:
    reference = image(site, "away")
    usable(site, "away", reference)
    names = [f"away-{number}" for number in range(9)]
    system.controller.stop()
    try:
        pods.create(*(pinned(name, reference, "away") for name in names))
        run_pods(system.cluster, PodSpec("plain", reference))
        pods.wait_held(*names)
    finally:
        system.controller.start()
        system.controller.wait_leading()

    assert wait_until(lambda: not any(map(pods.gates, names)), seconds=5, every=0.1)
    pods.wait_running(*names)


def test_killed_in_the_middle_of_100_held_pods(site: Site, system: Installed, pods: SeenPods) -> None:
    """Each is annotated, and told once when it gets a node, from which a gate of others keeps it until then.

    What waited for its turn to be told is lost with the controller; the next one tells it when the pod has a node. That
    of most is one that there is not: to start a hundred pods takes a minute, and nobody who tells them looks there.
    """
    reference = image(site, "hundred")
    names = [f"hundred-{number}" for number in range(100)]
    some, others = names[:10], names[10:]
    spec = PodSpec("", reference, annotations={keys.PIN: "hundred"}, labels={"app": "hundred"}, gates=[OTHER_GATE])
    pods.create(*(replace(spec, name=name) for name in some))
    pods.create(*(replace(spec, name=name, node_selector={HOSTNAME: "nowhere"}) for name in others))
    assert wait_until(lambda: sum(map(is_held, pods.of("hundred"))) == len(names), seconds=60, every=0.2)

    site.create("hundred", reference)
    assert wait_until(lambda: any(keys.GATE not in gates(pod) for pod in pods.of("hundred")), seconds=60, every=0.01)
    system.controller.kill()
    system.controller.start()
    system.controller.wait_leading()

    expected = ([OTHER_GATE], cache_id(system, "hundred"))

    def free() -> bool:
        return all((gates(pod), matched(pod)) == expected for pod in pods.of("hundred"))

    def told() -> list[str]:
        return [each.pod for each in pods.told(*names) if each.reason == events.HIT]

    assert wait_until(free, seconds=60, every=0.2), [(gates(pod), matched(pod)) for pod in pods.of("hundred")]
    for name in some:
        take_gate(system, name, OTHER_GATE)
    pods.wait_running(*some)
    assert wait_until(lambda: set(some) <= set(told()), seconds=30, every=0.2)
    for name in others:
        take_gate(system, name, OTHER_GATE)
        bind(system, name, "nowhere")
    assert wait_until(lambda: set(names) <= set(told()), seconds=60, every=0.2), sorted({*names} - {*told()})
    assert len(told()) == len(set(told()))
    assert {each.message for each in pods.told(*names) if each.reason == events.HIT} == {HIT.format(expected[1])}
