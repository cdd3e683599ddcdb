"""Documents that depend on values: as Go templates for Helm, and with the values put in for kustomize.

Everything that depends says both: the words of the Go template, and a function of the values. It must not know what
the documents are for.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeGuard, Union

from imagecache.api.yamltext import JSON

NEWEST = 37
"""Minor version of the newest Kubernetes 1 that is known here; the kustomize bases are for it."""
_PLAIN = re.compile(r"[A-Za-z/_][A-Za-z0-9_./-]*")
_BLOCK = "{{- toYaml . | nindent INDENT }}"
_WORDS_OF_YAML = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})


@dataclass(frozen=True, slots=True)
class Context:
    """What documents are rendered with."""

    values: Mapping[str, JSON]
    item: JSON = None
    """Of the list that a document is repeated for."""
    kubernetes: int = NEWEST
    """Minor version of Kubernetes 1."""

    def at(self, path: str) -> JSON:
        """Raises KeyError when there is no such value."""
        value: JSON = dict(self.values)
        for key in path.split("."):
            if not isinstance(value, dict):
                raise KeyError(path)
            value = value[key]
        return value


class Kind(enum.Enum):
    TEXT = "text"
    BARE = "bare"
    """A number or a truth value."""
    BLOCK = "block"
    """A mapping or list; left out with its key when it is empty. As an item of a list it stands for its items."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A value: ``go`` gives it in a template, ``plain`` here."""

    go: str
    plain: Callable[[Context], JSON]
    kind: Kind = Kind.TEXT


@dataclass(frozen=True, slots=True)
class Condition:
    go: str
    plain: Callable[[Context], bool]

    def __invert__(self) -> Condition:
        return Condition(f"not ({self.go})", lambda context: not self.plain(context))

    def __and__(self, other: Condition) -> Condition:
        return Condition(f"and ({self.go}) ({other.go})", lambda context: self.plain(context) and other.plain(context))

    def __or__(self, other: Condition) -> Condition:
        return Condition(f"or ({self.go}) ({other.go})", lambda context: self.plain(context) or other.plain(context))


@dataclass(frozen=True, slots=True)
class When:
    """A value or list item that is there under a condition; else ``otherwise``, else nothing with its key."""

    condition: Condition
    then: Node
    otherwise: Node | None = None


@dataclass(frozen=True, slots=True)
class Each:
    """A list with one item for each item of a list of the values; left out with its key when that is empty."""

    path: str
    item: Node
    """With ``ITEM`` in it."""


Node = Union[  # noqa: UP007 - recursive
    None, bool, int, float, str, Expression, When, Each, Sequence["Node"], Mapping[str, "Node"]
]
Nested = Union[Sequence["Node"], Mapping[str, "Node"]]  # noqa: UP007


@dataclass(frozen=True, slots=True)
class Document:
    """One object of the cluster, or one for each item of a list of the values."""

    body: Mapping[str, Node]
    condition: Condition | None = None
    each: str = ""
    """Path of the list."""


MERGED = "<<"
"""Key for a block whose keys stand beside those of the mapping that it is in, as YAML's merge key has it."""
ITEM = Expression("$item", lambda context: context.item)
"""The item that something is repeated for; a text."""


def given(path: str) -> Condition:
    """The value is neither false nor empty."""
    return Condition(f"$.Values.{path}", lambda context: bool(context.at(path)))


def since(minor: int) -> Condition:
    """The cluster has this minor version of Kubernetes 1, or a later one; pre-releases count."""
    return Condition(
        f'semverCompare ">=1.{minor}.0-0" $.Capabilities.KubeVersion.Version',
        lambda context: context.kubernetes >= minor,
    )


def equals(path: str, word: str) -> Condition:
    return Condition(f'eq $.Values.{path} "{word}"', lambda context: context.at(path) == word)


def join(*parts: str | Expression) -> Expression:
    """One text of several."""
    form = "".join("%v" if isinstance(part, Expression) else part.replace("%", "%%") for part in parts)
    words = " ".join(f"({part.go})" for part in parts if isinstance(part, Expression))
    return Expression(
        f"printf {json.dumps(form)} {words}",
        lambda context: "".join(str(_plain(part, context)) for part in parts),
    )


# values put in


class _Absent:
    """What a condition took away."""


def resolve(node: Node, context: Context) -> JSON:
    """The document for these values."""
    value = _resolve(node, context)
    if isinstance(value, _Absent):
        raise TypeError("nothing is left of the document")
    return value


def _resolve(node: Node, context: Context) -> JSON | _Absent:
    if isinstance(node, When):
        chosen = node.then if node.condition.plain(context) else node.otherwise
        return _Absent() if chosen is None else _resolve(chosen, context)
    if isinstance(node, Expression):
        value = node.plain(context)
        return _Absent() if node.kind is Kind.BLOCK and not value else value
    if isinstance(node, Each):
        values = context.at(node.path)
        items = values if isinstance(values, list) else []
        return [resolve(node.item, replace(context, item=item)) for item in items] or _Absent()
    if isinstance(node, Mapping):
        return _mapping(node, context)
    if isinstance(node, Sequence) and not isinstance(node, str):
        return [item for child in node for item in _items(child, context)]
    return node


def _mapping(node: Mapping[str, Node], context: Context) -> dict[str, JSON]:
    found: dict[str, JSON] = {}
    for key, child in node.items():
        value = _resolve(child, context)
        if isinstance(value, _Absent):
            continue
        pairs = value if key == MERGED and isinstance(value, dict) else {key: value}
        if found.keys() & pairs.keys():
            raise TypeError(f"twice in a mapping: {sorted(found.keys() & pairs.keys())}")
        found |= pairs
    return found


def _items(node: Node, context: Context) -> list[JSON]:
    value = _resolve(node, context)
    if isinstance(value, _Absent):
        return []
    return value if _is_block(node) and isinstance(value, list) else [value]


def _plain(part: str | Expression, context: Context) -> JSON:
    return part.plain(context) if isinstance(part, Expression) else part


def documents(items: Sequence[Document], values: Mapping[str, JSON], kubernetes: int = NEWEST) -> list[dict[str, JSON]]:
    """Every object for these values, and for this minor version of Kubernetes 1."""
    context = Context(values, kubernetes=kubernetes)
    return [body for document in items for body in _bodies(document, context)]


def _bodies(document: Document, context: Context) -> Iterator[dict[str, JSON]]:
    if document.condition is not None and not document.condition.plain(context):
        return
    items = context.at(document.each) if document.each else [None]
    for item in items if isinstance(items, list) else []:
        body = resolve(document.body, replace(context, item=item))
        if isinstance(body, dict):
            yield body


# as text


def template(items: Sequence[Document]) -> str:
    """The file for Helm."""
    return "".join(_in_context(document) for document in items)


def text(bodies: Sequence[Mapping[str, JSON]]) -> str:
    """The file for kubectl and kustomize."""
    return "---\n".join("\n".join(_lines(body)) + "\n" for body in bodies)


def _in_context(document: Document) -> str:
    lines = ["---", *_lines(document.body)]
    if document.each:
        lines = [f"{{{{- range $item := $.Values.{document.each} }}}}", *lines, "{{- end }}"]
    if document.condition is not None:
        lines = [f"{{{{- if {document.condition.go} }}}}", *lines, "{{- end }}"]
    return "\n".join(_placed(line) for line in lines) + "\n"


def _placed(line: str) -> str:
    """A block is written with the indentation of its own line."""
    return line.replace("INDENT", str(line.index("{"))) if line.endswith(_BLOCK) else line


def _lines(node: Nested) -> list[str]:
    """Neighbours under the same condition share its lines."""
    found: list[str] = []
    before: Node = None
    for child, write in _children(node):
        lines = _conditional(child, write)
        if isinstance(child, When) and isinstance(before, When) and _is_same_condition(before, child):
            found.pop()
            lines = lines[1:]
        found += lines
        before = child
    return found


def _children(node: Nested) -> list[tuple[Node, Callable[[Node], list[str]]]]:
    if isinstance(node, Mapping):
        return [(child, partial(_pair, key)) for key, child in node.items()]
    return [(child, _item) for child in node]


def _is_same_condition(one: When, other: When) -> bool:
    return one.condition.go == other.condition.go and one.otherwise is None and other.otherwise is None


def _conditional(node: Node, write: Callable[[Node], list[str]]) -> list[str]:
    """``write`` of the node, between the lines of its condition."""
    if _is_block(node):
        return [f"{{{{- with {node.go} }}}}", *write(node), "{{- end }}"]
    if isinstance(node, Each):
        return [f"{{{{- with $.Values.{node.path} }}}}", *write(node), "{{- end }}"]
    if not isinstance(node, When):
        return write(node)
    lines = [f"{{{{- if {node.condition.go} }}}}", *_conditional(node.then, write)]
    if node.otherwise is not None:
        lines += ["{{- else }}", *_conditional(node.otherwise, write)]
    return [*lines, "{{- end }}"]


def _pair(key: str, node: Node) -> list[str]:
    if key == MERGED:
        return [_BLOCK]
    name = _text(key)
    if _is_block(node):
        return [f"{name}:", f"  {_BLOCK}"]
    if isinstance(node, Each):
        return [f"{name}:", "  {{- range $item := . }}", *_indented(_item(node.item)), "  {{- end }}"]
    if _is_nested(node):
        return [f"{name}:", *_indented(_lines(node))]
    return [f"{name}: {_scalar(node)}"]


def _item(node: Node) -> list[str]:
    if _is_block(node):
        return [_BLOCK]
    if not _is_nested(node):
        return [f"- {_scalar(node)}"]
    first, *rest = _lines(node)
    if first.startswith("{{"):
        raise TypeError("the first key of a list's item must not depend on a condition")
    return [f"- {first}", *_indented(rest)]


def _is_block(node: Node) -> TypeGuard[Expression]:
    return isinstance(node, Expression) and node.kind is Kind.BLOCK


def _is_nested(node: Node) -> TypeGuard[Nested]:
    """A mapping or list with something in it."""
    return isinstance(node, Mapping | Sequence) and not isinstance(node, str) and bool(node)


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _scalar(node: Node) -> str:
    if isinstance(node, Expression):
        quote = " | quote" if node.kind is Kind.TEXT else ""
        return f"{{{{ {node.go}{quote} }}}}"
    if isinstance(node, str):
        return _text(node)
    return json.dumps(node)


def _text(word: str) -> str:
    return word if _PLAIN.fullmatch(word) and word.lower() not in _WORDS_OF_YAML else json.dumps(word)
