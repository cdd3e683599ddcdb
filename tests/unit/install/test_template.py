"""Documents that depend on values, in both their forms."""

from __future__ import annotations

import pytest

from imagecache.api.yamltext import JSON
from tools.install.template import (
    ITEM,
    MERGED,
    NEWEST,
    Context,
    Document,
    Each,
    Expression,
    Kind,
    Node,
    When,
    documents,
    equals,
    given,
    join,
    resolve,
    since,
    template,
    text,
)

VALUES: dict[str, JSON] = {
    "mode": "native",
    "on": True,
    "off": False,
    "names": ["a", "b"],
    "none": [],
    "labels": {"team": "a"},
    "nothing": {},
    "deep": {"n": 3},
}
ON, OFF = given("on"), given("off")


@pytest.mark.parametrize(
    ("condition", "holds", "words"),
    [
        (ON, True, "$.Values.on"),
        (~ON, False, "not ($.Values.on)"),
        (ON & OFF, False, "and ($.Values.on) ($.Values.off)"),
        (ON | OFF, True, "or ($.Values.on) ($.Values.off)"),
        (given("none"), False, "$.Values.none"),
        (equals("mode", "native"), True, 'eq $.Values.mode "native"'),
        (equals("mode", "proxy"), False, 'eq $.Values.mode "proxy"'),
        (since(NEWEST), True, f'semverCompare ">=1.{NEWEST}.0-0" $.Capabilities.KubeVersion.Version'),
        (since(99), False, 'semverCompare ">=1.99.0-0" $.Capabilities.KubeVersion.Version'),
    ],
)
def test_a_condition_says_the_same_twice(condition: object, holds: bool, words: str) -> None:
    assert condition.plain(Context(VALUES)) is holds  # type: ignore[attr-defined]
    assert condition.go == words  # type: ignore[attr-defined]


def test_what_a_condition_takes_away_goes_with_its_key() -> None:
    body: dict[str, Node] = {
        "kept": When(ON, 1),
        "gone": When(OFF, 1),
        "other": When(OFF, 1, "else"),
        "list": [When(OFF, 1), 2],
    }

    assert resolve(body, Context(VALUES)) == {"kept": 1, "other": "else", "list": [2]}


def test_an_empty_block_goes_with_its_key() -> None:
    block = Expression("$.Values.none", lambda context: context.at("none"), Kind.BLOCK)

    assert resolve({"tolerations": block}, Context(VALUES)) == {}


def test_neighbours_under_one_condition_share_its_lines() -> None:
    written = template([Document({"a": When(ON, 1), "b": When(ON, {"c": "d"}), "e": When(OFF, 1)})])

    assert written.splitlines() == [
        "---",
        "{{- if $.Values.on }}",
        "a: 1",
        "b:",
        "  c: d",
        "{{- end }}",
        "{{- if $.Values.off }}",
        "e: 1",
        "{{- end }}",
    ]


def test_a_block_has_the_indentation_of_its_place() -> None:
    block = Expression("$.Values.names", lambda context: context.at("names"), Kind.BLOCK)

    assert template([Document({"a": {"b": block}})]).splitlines() == [
        "---",
        "a:",
        "  {{- with $.Values.names }}",
        "  b:",
        "    {{- toYaml . | nindent 4 }}",
        "  {{- end }}",
    ]


def block(name: str) -> Expression:
    return Expression(f"$.Values.{name}", lambda context: context.at(name), Kind.BLOCK)


def test_a_block_among_the_items_of_a_list_stands_for_its_items() -> None:
    body: dict[str, Node] = {"a": {"env": ["x", block("names"), block("none"), When(ON, "z")]}}

    assert resolve(body, Context(VALUES)) == {"a": {"env": ["x", "a", "b", "z"]}}
    assert template([Document(body)]).splitlines() == [
        "---",
        "a:",
        "  env:",
        "    - x",
        "    {{- with $.Values.names }}",
        "    {{- toYaml . | nindent 4 }}",
        "    {{- end }}",
        "    {{- with $.Values.none }}",
        "    {{- toYaml . | nindent 4 }}",
        "    {{- end }}",
        "    {{- if $.Values.on }}",
        "    - z",
        "    {{- end }}",
    ]


def test_a_block_whose_keys_stand_beside_others() -> None:
    body: dict[str, Node] = {
        "labels": {"app": "x", MERGED: block("labels")},
        "none": {"app": "x", MERGED: block("nothing")},
    }

    assert resolve(body, Context(VALUES)) == {"labels": {"app": "x", "team": "a"}, "none": {"app": "x"}}
    assert template([Document(body)]).splitlines()[:6] == [
        "---",
        "labels:",
        "  app: x",
        "  {{- with $.Values.labels }}",
        "  {{- toYaml . | nindent 2 }}",
        "  {{- end }}",
    ]
    with pytest.raises(TypeError, match=r"twice in a mapping: .*team"):
        resolve({"team": "b", MERGED: block("labels")}, Context(VALUES))


def test_a_list_with_an_item_for_each_of_the_values() -> None:
    body: dict[str, Node] = {"a": {"secrets": Each("names", {"name": ITEM}), "gone": Each("none", ITEM)}}

    assert resolve(body, Context(VALUES)) == {"a": {"secrets": [{"name": "a"}, {"name": "b"}]}}
    assert template([Document(body)]).splitlines()[:7] == [
        "---",
        "a:",
        "  {{- with $.Values.names }}",
        "  secrets:",
        "    {{- range $item := . }}",
        "    - name: {{ $item | quote }}",
        "    {{- end }}",
    ]


def test_a_document_for_each_item() -> None:
    item = Document({"name": ITEM, "whole": join("x-", ITEM, "%")}, ON, each="names")

    assert documents([item], VALUES) == [{"name": "a", "whole": "x-a%"}, {"name": "b", "whole": "x-b%"}]
    assert template([item]).splitlines() == [
        "{{- if $.Values.on }}",
        "{{- range $item := $.Values.names }}",
        "---",
        "name: {{ $item | quote }}",
        'whole: {{ printf "x-%v%%" ($item) | quote }}',
        "{{- end }}",
        "{{- end }}",
    ]


def test_a_document_without_its_condition() -> None:
    assert documents([Document({"a": 1}, OFF)], VALUES) == []


def test_texts_are_quoted_where_yaml_would_read_something_else() -> None:
    assert text([{"a": "yes", "b": "v1", "c": "10", "d": True, "e": [], "f": ["x", {"g": None}]}]).splitlines() == [
        'a: "yes"',
        "b: v1",
        'c: "10"',
        "d: true",
        "e: []",
        "f:",
        "  - x",
        "  - g: null",
    ]


def test_the_first_key_of_an_item_must_be_there() -> None:
    with pytest.raises(TypeError, match="must not depend"):
        template([Document({"list": [{"a": When(ON, 1)}]})])


def test_a_value_that_is_not_there_is_an_error() -> None:
    with pytest.raises(KeyError):
        Context(VALUES).at("deep.m")
