"""What a pod asks for: the nearest source of each key, both families of keys, and values that nobody can read."""

from __future__ import annotations

import dataclasses

import pytest

from imagecache.match import keys
from imagecache.match.ask import ask
from imagecache.match.views import Ask, Defaults, Rule, Said
from tests.unit.match.situations import NGINX, pod

POD = pod(NGINX)
RULES = (
    Rule("first", {"tier": "a"}, {}, {keys.PIN: "of-first"}),
    Rule("second", {}, {"app": "web"}, {keys.PIN: "of-second", keys.COUNT: "2", keys.CREATE: "false"}),
)
ALL = Defaults(
    namespace_annotations={keys.PIN: "of-namespace"},
    namespace_labels={"tier": "a"},
    rules=RULES,
    cluster={keys.PIN: "of-cluster", keys.CREATE: "true"},
)
LABELLED = dataclasses.replace(POD, labels={"app": "web"})


def asked(of: dict[str, str], defaults: Defaults | None = None) -> Ask:
    return ask(dataclasses.replace(LABELLED, annotations=of), defaults or Defaults())


def test_without_a_word_it_matches_and_creates_nothing() -> None:
    assert ask(POD, Defaults()) == Ask()


def test_the_nearest_source_counts() -> None:
    namespace = dataclasses.replace(ALL, namespace_annotations={})
    second = dataclasses.replace(namespace, namespace_labels={})
    cluster = dataclasses.replace(second, rules=())

    found = [asked({keys.PIN: "own"}, ALL).pin, *(asked({}, each).pin for each in (ALL, namespace, second, cluster))]

    assert found == ["own", "of-namespace", "of-first", "of-second", "of-cluster"]


def test_it_says_where_each_key_was_said() -> None:
    found = asked({keys.PIN_OLD: " own\u200b "}, ALL)

    assert found.sources == (
        Said(keys.PIN, "own", f"pod: {keys.PIN_OLD}"),
        Said(keys.CREATE, "false", f"selector second: {keys.CREATE}"),
        Said(keys.COUNT, "2", f"selector second: {keys.COUNT}"),
    )
    assert asked({}, ALL).sources[0].where == f"namespace team: {keys.PIN}"
    assert asked({}, Defaults(cluster={keys.CREATE: "true"})).sources[0].where == f"cluster: {keys.CREATE}"


def test_key_by_key_not_source_by_source() -> None:
    found = asked({keys.PERFECT: "true"}, ALL)

    assert (found.pin, found.perfect, found.count, found.create) == ("of-namespace", True, 2, False)


@pytest.mark.parametrize(
    ("given", "pin", "auto"),
    [
        ({keys.PIN: "new", keys.PIN_OLD: "old"}, "new", True),
        ({keys.PIN_OLD: "old"}, "old", True),
        ({keys.AUTO: "true", keys.AUTO_OLD: "false"}, "", True),
        ({keys.AUTO_OLD: "false"}, "", False),
        ({keys.PIN: "", keys.PIN_OLD: "old"}, "", True),
    ],
)
def test_the_new_key_wins_over_the_old_one(given: dict[str, str], pin: str, auto: bool) -> None:
    found = asked(given)

    assert (found.pin, found.auto) == (pin, auto)


def test_the_old_key_of_the_pod_wins_over_the_new_one_of_its_namespace() -> None:
    assert asked({keys.PIN_OLD: "own"}, ALL).pin == "own"


@pytest.mark.parametrize("empty", ["", " ", "\t\u00a0"])
def test_an_empty_pin_says_none_and_beats_every_default(empty: str) -> None:
    found = asked({keys.PIN: empty}, ALL)

    assert found.pin == ""
    assert found.sources[0] == Said(keys.PIN, "", f"pod: {keys.PIN}")


@pytest.mark.parametrize(("text", "value"), [("true", True), ("TRUE ", True), ("False", False), ("\u200bfalse", False)])
def test_true_and_false_in_any_case_trimmed(text: str, value: bool) -> None:
    found = asked({keys.AUTO: text, keys.CREATE: text, keys.PERFECT: text, keys.REQUIRE_NODE: text})

    assert (found.auto, found.create, found.perfect, found.require_node) == (value, value, value, value)
    assert found.notes == ()


@pytest.mark.parametrize("text", ["yes", "1", "", "truefalse", "\u0442rue", "x" * 5000])
def test_another_word_is_ignored_with_a_note(text: str) -> None:
    found = asked({keys.AUTO: text}, Defaults(namespace_annotations={keys.AUTO: "false"}))

    assert not found.auto
    assert found.sources == (Said(keys.AUTO, "false", f"namespace team: {keys.AUTO}"),)
    assert found.notes[0].startswith(f"pod: {keys.AUTO}: {text[:80]!r} is neither")
    assert len(found.notes[0]) < 350


@pytest.mark.parametrize(
    ("text", "count"),
    [("1", 1), (" 007", 7), ("0", None), ("-1", None), ("1.5", None), ("\u0663", None), ("9" * 5000, None), ("", None)],
)
def test_a_count_is_a_whole_number_above_zero(text: str, count: int | None) -> None:
    found = asked({keys.COUNT: text})

    assert found.count == count
    assert len(found.notes) == (count is None)


def test_explicit_is_what_somebody_wrote_and_not_what_the_cluster_is_set_to() -> None:
    assert not asked({"other": "true"}, Defaults(cluster={keys.CREATE: "true"})).explicit
    assert not asked({}, Defaults(rules=(Rule("r", {"no": "such"}, {}, {keys.AUTO: "true"}),))).explicit
    assert asked({keys.AUTO: "maybe"}).explicit
    assert asked({}, Defaults(namespace_annotations={keys.AUTO_OLD: "true"})).explicit
    assert asked({}, ALL).explicit


@pytest.mark.parametrize("key", [key for key in keys.KEYS if key not in {keys.AUTO, keys.AUTO_OLD}])
def test_every_key_has_a_meaning(key: str) -> None:
    value = "1" if key == keys.COUNT else "true"

    assert dataclasses.replace(asked({key: value}), explicit=False, sources=()) != Ask()
