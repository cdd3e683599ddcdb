"""Roles say what the programs do: each call to the API in the source has a rule, and each rule a call."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagecache.kube import resources
from imagecache.kube.resources import Resource
from tools.install.rbac import AGENT, CONTROLLER
from tools.install.render import objects

SOURCE = Path(__file__).resolve().parents[3] / "src" / "imagecache"
FILES = {
    CONTROLLER: [*(SOURCE / "controller").rglob("*.py"), SOURCE / "apps/controller.py", SOURCE / "kube/reviewer.py"],
    AGENT: [*(SOURCE / "agent").rglob("*.py"), SOURCE / "apps/cluster_agent.py"],
}
VERBS = {each: each for each in ("get", "list", "watch", "create", "patch", "delete")} | {"strategic_patch": "patch"}
"""By the method of the port."""
Grant = tuple[str, str, str]
"""Group, resource with its subresource, verb."""

# plain JSON, whose types mypy need not know
EVERYTHING = json.loads(json.dumps(objects({"taint": {"enabled": True}})))
ROLES = {(item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]): item for item in EVERYTHING}


def constant(node: ast.AST) -> Resource | None:
    found = getattr(resources, node.id, None) if isinstance(node, ast.Name) else None
    return found if isinstance(found, Resource) else None


def called(path: Path) -> Iterator[Grant]:
    """A method of the port named like a verb; anything else that is given a resource follows it."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        found = next((found for arg in node.args if (found := constant(arg))), None)
        if found is None or (isinstance(node.func, ast.Attribute) and node.func.attr == "take"):
            continue
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if method in VERBS:
            part = next((k.value.value for k in node.keywords if k.arg == "subresource"), "")  # type: ignore[attr-defined]
            yield found.group, f"{found.plural}/{part}" if part else found.plural, VERBS[method]
        else:
            yield from ((found.group, found.plural, verb) for verb in ("list", "watch"))


def granted(account: str) -> set[Grant]:
    """What the roles that are bound to a service account allow."""
    found = set()
    for binding in EVERYTHING:
        if any(subject["name"] == account for subject in binding.get("subjects", [])):
            role = binding["roleRef"]
            for rule in ROLES[role["kind"], binding["metadata"].get("namespace"), role["name"]]["rules"]:
                found |= {(g, r, verb) for g in rule["apiGroups"] for r in rule["resources"] for verb in rule["verbs"]}
    return found


@pytest.mark.parametrize("account", [CONTROLLER, AGENT])
def test_a_role_allows_what_the_program_calls_and_nothing_else(account: str) -> None:
    calls = {grant for path in FILES[account] for grant in called(path)}

    assert granted(account) == calls


def test_no_rule_has_a_wildcard() -> None:
    rules = [rule for item in EVERYTHING for rule in item.get("rules", [])]

    assert len(rules) > 10
    assert [rule for rule in rules if any("*" in word for words in rule.values() for word in words)] == []


def test_nothing_of_the_whole_cluster_reads_secrets() -> None:
    roles = [item for item in EVERYTHING if any("secrets" in rule["resources"] for rule in item.get("rules", []))]

    assert [(role["kind"], role["metadata"]["namespace"]) for role in roles] == [("Role", "default")]
    assert [rule["verbs"] for role in roles for rule in role["rules"]] == [["get"]]


def test_secrets_can_be_named() -> None:
    values = json.loads('{"pullSecretNamespaces": ["a", "b"], "pullSecretNames": ["registry"]}')
    found = json.loads(json.dumps(objects(values)))
    roles = [item for item in found if item["kind"] == "Role" and item["metadata"]["name"] == "imagecache-pull-secrets"]

    assert [role["metadata"]["namespace"] for role in roles] == ["a", "b"]
    assert all(role["rules"][0]["resourceNames"] == ["registry"] for role in roles)


def test_nodes_are_patched_only_for_the_taint() -> None:
    without = json.loads(json.dumps(objects({})))
    rules = [rule for item in without for rule in item.get("rules", []) if "nodes" in rule["resources"]]

    assert rules
    assert all("patch" not in rule["verbs"] for rule in rules)


def test_objects_of_people_are_named_where_that_is_possible() -> None:
    rules = [rule for item in EVERYTHING for rule in item.get("rules", []) if "configmaps" in rule["resources"]]

    assert [rule["resourceNames"] for rule in rules] == [["eci-profile"]]
