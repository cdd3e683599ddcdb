"""What RBAC cannot say: an agent writes about its own node only, and the controller writes next to nothing on pods.

A token that kubelet made for a pod says on which node that is (since Kubernetes 1.30), and a policy holds every write
of the agents against it. A stolen token of one node so changes nothing on another. Another policy reduces what the
right to patch pods gives the controller.

Who is an agent, who is the controller? Whoever has a right that nobody's role gives but theirs, and may not delete
Nodes, as administrators may. No name of an account or a namespace is in a policy: kustomize changes those, and then it
would match nobody.
"""

from __future__ import annotations

from collections.abc import Sequence

from imagecache.api import nodes, types
from imagecache.match import events, keys
from tools.install.rbac import AGENT, CONTROLLER, LABELS
from tools.install.template import Condition, Document, Expression, Node, When, given
from tools.install.values import FENCED, PODS

_NODE = "request.userInfo.?extra[?'authentication.kubernetes.io/node-name'][0].orValue('')"
_WRITTEN = "(request.operation == 'DELETE' ? oldObject : object)"
_UNLESS_NODES = "request.resource.resource != 'nodes'"
_UNLESS_EVENTS = "request.resource.resource != 'events'"
# the prefix costs nothing and spares kubelets, and people, the questions after it
_ACCOUNT = "request.userInfo.username.startsWith('system:serviceaccount:')"
_NO_ADMINISTRATOR = "!authorizer.group('').resource('nodes').check('delete').allowed()"
_IS_AGENT = (
    f"{_ACCOUNT} && "
    f"authorizer.group('{nodes.GROUP}').resource('nodeimagecaches').check('create').allowed() && "
    f"{_NO_ADMINISTRATOR}"
)
_MAY_PATCH_STATUS = (
    f"{_ACCOUNT} && "
    f"authorizer.group('{types.GROUP}').resource('imagecaches').subresource('status').check('patch').allowed() && "
    # people's own tools may have all rights on ImageCaches, but hardly this one too
    "authorizer.group('authentication.k8s.io').resource('tokenreviews').check('create').allowed()"
)
_TELLS = given("pods.events")
_WRITES = ("CREATE", "UPDATE")
_WRITTEN_BY_THE_SERVER = ("managedFields", "generation", "resourceVersion")
"""Keys of metadata that change with every write."""


def admission() -> list[Document]:
    return [*policy(AGENT, _agent(), FENCED), *policy(CONTROLLER, _controller(), PODS & FENCED)]


def policy(
    name: str,
    spec: dict[str, Node],
    condition: Condition,
    namespaces: dict[str, Node] | None = None,
    labelled: dict[str, Node] = LABELS,
) -> list[Document]:
    """A ValidatingAdmissionPolicy and its binding. ``namespaces``: a selector; None: all."""
    head: dict[str, Node] = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "metadata": {"name": name, "labels": labelled},
    }
    bound: dict[str, Node] = {"policyName": name, "validationActions": ["Deny"]}
    if namespaces is not None:
        bound["matchResources"] = {"namespaceSelector": namespaces}
    return [
        Document({"kind": "ValidatingAdmissionPolicy", **head, "spec": spec}, condition),
        Document({"kind": "ValidatingAdmissionPolicyBinding", **head, "spec": bound}, condition),
    ]


def _agent() -> dict[str, Node]:
    return {
        "failurePolicy": "Fail",
        "matchConstraints": {
            "resourceRules": [
                matched(nodes.GROUP, nodes.VERSION, [*_WRITES, "DELETE"], "nodeimagecaches", "nodeimagecaches/status"),
                matched("", "v1", _WRITES, "nodes"),
                When(_TELLS, matched("", "v1", ["CREATE"], "events")),
            ]
        },
        "matchConditions": [{"name": "agent", "expression": _IS_AGENT}],
        "validations": [
            validation(
                f"request.resource.resource == 'events' || {_WRITTEN}.metadata.name == {_NODE}",
                "an agent writes about its own node only",
            ),
            validation(
                f"{_UNLESS_NODES} || object.spec.?taints.orValue([]).all(taint, "
                "oldObject.spec.?taints.orValue([]).exists(old, old.key == taint.key && old.effect == taint.effect))",
                "an agent adds no taint",
            ),
            validation(
                f"{_UNLESS_NODES} || oldObject.spec.?taints.orValue([]).all(old, "
                f"old.key == '{nodes.NOT_READY_TAINT}' || "
                "object.spec.?taints.orValue([]).exists(taint, taint.key == old.key && taint.effect == old.effect))",
                f"an agent removes no taint but {nodes.NOT_READY_TAINT}",
            ),
            validation(
                f"{_UNLESS_NODES} || (object.metadata.?labels == oldObject.metadata.?labels && "
                "object.metadata.?annotations == oldObject.metadata.?annotations && "
                "object.spec.?unschedulable == oldObject.spec.?unschedulable)",
                "an agent changes nothing but taints of its node",
            ),
            # whose pod it is cannot be asked here; kubelet's own Events name their node in the same field
            When(
                _TELLS,
                validation(
                    f"{_UNLESS_EVENTS} || ({_NODE} != '' && object.?source.?host.orValue('') == {_NODE} && "
                    "object.?involvedObject.?kind.orValue('') == 'Pod' && "
                    f"object.?reason.orValue('') == '{events.SERVED}')",
                    f"an agent tells {events.SERVED} of pods of its own node only",
                ),
            ),
        ],
    }


def _controller() -> dict[str, Node]:
    """Of what may change in a pod that exists, nearly nothing: also of what later versions of Kubernetes let change.

    ``dyn`` spares the API server's type checker a warning: objects have no list of their fields, but maps have.
    """
    gate, own = keys.GATE, keys.MATCHED
    others = f"?schedulingGates.orValue([]).filter(gate, gate.name != '{gate}')"
    held = f"?schedulingGates.orValue([]).exists(gate, gate.name == '{gate}')"
    same_affinity = " && ".join(
        f"variables.after.spec.?affinity.?{part} == variables.before.spec.?affinity.?{part}"
        for part in ("podAffinity", "podAntiAffinity")
    )
    return {
        "failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": [matched("", "v1", ["UPDATE"], "pods")]},
        # two, because three questions to the authorizer are more than one expression may cost
        "matchConditions": [
            {"name": "controller", "expression": _MAY_PATCH_STATUS},
            {"name": "no-administrator", "expression": f"{_ACCOUNT} && {_NO_ADMINISTRATOR}"},
        ],
        "variables": [
            {"name": "before", "expression": "dyn(oldObject)"},
            {"name": "after", "expression": "dyn(object)"},
        ],
        "validations": [
            validation(
                _only("metadata", "annotations", *_WRITTEN_BY_THE_SERVER),
                "the controller changes no labels, finalizers or owners of a pod",
            ),
            validation(
                _only("metadata.?annotations.orValue({})", own),
                f"the controller writes no annotation of a pod but {own}",
            ),
            validation(
                _only("spec", "schedulingGates", "affinity"),
                "the controller changes nothing of a pod's spec but its own gate, and affinity with it",
            ),
            validation(
                f"variables.after.spec.{others} == variables.before.spec.{others}",
                f"the controller takes no gate of a pod away but {gate}",
            ),
            validation(
                "variables.after.spec.?affinity == variables.before.spec.?affinity || "
                f"(variables.before.spec.{held} && !variables.after.spec.{held} && {same_affinity})",
                "the controller changes the node affinity of a pod that it lets go, and no other",
            ),
        ],
    }


def _only(part: str, *free: str) -> str:
    """Nothing in this mapping differs but these keys."""
    before, after = f"variables.before.{part}", f"variables.after.{part}"
    listed = ", ".join(f"'{key}'" for key in free)
    return (
        f"{after}.all(key, key in [{listed}] || (key in {before} && {before}[key] == {after}[key])) && "
        f"{before}.all(key, key in [{listed}] || key in {after})"
    )


def matched(group: str, version: str, operations: Sequence[str], *resources: str) -> dict[str, Node]:
    return {
        "apiGroups": [group],
        "apiVersions": [version],
        "operations": list(operations),
        "resources": list(resources),
    }


def validation(expression: str | Expression, message: str) -> dict[str, Node]:
    return {"expression": expression, "message": message, "reason": "Forbidden"}
