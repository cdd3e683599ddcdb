"""Defaults for pods by label: ``selectors`` in the ConfigMap kube-system/eci-profile, in ECI's form.

A JSON array of ``{name, namespaceSelector.matchLabels, objectSelector.matchLabels, effect.annotations}``; all labels of
both selectors must be there, none is everything. A mistake in it is a note and never an error: the rest counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from imagecache import foreign_json
from imagecache.errors import MalformedDocument
from imagecache.match.keys import KEYS
from imagecache.match.views import Rule
from imagecache.written import trimmed

NAMESPACE, CONFIG_MAP, KEY = "kube-system", "eci-profile", "selectors"
_WHERE = f"ConfigMap {NAMESPACE}/{CONFIG_MAP}, {KEY}"
_NAME = 80
"""Characters of a rule's name that are shown."""


class _Labels(msgspec.Struct, frozen=True, rename="camel"):
    match_labels: dict[str, str] = {}
    match_expressions: list[Any] = []


class _Effect(msgspec.Struct, frozen=True):
    annotations: dict[str, str] = {}


class _Selector(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    namespace_selector: _Labels = _Labels()
    object_selector: _Labels = _Labels()
    effect: _Effect = _Effect()


def parse(text: str) -> tuple[tuple[Rule, ...], tuple[str, ...]]:
    """The rules, in order, and what is ignored, for people. ``text`` is of bounded length, as in an API object."""
    if not trimmed(text):  # what the ConfigMap has when nobody has changed it
        return (), ()
    try:
        items = foreign_json.decode(text.encode(errors="replace"), list[Any])
    except (MalformedDocument, RecursionError) as error:
        return (), (f"{_WHERE}: {error}; all ignored",)
    rules, notes = [], []
    for number, item in enumerate(items, start=1):
        try:
            found = foreign_json.read(item, _Selector)
        except (MalformedDocument, RecursionError) as error:
            notes.append(f"{_WHERE}: number {number}: {error}; ignored")
            continue
        if found.namespace_selector.match_expressions or found.object_selector.match_expressions:
            # without them it would be for more pods than its author has in mind
            notes.append(f"{_WHERE}: number {number}: matchExpressions is not supported; ignored")
            continue
        rules.append(_rule(found, number))
    return tuple(rules), tuple(notes)


def is_profile(item: Mapping[str, object]) -> bool:
    """Whether a ConfigMap is the one that has them."""
    metadata = item.get("metadata")
    found = metadata if isinstance(metadata, Mapping) else {}
    return (found.get("namespace"), found.get("name")) == (NAMESPACE, CONFIG_MAP)


def applies(rule: Rule, namespace_labels: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether the rule is for a pod with these labels, in a Namespace with those."""
    wanted = ((rule.namespace_labels, namespace_labels), (rule.object_labels, labels))
    return all(there.get(key) == value for want, there in wanted for key, value in want.items())


def _rule(found: _Selector, number: int) -> Rule:
    return Rule(
        name=trimmed(found.name)[:_NAME] or f"number {number}",
        namespace_labels=found.namespace_selector.match_labels,
        object_labels=found.object_selector.match_labels,
        # others are for ECI: nothing is put into pods here
        annotations={key: value for key, value in found.effect.annotations.items() if key in KEYS},
    )
