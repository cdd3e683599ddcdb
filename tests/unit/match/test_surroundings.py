"""What is around pods, from documents."""

from __future__ import annotations

import pytest

from imagecache.api.types import Phase
from imagecache.errors import InvalidManifest
from imagecache.match import keys
from imagecache.match.surroundings import items, kind_of, surroundings
from imagecache.match.views import Defaults
from tests.unit.match.documents import Object, image_cache, manifest, namespace, profile, report
from tests.unit.match.situations import NGINX

SELECTORS = '[{"name": "s", "effect": {"annotations": {"k8s.aliyun.com/eci-auto-imc": "true"}}}]'


def test_it_has_caches_reports_and_defaults_in_any_order() -> None:
    cache = image_cache("a", NGINX)
    documents = [
        report("node-1", cache),
        profile(SELECTORS),
        namespace("team", labels={"tier": "a"}, annotations={keys.PIN: "a"}),
        namespace("other"),
        cache,
        image_cache("b", NGINX, ready=False),
    ]

    for each in (documents, documents[::-1]):
        found = surroundings(each, {keys.CREATE: "true"})

        assert found.index.caches["a"].nodes == frozenset({"node-1"})
        assert found.index.caches["b"].phase is Phase.PENDING
        assert found.reports["node-1"].mode == "proxy"
        own = found.defaults("team")
        assert (own.namespace_annotations, own.namespace_labels) == ({keys.PIN: "a"}, {"tier": "a"})
        assert [rule.name for rule in own.rules] == ["s"]
        assert found.defaults("nowhere") == Defaults(rules=own.rules, cluster={keys.CREATE: "true"})
        assert found.notes == ()


def test_of_two_about_the_same_the_later_counts() -> None:
    first, second = namespace("team", labels={"v": "1"}), namespace("team", labels={"v": "2"})

    found = surroundings([first, profile(SELECTORS), second, profile("")], {})

    assert (found.defaults("team").namespace_labels, found.rules) == ({"v": "2"}, ())


def test_a_manifest_is_taken_as_ready_and_an_object_as_it_is() -> None:
    unseen, broken = manifest("b", NGINX), manifest("c")
    unseen["metadata"]["uid"] = "u"

    found = surroundings([manifest("a", NGINX), unseen, broken], {})

    assert (found.index.caches["a"].phase, found.index.caches["a"].id) == (Phase.READY, "a")
    assert [found.index.caches[name].phase for name in "bc"] == [Phase.PENDING, Phase.PENDING]
    assert found.notes[0] == "ImageCache a has no status: taken as one that is Ready"
    assert [note.partition(":")[0] for note in found.notes[1:]] == ["ImageCache c"]


def test_mistakes_are_noted_and_what_is_no_object_is_refused() -> None:
    broken = image_cache("a", NGINX)
    broken["spec"]["images"] = 5

    found = surroundings([broken, profile("{")], {})

    assert [note.partition(":")[0] for note in sorted(found.notes)] == [
        "ConfigMap kube-system/eci-profile, selectors",
        "ImageCache a",
    ]
    for document in (namespace("team", labels={"a": 1}), {**profile(""), "data": 5}):  # type: ignore[dict-item]  # on purpose
        with pytest.raises(InvalidManifest):
            surroundings([document], {})


def test_lists_are_what_is_in_them() -> None:
    inner: Object = {"metadata": {"name": "a"}}

    assert items({"apiVersion": "v1", "kind": "PodList", "items": [inner, None]}) == [
        {"apiVersion": "v1", "kind": "Pod", **inner}
    ]
    assert items({"apiVersion": "v1", "kind": "List", "items": [manifest("a")]}) == [manifest("a")]
    assert items(manifest("a")) == [manifest("a")]
    assert items("text") == items(None) == items([1]) == []


def test_group_and_kind() -> None:
    assert kind_of({"apiVersion": "apps/v1", "kind": "Deployment"}) == ("apps", "Deployment")
    assert kind_of({"apiVersion": "v1", "kind": "Pod"}) == ("", "Pod")
    assert kind_of({"apiVersion": 5, "kind": None}) == ("", "")
