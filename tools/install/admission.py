"""What RBAC cannot say: an agent writes about its own node only.

A token that kubelet made for a pod says on which node that is (since Kubernetes 1.30), and the policy holds every write
of the agents against it. A stolen token of one node so changes nothing on another.

Who is an agent? Whoever may create NodeImageCaches, which nobody's role allows but the agents', and may not delete
Nodes, as administrators may. No name of an account or a namespace is in the policy: kustomize changes those, and then
it would match nobody.
"""

from __future__ import annotations

from imagecache.api import nodes
from tools.install.rbac import AGENT, LABELS
from tools.install.template import Document, Node
from tools.install.values import POLICIES

_NODE = "request.userInfo.?extra[?'authentication.kubernetes.io/node-name'][0].orValue('')"
_WRITTEN = "(request.operation == 'DELETE' ? oldObject : object)"
_ON_NODES = "request.resource.resource != 'nodes'"
# the prefix costs nothing and spares kubelets, and people, the questions after it
_IS_AGENT = (
    "request.userInfo.username.startsWith('system:serviceaccount:') && "
    f"authorizer.group('{nodes.GROUP}').resource('nodeimagecaches').check('create').allowed() && "
    "!authorizer.group('').resource('nodes').check('delete').allowed()"
)


def admission() -> list[Document]:
    head: dict[str, Node] = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "metadata": {"name": AGENT, "labels": LABELS},
    }
    binding: Node = {"policyName": AGENT, "validationActions": ["Deny"]}
    return [
        Document({"kind": "ValidatingAdmissionPolicy", **head, "spec": _policy()}, POLICIES),
        Document({"kind": "ValidatingAdmissionPolicyBinding", **head, "spec": binding}, POLICIES),
    ]


def _policy() -> dict[str, Node]:
    return {
        "failurePolicy": "Fail",
        "matchConstraints": {
            "resourceRules": [
                _matched(nodes.GROUP, nodes.VERSION, ["nodeimagecaches", "nodeimagecaches/status"], "DELETE"),
                _matched("", "v1", ["nodes"]),
            ]
        },
        "matchConditions": [{"name": "agent", "expression": _IS_AGENT}],
        "validations": [
            _validation(f"{_WRITTEN}.metadata.name == {_NODE}", "an agent writes about its own node only"),
            _validation(
                f"{_ON_NODES} || object.spec.?taints.orValue([]).all(taint, "
                "oldObject.spec.?taints.orValue([]).exists(old, old.key == taint.key && old.effect == taint.effect))",
                "an agent adds no taint",
            ),
            _validation(
                f"{_ON_NODES} || oldObject.spec.?taints.orValue([]).all(old, old.key == '{nodes.NOT_READY_TAINT}' || "
                "object.spec.?taints.orValue([]).exists(taint, taint.key == old.key && taint.effect == old.effect))",
                f"an agent removes no taint but {nodes.NOT_READY_TAINT}",
            ),
            _validation(
                f"{_ON_NODES} || (object.metadata.?labels == oldObject.metadata.?labels && "
                "object.metadata.?annotations == oldObject.metadata.?annotations && "
                "object.spec.?unschedulable == oldObject.spec.?unschedulable)",
                "an agent changes nothing but taints of its node",
            ),
        ],
    }


def _matched(group: str, version: str, resources: list[Node], *more: str) -> dict[str, Node]:
    return {
        "apiGroups": [group],
        "apiVersions": [version],
        "operations": ["CREATE", "UPDATE", *more],
        "resources": resources,
    }


def _validation(expression: str, message: str) -> dict[str, Node]:
    return {"expression": expression, "message": message, "reason": "Forbidden"}
