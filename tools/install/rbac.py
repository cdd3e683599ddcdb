"""Who may do what: two identities, each verb listed, no wildcard, and no Secret of the cluster as a whole.

What the programs really call is held against this by ``tests/unit/install/test_rbac.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

from imagecache.api import nodes, types
from imagecache.controller.leader import Leader
from imagecache.match import selectors
from tools.install.template import ITEM, Condition, Document, Expression, Node, given
from tools.install.values import NAMESPACE, POD_EVENTS, PODS, value

RBAC = "rbac.authorization.k8s.io"
CONTROLLER, AGENT = "imagecache-controller", "imagecache-agent"
LABELS: dict[str, Node] = {"app.kubernetes.io/name": "imagecache"}
_LEASE = Leader.name
Rule = dict[str, Node]


def rule(group: str, resources: Sequence[str], verbs: Sequence[str], names: Node = ()) -> Rule:
    """``names``: only objects of these names; empty means all."""
    found: Rule = {"apiGroups": [group], "resources": list(resources), "verbs": list(verbs)}
    return {**found, "resourceNames": names} if names else found


CONTROLLER_RULES = [
    rule(types.GROUP, ["imagecaches"], ["list", "watch", "patch", "delete"]),
    rule(types.GROUP, ["imagecaches/status"], ["patch"]),
    rule(nodes.GROUP, ["nodeimagecaches"], ["list", "watch"]),
    rule("", ["nodes"], ["list", "watch"]),
    rule("authentication.k8s.io", ["tokenreviews"], ["create"]),
    # about caches in `default`, as of every object without a namespace; about pods where they are
    rule("", ["events"], ["create"]),
]
LEADER_RULES = [
    rule("coordination.k8s.io", ["leases"], ["create"]),  # a name cannot be asked of what is not there yet
    rule("coordination.k8s.io", ["leases"], ["get", "patch"], [_LEASE]),
]
PULL_SECRET_RULES = [rule("", ["secrets"], ["get"], value("pullSecretNames"))]
AGENT_RULES = [
    rule(types.GROUP, ["imagecaches"], ["list", "watch"]),
    rule(nodes.GROUP, ["nodeimagecaches"], ["create", "patch", "delete"]),
    rule(nodes.GROUP, ["nodeimagecaches/status"], ["patch"]),
    rule("", ["nodes"], ["list", "watch"]),
]
POD_RULES = [
    # of a pod its own annotation, its own gate and node affinity: the fence (admission.py)
    rule("", ["pods"], ["list", "watch", "patch"]),
    rule("", ["namespaces"], ["list", "watch"]),
    # ECI's is in kube-system; a Role there would be moved by kustomize
    rule("", ["configmaps"], ["list", "watch"], [selectors.CONFIG_MAP]),
    rule(types.GROUP, ["imagecaches"], ["create"]),
]
POD_EVENT_RULES = [rule("", ["events"], ["create"])]
TAINT_RULES = [rule("", ["nodes"], ["patch"])]
OWN_DAEMONSET_RULES = [
    rule("apps", ["daemonsets"], ["get", "list", "watch"], [AGENT]),
    rule("", ["namespaces"], ["get"]),  # in a Role: its own namespace
]
PEOPLE_RULES = {
    "view": [
        rule(types.GROUP, ["imagecaches"], ["get", "list", "watch"]),
        rule(nodes.GROUP, ["nodeimagecaches"], ["get", "list", "watch"]),
    ],
    "edit": [rule(types.GROUP, ["imagecaches"], ["create", "update", "patch", "delete", "deletecollection"])],
    "admin": [rule(nodes.GROUP, ["nodeimagecaches"], ["delete", "deletecollection"])],
}
"""What Kubernetes' own roles of these names get in addition; there ``edit`` has ``view``, and ``admin`` has ``edit``.

Reports are written by agents alone, and deleted by hand where a node did not come back.
"""


def rbac() -> list[Document]:
    found = [_account(CONTROLLER), _account(AGENT)]
    found += _cluster_wide(CONTROLLER, CONTROLLER, CONTROLLER_RULES)
    found += _cluster_wide(f"{CONTROLLER}-pods", CONTROLLER, POD_RULES, PODS)
    found += _cluster_wide(AGENT, AGENT, AGENT_RULES)
    found += _cluster_wide(f"{AGENT}-taint", AGENT, TAINT_RULES, given("taint.enabled"))
    found += _cluster_wide(f"{AGENT}-events", AGENT, POD_EVENT_RULES, POD_EVENTS)
    found += _in_namespace(CONTROLLER, CONTROLLER, NAMESPACE, LEADER_RULES)
    found += _in_namespace(AGENT, AGENT, NAMESPACE, OWN_DAEMONSET_RULES)
    found += _in_namespace("imagecache-pull-secrets", CONTROLLER, ITEM, PULL_SECRET_RULES, each="pullSecretNamespaces")
    return [*found, *(_aggregated(name, rules) for name, rules in PEOPLE_RULES.items())]


def _account(name: str) -> Document:
    return Document(
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": LABELS},
        }
    )


def _cluster_wide(name: str, account: str, rules: Sequence[Rule], condition: Condition | None = None) -> list[Document]:
    head: dict[str, Node] = {"apiVersion": f"{RBAC}/v1", "metadata": {"name": name, "labels": LABELS}}
    return [
        Document({"kind": "ClusterRole", **head, "rules": list(rules)}, condition),
        Document({"kind": "ClusterRoleBinding", **head, **_binding("ClusterRole", name, account)}, condition),
    ]


def _aggregated(name: str, rules: Sequence[Rule]) -> Document:
    """A role that Kubernetes adds to its own one of this name (ClusterRole aggregation)."""
    metadata: Node = {"name": f"imagecache-{name}", "labels": {**LABELS, f"{RBAC}/aggregate-to-{name}": "true"}}
    return Document(
        {"kind": "ClusterRole", "apiVersion": f"{RBAC}/v1", "metadata": metadata, "rules": list(rules)},
        given("rbac.aggregateClusterRoles"),
    )


def _in_namespace(
    name: str, account: str, namespace: str | Expression, rules: Sequence[Rule], *, each: str = ""
) -> list[Document]:
    metadata: Node = {"name": name, "namespace": namespace, "labels": LABELS}
    head: dict[str, Node] = {"apiVersion": f"{RBAC}/v1", "metadata": metadata}
    return [
        Document({"kind": "Role", **head, "rules": list(rules)}, each=each),
        Document({"kind": "RoleBinding", **head, **_binding("Role", name, account)}, each=each),
    ]


def _binding(kind: str, name: str, account: str) -> dict[str, Node]:
    return {
        "roleRef": {"apiGroup": RBAC, "kind": kind, "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}],
    }
