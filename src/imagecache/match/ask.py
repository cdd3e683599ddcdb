"""What a pod asks for: its annotations, and the defaults around it.

For each key the nearest source counts: pod, Namespace, the selectors of eci-profile in their order, cluster. Inside one
source the new key wins over the old one. A value that cannot be read is ignored with a note, as if it were not there: a
typing mistake in an optimisation must not cost the pod anything. It must not know the caches.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from imagecache.match import keys, selectors
from imagecache.match.views import Ask, Defaults, PodView, Said
from imagecache.written import refusal, trimmed

_T = TypeVar("_T")
_SHOWN = 80
"""Characters of a value that a note repeats."""
_COUNT = re.compile(r"0*([1-9][0-9]{0,8})")
"""Without the sizes that only take time to read."""


@dataclass(frozen=True, slots=True)
class _Kind(Generic[_T]):
    """What the values of a key are."""

    read: Callable[[str], _T | None]
    """None: it is not one."""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class _Source:
    name: str
    values: Mapping[str, str]


@dataclass(slots=True)
class _Reader:
    sources: Sequence[_Source]
    """From near to far."""
    said: list[Said] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def first(self, kind: _Kind[_T], *names: str) -> _T | None:
        """The first value that can be read; ``names`` are one key's, newest first. None: nobody says it."""
        for source in self.sources:
            for name in names:
                if name not in source.values:
                    continue
                text, where = trimmed(source.values[name]), f"{source.name}: {name}"
                value = kind.read(text)
                if value is not None:
                    self.said.append(Said(names[0], text, where))
                    return value
                self.notes.append(refusal(f"{where}: {text[:_SHOWN]!r} is {kind.problem}, ignored", text[:_SHOWN]))
        return None


def ask(pod: PodView, defaults: Defaults) -> Ask:
    """An empty pin says that there is none, and so wins over the pins of sources farther away."""
    near = _sources(pod, defaults)
    reader = _Reader([*near, _Source("cluster", defaults.cluster)])
    pin = reader.first(_TEXT, keys.PIN, keys.PIN_OLD)
    auto = reader.first(_FLAG, keys.AUTO, keys.AUTO_OLD)
    create = reader.first(_FLAG, keys.CREATE)
    perfect = reader.first(_FLAG, keys.PERFECT)
    count = reader.first(_NUMBER, keys.COUNT)
    require_node = reader.first(_FLAG, keys.REQUIRE_NODE)
    return Ask(
        pin=pin or "",
        auto=auto is not False,
        create=create is True,
        perfect=perfect is True,
        count=count,
        require_node=require_node is True,
        explicit=any(key in source.values for source in near for key in keys.KEYS),
        sources=tuple(reader.said),
        notes=tuple(reader.notes),
    )


def _sources(pod: PodView, defaults: Defaults) -> list[_Source]:
    """All but the cluster's."""
    found = [_Source("pod", pod.annotations), _Source(f"namespace {pod.namespace}", defaults.namespace_annotations)]
    return found + [
        _Source(f"selector {rule.name}", rule.annotations)
        for rule in defaults.rules
        if selectors.applies(rule, defaults.namespace_labels, pod.labels)
    ]


def _flag(text: str) -> bool | None:
    return {"true": True, "false": False}.get(text.lower())


def _number(text: str) -> int | None:
    found = _COUNT.fullmatch(text)
    return int(found[1]) if found else None


_TEXT: _Kind[str] = _Kind(str)
_FLAG: _Kind[bool] = _Kind(_flag, 'neither "true" nor "false"')
_NUMBER: _Kind[int] = _Kind(_number, "not a whole number above 0")
