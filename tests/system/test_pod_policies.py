"""Which pods get the gate, which are refused, what our accounts may change of pods: judged by the API server itself.

Nearly everything is asked with ``--dry-run=server``, which runs every policy and keeps nothing.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from imagecache.api.yamltext import JSON
from imagecache.errors import KubernetesError
from imagecache.kube.api import Object
from imagecache.kube.client import KubeClient
from imagecache.kube.connection import kubeconfig
from imagecache.kube.objects import at
from imagecache.kube.resources import EVENTS
from imagecache.match import keys
from imagecache.match.events import HIT, NOT_COMPLETE, NOT_FOUND, RELEASED
from testkit.cluster.accounts import NAMESPACE, create_account, identity
from testkit.cluster.installed import Installed
from testkit.cluster.node import Node
from testkit.cluster.pods import PodSpec
from testkit.cluster.programs import kubernetes
from testkit.cluster.seen_pods import SeenPods
from testkit.peers.agent import COMMAND
from testkit.peers.processes import wait_until
from testkit.peers.programs import environment, find, run
from tools.install.pins import DEFAULTS, NAMESPACES_POLICY, PODS_POLICY, REFUSAL
from tools.install.rbac import AGENT, CONTROLLER

from .conftest import Site

ROOT = Path(__file__).resolve().parents[2]
GATE, PIN, PIN_OLD, MATCHED = keys.GATE, keys.PIN, keys.PIN_OLD, keys.MATCHED
OTHER_GATE = "example.com/other"
CONTROLLER_USER = f"system:serviceaccount:{NAMESPACE}:{CONTROLLER}"
ODD_PODS = 1000


@pytest.fixture
def installed(whole_site: Site) -> Installed:
    """As it is: of what is asked here nothing is kept."""
    return whole_site.system


def pod(name: str = "asked", **more: Any) -> PodSpec:
    return PodSpec(name, "registry.example.com/app:1", **more)


def made(system: Installed, *documents: dict[str, object]) -> list[Any]:
    """What the API server would store. Raises AssertionError with what it says."""
    found = []
    with system.connected() as connection:
        for document in documents:
            metadata = document["metadata"]
            assert isinstance(metadata, dict)
            path = f"/api/v1/namespaces/{metadata['namespace']}/pods?dryRun=All"
            status, answer = system.ask("POST", path, document, over=connection)
            assert status == HTTPStatus.CREATED, answer
            found.append(json.loads(answer))
    return found


def gates(stored: Any) -> list[str]:
    return [gate["name"] for gate in stored["spec"].get("schedulingGates", [])]


# the gate


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"annotations": {PIN: "team-app"}}, [GATE]),
        ({"annotations": {PIN_OLD: "imc-abcdefghijkl12345678"}}, [GATE]),
        ({"annotations": {PIN: "a", PIN_OLD: "b"}}, [GATE]),
        ({"annotations": {PIN: " ", PIN_OLD: "b"}}, []),
        ({"annotations": {PIN: ""}}, []),
        ({"annotations": {keys.AUTO: "true", keys.CREATE: "true"}}, []),
        ({}, []),
        ({"annotations": {PIN: "a"}, "gates": [GATE]}, [GATE]),
        ({"gates": [GATE]}, [GATE]),
        ({"annotations": {PIN: "a"}, "gates": [OTHER_GATE]}, [OTHER_GATE, GATE]),
        ({"annotations": {PIN: "a"}, "namespace": "kube-system"}, []),
        ({"annotations": {PIN: "a"}, "namespace": NAMESPACE}, []),
    ],
    ids=str,
)
def test_who_gets_the_gate(installed: Installed, asked: dict[str, Any], expected: list[str]) -> None:
    (stored,) = made(installed, pod(**asked).document())

    assert sorted(gates(stored)) == sorted(expected)


def odd_pods(count: int) -> Iterator[dict[str, object]]:
    """Pods with everything null, missing, empty, long and strange that the API takes."""
    chance = random.Random(17)
    texts = ["", " ", "\n", "a", "imc-0", "x" * 5000, "Ünïcödé", "a\nb", "'\"${}", "null", "true", "{{ }}"]
    absent: object = object()
    for number in range(count):
        document = pod(f"odd-{number}").document()
        metadata, spec = document["metadata"], document["spec"]
        assert isinstance(metadata, dict)
        assert isinstance(spec, dict)
        chosen = {key: chance.choice(texts) for key in keys.KEYS if chance.random() < 0.3}
        metadata["annotations"] = chance.choice([absent, None, {}, chosen, chosen, {**chosen, "a/b": ""}])
        metadata["labels"] = chance.choice([absent, None, {}, {"app": "x"}])
        names = chance.choice([None, [], [GATE], [OTHER_GATE], [OTHER_GATE, GATE], absent, absent])
        spec["schedulingGates"] = [{"name": name} for name in names] if isinstance(names, list) else names
        spec["affinity"] = chance.choice([absent, None, {}, {"nodeAffinity": {}}])
        spec["nodeSelector"] = chance.choice([absent, None, {}])
        spec["nodeName"] = chance.choice([absent, None, ""])
        spec["tolerations"] = chance.choice([absent, None, []])
        for part in (metadata, spec):
            for key in [key for key, value in part.items() if value is absent]:
                del part[key]
        yield document


def expected_gates(document: dict[str, Any]) -> set[str]:
    annotations = document["metadata"].get("annotations") or {}
    pin = annotations.get(PIN, annotations.get(PIN_OLD, ""))
    own = {gate["name"] for gate in document["spec"].get("schedulingGates") or []}
    return own | ({GATE} if pin.strip() else set())


def test_the_gate_policy_refuses_no_pod_and_never_fails(installed: Installed) -> None:
    asked = list(odd_pods(ODD_PODS))

    stored = {item["metadata"]["name"]: item for item in made(installed, *asked)}

    assert len(stored) == ODD_PODS
    wanted = {document["metadata"]["name"]: expected_gates(document) for document in asked}  # type: ignore[index]
    assert {name: set(gates(item)) for name, item in stored.items()} == wanted
    assert sum(GATE in names for names in wanted.values()) > ODD_PODS / 10
    _, metrics = installed.ask("GET", "/metrics")
    counted = [line for line in metrics.splitlines() if PODS_POLICY in line]
    checks = [line for line in counted if line.startswith("apiserver_mutating_admission_policy_check_total")]
    assert checks
    assert all('error_type="no_error"' in line for line in checks), checks
    assert not [line for line in counted if "match_condition_evaluation_errors" in line]


@pytest.mark.parametrize("policy", [CONTROLLER, REFUSAL])
def test_the_type_checker_finds_nothing_strange(installed: Installed, policy: str) -> None:
    """Kubernetes writes it into the status; about a policy for several kinds it always does."""
    path = f"/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/{policy}"

    def checked() -> JSON:
        return at(installed.read(path), "status", "typeChecking")

    assert wait_until(lambda: checked() is not None, seconds=30, every=0.2)
    assert at(checked(), "expressionWarnings") is None


def test_a_pinned_pod_that_names_its_node_is_refused(installed: Installed) -> None:
    node = installed.cluster.nodes[0].name
    pinned = pod(annotations={PIN: "a"}, node=node)

    status, answer = installed.ask("POST", "/api/v1/namespaces/default/pods?dryRun=All", pinned.document())

    assert status == HTTPStatus.FORBIDDEN
    assert "which a pod that names its node cannot: select the node by labels" in answer
    let = [
        pod(node=node),
        pod(annotations={PIN: ""}, node=node),
        pod(annotations={PIN: "a", "kubernetes.io/config.mirror": "static"}, node=node),
        pod(annotations={PIN: "a"}, node=node, namespace="kube-system"),
    ]
    assert len(made(installed, *(each.document() for each in let))) == len(let)


@pytest.fixture
def unrefused(system: Installed) -> Iterator[None]:
    """Pods that pin a cache and name their node are refused by nobody."""
    asked = pod(annotations={PIN: "a"}, node=system.cluster.nodes[0].name).document()

    def refused() -> bool:
        return system.ask("POST", "/api/v1/namespaces/default/pods?dryRun=All", asked)[0] == HTTPStatus.FORBIDDEN

    system.cluster.kubectl("delete", f"validatingadmissionpolicybinding/{REFUSAL}")
    try:
        assert wait_until(lambda: not refused(), seconds=30, every=0.2)
        yield
    finally:
        system.cluster.kubectl("apply", "--filename", str(ROOT / "config" / "base" / "pins.yaml"))
        assert wait_until(refused, seconds=30, every=0.2)


@pytest.mark.usefixtures("unrefused")
def test_one_that_is_not_refused_starts_with_an_ordinary_pull_and_is_told(
    site: Site, system: Installed, pods: SeenPods
) -> None:
    """As where there is no gate: whatever pins, no pod is lost."""
    reference = site.registry.push("policies/unrefused:1", site.image())
    site.create("waits", reference, imagePullSecrets=["default:nothing"])
    system.wait_phase("waits", "Pending")
    pods.create(PodSpec("unheld", reference, node=system.cluster.nodes[0].name, annotations={PIN: "waits"}))

    pods.wait_running("unheld")
    message = pods.wait_told("unheld", NOT_COMPLETE)
    assert message.endswith("The production for specified image cache waits is not yet complete.")
    assert pods.reasons("unheld").count(NOT_COMPLETE) == 1
    assert reference in pods.wait_told("unheld", "Pulling")
    assert (pods.gates("unheld"), pods.matched("unheld")) == ([], "")
    assert {HIT, NOT_FOUND} & set(pods.reasons("unheld")) == set()


@pytest.fixture
def team(system: Installed) -> Iterator[str]:
    """A Namespace whose annotation pins, but without the label."""
    system.cluster.add_namespace("team", {PIN_OLD: "team-app"})
    yield "team"
    system.cluster.kubectl("delete", "namespace", "team", "--timeout=60s")


def test_pods_of_a_namespace_that_pins(system: Installed, team: str) -> None:
    plain, out, own = (pod(namespace=team, annotations=said) for said in ({}, {PIN: ""}, {PIN: "other"}))

    def gated() -> list[bool]:
        return [gates(each) == [GATE] for each in made(system, *(each.document() for each in (plain, out, own)))]

    assert gated() == [False, False, True]
    system.cluster.kubectl("label", "namespace", team, f"{DEFAULTS}=true")
    assert wait_until(lambda: gated() == [True, False, True], seconds=30, every=0.2)
    system.cluster.kubectl("annotate", "namespace", team, f"{PIN}=")  # the new key counts, and pins nothing
    assert wait_until(lambda: gated() == [False, False, True], seconds=30, every=0.2)


# the fence

NODE_AFFINITY = {
    "preferredDuringSchedulingIgnoredDuringExecution": [
        {
            "weight": 1,
            "preference": {
                "matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["node-1"]}]
            },
        }
    ]
}
REQUIRED = {
    "requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [NODE_AFFINITY["preferredDuringSchedulingIgnoredDuringExecution"][0]["preference"]]
    }
}
GATE_GONE = [{"name": GATE, "$patch": "delete"}]
OWNER = {"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "5b5a9d6e-1f1c-4e0e-9a55-7ad7c5f5c001"}
MAY: dict[str, object] = {
    "annotation": {"metadata": {"annotations": {MATCHED: "imc-1"}}},
    "annotation away": {"metadata": {"annotations": {MATCHED: None}}},
    "gate away": {"spec": {"schedulingGates": GATE_GONE}},
    "gate away, annotation": {
        "metadata": {"annotations": {MATCHED: "imc-1"}},
        "spec": {"schedulingGates": GATE_GONE},
    },
    "gate away, nodes preferred": {"spec": {"schedulingGates": GATE_GONE, "affinity": {"nodeAffinity": NODE_AFFINITY}}},
    "gate away, nodes required": {"spec": {"schedulingGates": GATE_GONE, "affinity": {"nodeAffinity": REQUIRED}}},
}
"""Strategic merge patches of a pod with two gates."""
METADATA = "changes no labels, finalizers or owners of a pod"
ANNOTATION = "writes no annotation of a pod but"
SPEC = "changes nothing of a pod's spec but its own gate, and affinity with it"
FOREIGN_GATE = "takes no gate of a pod away but"
AFFINITY = "changes the node affinity of a pod that it lets go, and no other"
MAY_NOT: dict[str, tuple[object, str]] = {
    "annotation of others": ({"metadata": {"annotations": {"a": "b"}}}, ANNOTATION),
    "annotation that is like ours": ({"metadata": {"annotations": {f"{MATCHED}-2": "b"}}}, ANNOTATION),
    "annotation changed": ({"metadata": {"annotations": {"kept": "no"}}}, ANNOTATION),
    "annotation taken away": ({"metadata": {"annotations": {"kept": None}}}, ANNOTATION),
    "its own pin": ({"metadata": {"annotations": {PIN: None}}}, ANNOTATION),
    "with an annotation of its own": ({"metadata": {"annotations": {MATCHED: "i", "a": "b"}}}, ANNOTATION),
    "label": ({"metadata": {"labels": {"a": "b"}}}, METADATA),
    "label taken away": ({"metadata": {"labels": {"app": None}}}, METADATA),
    "finalizer": ({"metadata": {"finalizers": ["example.com/wait"]}}, METADATA),
    "owner": ({"metadata": {"ownerReferences": [OWNER]}}, METADATA),
    "image": ({"spec": {"containers": [{"name": "main", "image": "evil"}]}}, SPEC),
    "image of an init container": ({"spec": {"initContainers": [{"name": "first", "image": "evil"}]}}, SPEC),
    "deadline": ({"spec": {"activeDeadlineSeconds": 1}}, SPEC),
    "toleration": ({"spec": {"tolerations": [{"key": "a", "operator": "Exists", "effect": "NoExecute"}]}}, SPEC),
    "node selector": ({"spec": {"nodeSelector": {"a": "b"}}}, SPEC),
    "gate away, with an image": (
        {"spec": {"schedulingGates": GATE_GONE, "containers": [{"name": "main", "image": "evil"}]}},
        SPEC,
    ),
    "gate away, with a node selector": ({"spec": {"schedulingGates": GATE_GONE, "nodeSelector": {"a": "b"}}}, SPEC),
    "gate of others": ({"spec": {"schedulingGates": [{"name": OTHER_GATE, "$patch": "delete"}]}}, FOREIGN_GATE),
    "all gates": ({"spec": {"schedulingGates": None}}, FOREIGN_GATE),
    "affinity while it holds": ({"spec": {"affinity": {"nodeAffinity": NODE_AFFINITY}}}, AFFINITY),
    "nodes required while it holds": ({"spec": {"affinity": {"nodeAffinity": REQUIRED}}}, AFFINITY),
}
"""What the API allows in a pod that exists, and the fence does not."""


@pytest.fixture
def held(system: Installed) -> PodSpec:
    """A pod that is held by us and by others."""
    found = pod("held", annotations={PIN: "unknown", "kept": "yes"}, gates=[OTHER_GATE])
    document: Any = found.document()
    (container,) = document["spec"]["containers"]
    document["spec"]["initContainers"] = [{**container, "name": "first"}]
    system.cluster.apply(document)
    return found


def patch(system: Installed, name: str, body: object, *, user: str = CONTROLLER_USER) -> str:
    """What the API server says against it; empty when it was taken. ``user``: empty for the administrator."""
    path = f"/api/v1/namespaces/default/pods/{name}?dryRun=All"
    status, answer = system.ask("PATCH", path, body, content="application/strategic-merge-patch+json", user=user)
    return "" if status == HTTPStatus.OK else json.loads(answer)["message"] or f"status {status}"


def test_what_the_controller_may_change_of_a_pod_and_what_not(system: Installed, held: PodSpec) -> None:
    taken = {name: patch(system, held.name, body) for name, body in MAY.items()}
    told = {name: patch(system, held.name, body) for name, (body, _) in MAY_NOT.items()}

    assert taken == dict.fromkeys(MAY, "")
    assert {name: text for name, text in told.items() if f"the controller {MAY_NOT[name][1]}" not in text} == {}
    # each is something that the API would let pass
    by_others = {name: patch(system, held.name, body, user="") for name, (body, _) in MAY_NOT.items()}
    assert by_others == dict.fromkeys(MAY_NOT, "")


def test_of_a_pod_that_is_not_held_it_changes_the_annotation_alone(system: Installed) -> None:
    system.cluster.apply(pod("free").document())

    assert patch(system, "free", MAY["annotation"]) == ""
    for body, message in (MAY_NOT["image"], MAY_NOT["label"], MAY_NOT["toleration"], MAY_NOT["deadline"]):
        assert message in patch(system, "free", body)


@pytest.mark.parametrize(
    "denied",
    [
        *("delete pods", "create pods", "update pods", "get pods", "patch namespaces", "list configmaps"),
        *(f"patch pods --subresource={each}" for each in ("status", "ephemeralcontainers", "resize")),
        *(f"create pods --subresource={each}" for each in ("exec", "binding", "eviction")),
    ],
)
def test_what_roles_keep_from_it(installed: Installed, denied: str) -> None:
    words = ["auth", "can-i", *denied.split(), f"--as={CONTROLLER_USER}", "--namespace=default"]

    assert installed.cluster.try_kubectl(*words).stdout.startswith("no")


def test_defaults_for_pods_are_read_by_name(installed: Installed) -> None:
    for name, answer in (("eci-profile", "yes"), ("other", "no")):
        words = ["auth", "can-i", "list", f"configmaps/{name}", "--namespace=kube-system"]
        assert installed.cluster.try_kubectl(*words, f"--as={CONTROLLER_USER}").stdout.startswith(answer)


def test_the_fence_knows_the_controller_under_any_name(system: Installed, held: PodSpec) -> None:
    """And nobody else: an account with the right to patch pods alone is not fenced."""
    create_account(system.cluster, "prod-controller", "prod")
    create_account(system.cluster, "tool", "prod")
    roles = {"prod-1": CONTROLLER, "prod-2": f"{CONTROLLER}-pods", "prod-3": f"{CONTROLLER}-pods"}
    accounts = {"prod-1": "prod-controller", "prod-2": "prod-controller", "prod-3": "tool"}
    label, message = MAY_NOT["label"]
    try:
        for name, role in roles.items():
            account = f"--serviceaccount=prod:{accounts[name]}"
            system.cluster.kubectl("create", "clusterrolebinding", name, f"--clusterrole={role}", account)

        def told(account: str) -> str:
            return patch(system, held.name, label, user=f"system:serviceaccount:prod:{account}")

        # the API server reads its own roles with a delay
        assert wait_until(lambda: message in told("prod-controller"), seconds=30, every=0.2), told("prod-controller")
        assert wait_until(lambda: told("tool") == "", seconds=30, every=0.2), told("tool")
    finally:
        system.cluster.kubectl("delete", "clusterrolebinding", "--ignore-not-found", *roles)
        system.cluster.kubectl("delete", "namespace", "prod", "--timeout=60s")


# events of agents


async def tell_as_agent(system: Installed, node: Node | None, **changes: JSON) -> None:
    """Raises KubernetesError."""
    item: Object = {
        "metadata": {"generateName": "told.", "namespace": "default"},
        "involvedObject": {"apiVersion": "v1", "kind": "Pod", "name": "app", "namespace": "default", "uid": "u"},
        "reason": "ImageCacheServed",
        "type": "Normal",
        "message": "1/1 layers from cache, 0 B pulled, 1 ms",
        "source": {"component": "imagecache-agent", "host": system.cluster.nodes[0].name},
        **changes,
    }
    async with KubeClient(kubeconfig(identity(system.cluster, AGENT, node=node).kubeconfig)) as kube:
        await kube.create(EVENTS, item, namespace="default")


async def test_an_agent_tells_of_its_own_node_only_and_one_thing_only(installed: Installed) -> None:
    own, other = installed.cluster.nodes[:2]
    refused: list[tuple[Node | None, Object]] = [
        (other, {}),
        (None, {}),
        (None, {"source": {"component": "imagecache-agent"}}),
        (own, {"source": {"component": "imagecache-agent", "host": other.name}}),
        (own, {"reason": "SuccessfulHitImageCache"}),
        (own, {"involvedObject": {"apiVersion": "v1", "kind": "Node", "name": own.name, "namespace": "default"}}),
    ]

    await tell_as_agent(installed, own)
    for node, changes in refused:
        with pytest.raises(KubernetesError, match="an agent tells ImageCacheServed of pods of its own node only"):
            await tell_as_agent(installed, node, **changes)


# letting go


@pytest.fixture
def gate_back(system: Installed) -> Iterator[None]:
    yield
    system.cluster.kubectl("apply", "--filename", str(ROOT / "config" / "base" / "pins.yaml"))
    system.wait_gate()


@pytest.mark.usefixtures("gate_back")
def test_everything_held_is_let_go_by_kubectl_alone(system: Installed, pods: SeenPods) -> None:
    """As docs/install.md has it, word for word, with the controller gone."""
    written = r"^# pods that wait for a cache are let go\n(.*?)^```"
    (script,) = re.findall(written, (ROOT / "docs" / "install.md").read_text(), re.MULTILINE | re.DOTALL)
    env = {**environment(before=[kubernetes("kubectl").parent]), "KUBECONFIG": str(system.cluster.kubeconfig)}
    names = [f"waits-{number}" for number in range(3)]
    system.controller.stop()
    try:
        pods.create(*(pod(name, annotations={PIN: "unknown"}) for name in names))
        pods.create(pod("others", annotations={PIN: "unknown"}, gates=[OTHER_GATE]))
        pods.wait_held(*names, "others")

        run([find("sh"), "-euc", script], env=env)
    finally:
        system.controller.start()
        system.controller.wait_leading()

    assert [pods.gates(name) for name in names] == [[], [], []]
    assert pods.gates("others") == [OTHER_GATE]
    (later,) = made(system, pod("later", annotations={PIN: "unknown"}).document())
    assert gates(later) == []


@pytest.mark.usefixtures("gate_back")
def test_everything_held_is_let_go_by_the_program(system: Installed, pods: SeenPods) -> None:
    names = [f"waits-{number}" for number in range(5)]
    pods.create(*(pod(name, annotations={PIN: "unknown"}) for name in names))
    pods.create(pod("others", annotations={PIN: "unknown"}, gates=[OTHER_GATE]), pod("plain"))
    pods.wait_held(*names, "others")
    bindings = [f"mutatingadmissionpolicybinding/{name}" for name in (PODS_POLICY, NAMESPACES_POLICY)]
    system.cluster.kubectl("delete", *bindings)

    account = identity(system.cluster, CONTROLLER)
    run([COMMAND, "controller", "--release", "--kubeconfig", account.kubeconfig], env=system.controller.environ())

    assert [pods.gates(name) for name in names] == [[]] * len(names)
    assert all(RELEASED in pods.reasons(name) for name in (*names, "others"))
    assert pods.gates("others") == [OTHER_GATE]
