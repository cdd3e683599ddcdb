"""YAML or JSON text to JSON values, with the line of every value.

PyYAML's composer makes nodes with positions; this turns them into the values that the Kubernetes API would get (JSON
types only, timestamps as text, duplicate keys refused), with bounds against alias bombs and deep nesting. It must not
know the ImageCache resource.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NoReturn

import yaml

from imagecache import foreign_json
from imagecache.errors import InvalidManifest

TEXT_SIZE = 1024 * 1024
"""Characters; the Kubernetes API takes no larger object (etcd: 1.5 MiB a request)."""
NODES = 50_000
"""Values in one document, aliases counted each time they are used."""
DEPTH = 64
"""Levels; manifests have some 10, and Python's stack ends at some 1000."""

JSON = None | bool | int | float | str | list["JSON"] | dict[str, "JSON"]
Path = tuple[str | int, ...]

_SCALARS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str"))
_TIMESTAMP = "tag:yaml.org,2002:timestamp"
_NULL = "tag:yaml.org,2002:null"
_MERGE = "tag:yaml.org,2002:merge"


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a file."""

    value: JSON
    source: str
    """File name for messages; may be empty."""
    lines: Mapping[Path, int] = field(default_factory=dict)
    """1-based, by path."""

    def fail(self, path: Path, message: str, hint: str = "") -> NoReturn:
        """Raise InvalidManifest that names file, line and path as far as they are known."""
        where = place(self.source, self.line(path))
        text = render_path(path)
        raise InvalidManifest(f"{where}{text}: {message}" if text else f"{where}{message}", hint=hint)

    def line(self, path: Path) -> int:
        """Line of the value at ``path``, or of the nearest value around it; 0 when unknown."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 0)


def render_path(path: Path) -> str:
    """``spec.images[1]``; keys that are not plain words are in brackets."""
    text = ""
    for part in path:
        if isinstance(part, str) and part.replace("_", "").isalnum():
            text += f".{part}" if text else part
        else:
            text += f"[{part}]"
    return text


def place(source: str, line: int) -> str:
    """``file:line: ``, as far as known."""
    known = [part for part in (source, str(line) if line else "") if part]
    return ":".join(known) + ": " if known else ""


def load(text: str, source: str = "") -> tuple[Document, ...]:
    """Every document that is not empty. JSON is YAML. Raises InvalidManifest."""
    if len(text) > TEXT_SIZE:
        raise InvalidManifest(
            f"{place(source, 0)}longer than {TEXT_SIZE} characters", hint="split it into several files"
        )
    try:
        documents = [_read(node, source) for node in yaml.compose_all(_spaces_for_json(text), Loader=yaml.SafeLoader)]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = place(source, mark.line + 1 if mark else 0)
        raise InvalidManifest(f"{where}not YAML: {error.problem}", hint="check quotes and indentation") from error
    except yaml.YAMLError as error:
        where = place(source, 0)
        raise InvalidManifest(f"{where}not YAML: {_first_line(error)}", hint="expected UTF-8 text") from error
    except RecursionError as error:
        raise InvalidManifest(f"{place(source, 0)}nested deeper than {DEPTH} levels") from error
    return tuple(document for document in documents if document.value is not None)


def _read(node: yaml.Node, source: str) -> Document:
    reader = _Reader(source)
    return Document(reader.value(node, ()), source, reader.lines)


def _spaces_for_json(text: str) -> str:
    """JSON may be indented with tabs, YAML may not. Strings are safe: JSON does not allow a raw tab in one."""
    return text.replace("\t", " ") if text.lstrip().startswith(("{", "[")) else text


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


class _Reader:
    """Nodes of one document to values and lines."""

    def __init__(self, source: str) -> None:
        self._constructor = yaml.constructor.SafeConstructor()
        self._source = source
        self._count = 0
        self.lines: dict[Path, int] = {}

    def value(self, node: yaml.Node, path: Path) -> JSON:
        self._count += 1  # aliases are expanded, so each use counts: ten levels of ten aliases would be 10^10 values
        if self._count > NODES:
            self._fail(node, f"more than {NODES} values")
        if len(path) > DEPTH:
            self._fail(node, f"nested deeper than {DEPTH} levels")
        self.lines[path] = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, JSON]:
        own: dict[str, JSON] = {}
        merged: dict[str, JSON] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                self._merge(value_node, path, merged)
                continue
            key = self._key(key_node, path)
            if key in own:
                self._fail(key_node, f"{render_path((*path, key))}: duplicate key")
            own[key] = self.value(value_node, (*path, key))
            self.lines[*path, key] = key_node.start_mark.line + 1  # a block value starts a line below its key
        return merged | own

    def _merge(self, node: yaml.Node, path: Path, into: dict[str, JSON]) -> None:
        """The merge key ``<<``: earlier mappings win."""
        for source in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            value = self.value(source, path)
            if not isinstance(value, dict):
                self._fail(source, "only a mapping can be merged")
            for key, item in value.items():
                into.setdefault(key, item)

    def _key(self, node: yaml.Node, path: Path) -> str:
        if not isinstance(node, yaml.ScalarNode):
            self._fail(node, f"{render_path(path)}: a key must be text")
        return str(foreign_json.whole(node.value))

    def _scalar(self, node: yaml.Node, path: Path) -> JSON:
        if node.tag == _TIMESTAMP:
            return str(node.value)
        if node.tag not in _SCALARS:
            self._fail(node, f"{render_path(path)}: the tag {node.tag} is not supported")
        value: JSON = None
        with suppress(ValueError):  # its message quotes the value, which may be a secret: it is not even chained
            value = self._constructor.construct_object(node)
        if value is None and node.tag != _NULL:
            self._fail(node, f"{render_path(path)}: value does not match its tag")
        scalar: JSON = foreign_json.whole(value)  # an escape may be half a surrogate pair: as Go reads it
        return scalar

    def _fail(self, node: yaml.Node, message: str) -> NoReturn:
        raise InvalidManifest(f"{place(self._source, node.start_mark.line + 1)}{message.removeprefix(': ')}")
