"""``selectors`` of eci-profile: as ECI writes it, as Go reads it, and whatever else an administrator may type."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagecache.match import keys
from imagecache.match.selectors import applies, is_profile, parse
from imagecache.match.views import Rule

ECI = """[{
  "name": "for-web",
  "namespaceSelector": {"matchLabels": {"department": "web"}},
  "objectSelector": {"matchLabels": {"app": "shop", "tier": "front"}},
  "effect": {
    "annotations": {"k8s.aliyun.com/eci-image-cache": "true", "k8s.aliyun.com/eci-use-specs": "2-4Gi"},
    "labels": {"created-by-eci": "true"}
  }
}, {"name": "rest", "effect": {"annotations": {"k8s.aliyun.com/imc-perfect-match": "true"}}}]"""


def test_ecis_own_form() -> None:
    rules, notes = parse(ECI)

    assert rules == (
        Rule("for-web", {"department": "web"}, {"app": "shop", "tier": "front"}, {keys.AUTO_OLD: "true"}),
        Rule("rest", {}, {}, {keys.PERFECT: "true"}),
    )
    assert notes == ()


@pytest.mark.parametrize(
    ("namespace", "labels", "expected"),
    [
        ({"department": "web"}, {"app": "shop", "tier": "front", "more": "x"}, [True, True]),
        ({"department": "web"}, {"app": "shop"}, [False, True]),
        ({}, {"app": "shop", "tier": "front"}, [False, True]),
        ({"department": "ops"}, {"app": "shop", "tier": "front"}, [False, True]),
    ],
)
def test_all_labels_must_be_there_and_none_is_everything(
    namespace: dict[str, str], labels: dict[str, str], expected: list[bool]
) -> None:
    assert [applies(rule, namespace, labels) for rule in parse(ECI)[0]] == expected


@pytest.mark.parametrize("text", ["", "  \n", "null", "[]"])
def test_nothing_is_configured(text: str) -> None:
    assert parse(text) == ((), ())


@pytest.mark.parametrize("text", ["{", "selectors", '{"name": "a"}', "5", '"[]"', "[1,]", "[" * 100_000])
def test_what_is_no_list_is_ignored_with_a_note(text: str) -> None:
    rules, notes = parse(text)

    assert rules == ()
    assert len(notes) == 1
    assert notes[0].startswith("ConfigMap kube-system/eci-profile, selectors: ")
    assert notes[0].endswith("; all ignored")
    assert len(notes[0]) < 400


@pytest.mark.parametrize(
    "broken",
    [
        "5",
        '"text"',
        '{"name": 5}',
        '{"objectSelector": ["app"]}',
        '{"objectSelector": {"matchLabels": {"app": 5}}}',
        '{"effect": {"annotations": {"k8s.aliyun.com/eci-auto-imc": true}}}',
        '{"effect": {"annotations": "k8s.aliyun.com/eci-auto-imc"}}',
        '{"name": "a", "name": "b"}',
        '{"objectSelector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]}}',
        '{"namespaceSelector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]}}',
    ],
)
def test_one_that_is_broken_does_not_cost_the_others(broken: str) -> None:
    rules, notes = parse(f'[{{"name": "first"}}, {broken}, {{"name": "last"}}]')

    assert [rule.name for rule in rules] == ["first", "last"]
    assert len(notes) == 1
    assert notes[0].startswith("ConfigMap kube-system/eci-profile, selectors: number 2: ")
    assert notes[0].endswith("; ignored")


def test_it_is_read_as_go_reads_it() -> None:
    text = """[{"Name": "a", "namespaceselector": null, "objectSelector": {"matchLabels": {"app": null}},
      "effect": {"annotations": {"k8s.aliyun.com/eci-auto-imc": "\\ud800"}}, "unknown": {"deep": [1]}}, null]"""

    rules, notes = parse(text)

    assert rules == (Rule("a", {}, {"app": ""}, {keys.AUTO: "\ufffd"}), Rule("number 2", {}, {}, {}))
    assert notes == ()


def test_a_name_is_bounded_and_a_missing_one_is_its_number() -> None:
    rules, _ = parse(json.dumps([{"name": " x" * 500}, {}]))

    assert [len(rule.name) for rule in rules] == [80, len("number 2")]


def _containers(children: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    names = st.sampled_from(["name", "effect", "annotations", "objectSelector", "matchLabels", keys.AUTO])
    return st.lists(children, max_size=3) | st.dictionaries(names, children, max_size=3)


@given(st.text() | st.recursive(st.none() | st.booleans() | st.integers() | st.text(), _containers).map(json.dumps))
def test_any_text_is_read_without_an_error(text: str) -> None:
    rules, notes = parse(text)

    assert all(set(rule.annotations) <= set(keys.KEYS) for rule in rules)
    assert all(isinstance(note, str) for note in notes)


def test_which_config_map_has_them() -> None:
    assert is_profile({"metadata": {"name": "eci-profile", "namespace": "kube-system"}})
    for other in (
        {},
        {"metadata": None},
        {"metadata": {"name": "eci-profile"}},
        {"metadata": {"namespace": "kube-system"}},
    ):
        assert not is_profile(other)
