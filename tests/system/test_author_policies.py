"""What an ImageCache may ask for follows from what its author may do: judged by the API server itself.

Everything but the last is asked with ``dryRun=All``, which runs every policy and keeps nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from http import HTTPStatus

import pytest

from imagecache.api import nodes, types
from testkit.cluster.installed import Installed
from testkit.peers.processes import wait_until
from tools.install.authors import EXCEED, PRIORITIZE, SECRETS
from tools.install.rbac import CONTROLLER

from .conftest import Site

AUTHOR, READER, CHIEF = "author", "reader", "chief"
WRITES = ("create", "get", "update", "patch")
PATH = f"/apis/{types.GROUP}/v1/imagecaches"
SIZE = "k8s.aliyun.com/imc-size"
UNREADABLE, UNNAMED = "only Secrets that its author may get", "write each one as namespace:name"
PRIORITY, TOO_LARGE = f"the verb {PRIORITIZE}", f"the verb {EXCEED}"


@pytest.fixture(scope="module")
def people(whole_site: Site) -> Iterator[Installed]:
    """An author of ImageCaches; one who may also get Secrets of ``default``; one with all rights on ImageCaches."""
    cluster = whole_site.system.cluster
    made = {
        "authors": ["clusterrole", "authors", f"--verb={','.join(WRITES)}", f"--resource=imagecaches.{types.GROUP}"],
        "chiefs": ["clusterrole", "chiefs", "--verb=*", f"--resource=imagecaches.{types.GROUP}"],
    }
    bound = {
        "authors": ["clusterrolebinding", "authors", "--clusterrole=authors", f"--user={AUTHOR}", f"--user={READER}"],
        "chiefs": ["clusterrolebinding", "chiefs", "--clusterrole=chiefs", f"--user={CHIEF}"],
    }
    secrets = ["role", "readers", "--verb=get", "--resource=secrets", "--namespace=default"]
    readers = ["rolebinding", "readers", "--role=readers", f"--user={READER}", "--namespace=default"]
    try:
        for words in (*made.values(), *bound.values(), secrets, readers):
            cluster.kubectl("create", *words)
        # the API server reads its own roles with a delay
        asked = ["auth", "can-i", "get", "secrets", "--namespace=default", f"--as={READER}"]
        assert wait_until(lambda: cluster.try_kubectl(*asked).stdout.startswith("yes"), seconds=30, every=0.2)
        yield whole_site.system
    finally:
        cluster.kubectl("delete", "clusterrole,clusterrolebinding", "--ignore-not-found", *made)
        cluster.kubectl("delete", "role,rolebinding", "readers", "--ignore-not-found", "--namespace=default")


def document(annotations: Mapping[str, str] | None = None, **spec: object) -> dict[str, object]:
    return {
        "apiVersion": f"{types.GROUP}/v1",
        "kind": "ImageCache",
        "metadata": {"name": "asked", "annotations": dict(annotations or {})},
        "spec": {"images": ["registry.example.com/app:1"], **spec},
    }


def created(system: Installed, user: str, body: dict[str, object]) -> str:
    """What the API server says against it; empty when it would take it."""
    status, answer = system.ask("POST", f"{PATH}?dryRun=All", body, user=user)
    return "" if status == HTTPStatus.CREATED else json.loads(answer)["message"]


MAY: list[tuple[str, dict[str, object]]] = [
    (AUTHOR, document()),
    (AUTHOR, document(imagePullSecrets=None, imageCacheSize=None)),
    (AUTHOR, document(imagePullSecrets=[])),
    (AUTHOR, document({nodes.PRIORITY: "0"}, imageCacheSize=1000)),
    (AUTHOR, document({SIZE: "1000"})),
    (READER, document(imagePullSecrets=["default:a"])),
    (READER, document(imagePullSecrets=[f" default:a{number} " for number in range(SECRETS)])),
    (CHIEF, document({nodes.PRIORITY: "5"}, imageCacheSize=5000)),
    # no names: the controller refuses them, and says so in the status
    *((AUTHOR, document(imagePullSecrets=[name])) for name in ("default:a:b", "default:*", "a", "", ":a", "default:")),
    ("", document({nodes.PRIORITY: "-1"}, imagePullSecrets=["kube-system:any"], imageCacheSize=5000)),
]
MAY_NOT: list[tuple[str, dict[str, object], str]] = [
    (AUTHOR, document(imagePullSecrets=["default:a"]), UNREADABLE),
    (CHIEF, document(imagePullSecrets=["default:a"]), UNREADABLE),
    (READER, document(imagePullSecrets=["kube-system:a"]), UNREADABLE),
    (READER, document(imagePullSecrets=["default:a", "kube-system:a"]), UNREADABLE),
    (READER, document(imagePullSecrets=[*(f"default:a{n}" for n in range(SECRETS - 1)), "kube-system:a"]), UNREADABLE),
    (READER, document(imagePullSecrets=[f"default:a{number}" for number in range(SECRETS + 1)]), f"at most {SECRETS}"),
    (READER, document(imagePullSecrets=["default:a\x1f"]), UNNAMED),
    (READER, document(imagePullSecrets=["a", "kube-system:a"]), UNREADABLE),
    (AUTHOR, document({nodes.PRIORITY: "1"}), PRIORITY),
    (AUTHOR, document({nodes.PRIORITY: " 5"}), PRIORITY),
    (AUTHOR, document(imageCacheSize=1001), TOO_LARGE),
    (AUTHOR, document({SIZE: "1001"}), TOO_LARGE),
    (AUTHOR, document({SIZE: "\u0661\u0660\u0660\u0661"}), TOO_LARGE),
    (READER, document(imageCacheSize=1001, imagePullSecrets=["default:a"]), TOO_LARGE),
]


@pytest.mark.parametrize(("user", "body"), MAY)
def test_what_an_author_may_ask_for(people: Installed, user: str, body: dict[str, object]) -> None:
    assert created(people, user, body) == ""


@pytest.mark.parametrize(("user", "body", "message"), MAY_NOT)
def test_what_an_author_may_not_ask_for(people: Installed, user: str, body: dict[str, object], message: str) -> None:
    assert message in created(people, user, body)


def test_what_is_changed_is_asked_and_nothing_else(people: Installed) -> None:
    """Of an ImageCache that somebody else has made with all of it."""
    made = document({nodes.PRIORITY: "7"}, imagePullSecrets=["default:none"], imageCacheSize=2000)
    status, answer = people.ask("POST", PATH, made)
    assert status == HTTPStatus.CREATED, answer

    def patched(user: str, patch: object) -> str:
        path = f"{PATH}/asked?dryRun=All"
        status, answer = people.ask("PATCH", path, patch, content="application/merge-patch+json", user=user)
        return "" if status == HTTPStatus.OK else json.loads(answer)["message"]

    try:
        annotated = {"metadata": {"annotations": {"imagecache.dev/refresh": "2"}}}
        other = {"spec": {"images": ["registry.example.com/other:1"]}}
        assert patched(AUTHOR, annotated) == ""
        assert patched(READER, other) == ""
        assert UNREADABLE in patched(AUTHOR, other), "a Secret that is named already is used for more"
        assert patched(AUTHOR, {**other, "spec": {**other["spec"], "imagePullSecrets": None}}) == ""
        assert patched(READER, {"spec": {"imageCacheSize": 1500}}) == ""
        assert TOO_LARGE in patched(READER, {"spec": {"imageCacheSize": 2001}})
        assert PRIORITY in patched(AUTHOR, {"metadata": {"annotations": {nodes.PRIORITY: "8"}}})
        assert patched(AUTHOR, {"metadata": {"annotations": {nodes.PRIORITY: None}}}) == ""
    finally:
        people.ask("DELETE", f"{PATH}/asked")
        assert wait_until(lambda: people.ask("GET", f"{PATH}/asked")[0] == HTTPStatus.NOT_FOUND, seconds=30, every=0.2)


def test_the_controller_makes_caches_with_secrets_that_it_may_read(people: Installed) -> None:
    """For pods, with theirs: in the namespaces that were named, and in no other."""
    user = f"system:serviceaccount:imagecache-system:{CONTROLLER}"
    assert created(people, user, document(imagePullSecrets=["default:of-a-pod"])) == ""
    assert UNREADABLE in created(people, user, document(imagePullSecrets=["kube-system:of-nobody"]))


def test_the_controller_makes_no_cache_that_is_larger_than_authors_may(people: Installed) -> None:
    """A pod says how much it wants (eci-extra-ephemeral-storage)."""
    user = f"system:serviceaccount:imagecache-system:{CONTROLLER}"
    assert created(people, user, document(imageCacheSize=1000)) == ""
    assert TOO_LARGE in created(people, user, document(imageCacheSize=1001))
