"""Kubernetes label selectors as text: ``pool=gpu,zone in (a,b),!old``.

Source: apimachinery ``labels.Parse``, without the comparisons ``>`` and ``<``. It must not know whose labels it reads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from imagecache.errors import InvalidManifest
from imagecache.written import refusal, trimmed

_KEY = r"(?:[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_VALUE = r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?"
_VALUES = re.compile(_VALUE)
_TERM = re.compile(
    rf"\s*(?:(?P<absent>!)\s*(?P<gone>{_KEY})"
    rf"|(?P<key>{_KEY})(?:\s*(?P<operator>==|=|!=)\s*(?P<value>{_VALUE})"
    rf"|\s+(?P<set>in|notin)\s*\((?P<values>[^()]*)\))?)\s*(?P<end>,|$)"
)


@dataclass(frozen=True, slots=True)
class Requirement:
    key: str
    values: frozenset[str] | None
    """None: any value."""
    wanted: bool = True
    """False: the label must be absent or have another value."""

    def matches(self, labels: Mapping[str, str]) -> bool:
        found = self.key in labels and (self.values is None or labels[self.key] in self.values)
        return found is self.wanted


@dataclass(frozen=True, slots=True)
class Selector:
    """All requirements must hold; none is everything."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all(requirement.matches(labels) for requirement in self.requirements)


EVERYTHING = Selector()


def parse(text: str, what: str) -> Selector:
    """``what`` names the field in messages. Raises InvalidManifest."""
    requirements, position, whole = [], 0, trimmed(text)
    while position < len(whole):
        term = _TERM.match(whole, position)
        # a comma at the end is an error in Kubernetes too: something may have been cut off
        requirement = _requirement(term) if term and not (term["end"] and term.end() == len(whole)) else None
        if term is None or requirement is None:
            # 120 characters: messages go into the status, and a selector may be a whole document by mistake
            message = f"{what}: {text[:120]!r} is not a label selector"
            raise InvalidManifest(refusal(message, whole, blanks=True), hint='for example "pool=gpu,zone in (a,b)"')
        requirements.append(requirement)
        position = term.end()
    return Selector(tuple(requirements))


def _requirement(term: re.Match[str]) -> Requirement | None:
    """None: a value in parentheses is none."""
    if term["absent"]:
        return Requirement(term["gone"], None, wanted=False)
    if term["set"]:
        values = frozenset(map(trimmed, term["values"].split(",")))
        good = all(_VALUES.fullmatch(value) for value in values)
        return Requirement(term["key"], values, wanted=term["set"] == "in") if good else None
    if term["operator"]:
        # != also matches nodes without the label, as in Kubernetes
        return Requirement(term["key"], frozenset({term["value"]}), wanted=term["operator"] != "!=")
    return Requirement(term["key"], None)
