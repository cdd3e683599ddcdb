"""Parse and validate ImageCache manifests.

What either published schema accepts is accepted; anything else is refused with the path of the field and its line.
Fields that the server sets (status, uid, times) are dropped and unknown ones noted, as the Kubernetes API does. Limits
and defaults are in ``effective_spec``. It must not read files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NoReturn, TypeGuard

import msgspec

from imagecache.api import yamltext
from imagecache.api.own_status import own
from imagecache.api.types import API_VERSION, KIND, ImageCache, Metadata, Spec, Status
from imagecache.api.yamltext import JSON, Document, Path
from imagecache.errors import InvalidManifest
from imagecache.written import trimmed

_EXAMPLE = f"expected apiVersion: {API_VERSION}, kind: {KIND}, metadata.name and spec.images"
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
NAME_LENGTH = 253
_SPEC_FIELDS = frozenset(info.encode_name for info in msgspec.structs.fields(Spec))
_TOP_FIELDS = frozenset({"apiVersion", "kind", "metadata", "spec", "status"})
_LISTS = frozenset({("v1", "List"), (API_VERSION, f"{KIND}List")})
_AT = re.compile(r"(?P<message>.*?)(?: - at `(?:key in )?\$(?P<path>[^`]*)`)?", re.DOTALL)
_PART = re.compile(r"\.(?P<name>[A-Za-z_]+)|\[(?P<index>\d+)\]")
_MISSING = re.compile(r"Object missing required field `(?P<name>[^`]+)`")
_WORDS = {
    "`str`": "text",
    "`int`": "a whole number",
    "`int | null`": "a whole number",
    "`array`": "a list",
    "`object`": "a mapping",
}
_WORDS |= {"`float`": "a number", "`bool`": "true or false", "`null`": "nothing"}


@dataclass(frozen=True, slots=True)
class Parsed:
    cache: ImageCache
    notes: tuple[str, ...] = field(default=())
    """What was ignored, for people."""


def parse(text: str, source: str = "") -> tuple[Parsed, ...]:
    """Every ImageCache of the text, at least one. ``source`` names the file in messages. Raises InvalidManifest."""
    documents = [item for document in yamltext.load(text, source) for item in _flatten(document)]
    if not documents:
        raise InvalidManifest(f"{yamltext.place(source, 0)}contains no ImageCache", hint=_EXAMPLE)
    found = tuple(_parse(document) for document in documents)
    # kubectl applies one after the other, so that the last wins; here two of one name are a mistake
    seen: set[str] = set()
    for document, parsed in zip(documents, found, strict=True):
        if parsed.cache.name in seen:
            document.fail(("metadata", "name"), f"{parsed.cache.name} is repeated")
        seen.add(parsed.cache.name)
    return found


@dataclass(frozen=True, slots=True)
class Stored:
    """An object of the API server, as far as we can read it."""

    cache: ImageCache
    problem: InvalidManifest | None = None
    """What is wrong with the spec; then ``cache.spec`` has no images."""
    notes: tuple[str, ...] = ()


def stored(value: JSON) -> Stored:
    """Read an object of an API server, with uid, versions and status. Raises InvalidManifest when it is no object."""
    document = Document(value, "")
    clean = _without_nulls(value)
    if not _is_mapping(clean):
        document.fail((), "not an ImageCache: expected a mapping")
    notes: list[str] = []
    metadata = _server_metadata(clean.get("metadata"), _metadata(document, clean.get("metadata"), notes))
    problem, spec = None, Spec(images=())
    try:
        notes.extend(f"{name}: unknown field, ignored" for name in clean if name not in _TOP_FIELDS)
        spec = _spec(document, clean.get("spec"), notes)
    except InvalidManifest as error:
        problem = error
    status = _status(clean.get("status"), metadata.uid)
    cache = ImageCache(api_version=API_VERSION, kind=KIND, metadata=metadata, spec=spec, status=status)
    return Stored(cache, problem, tuple(notes))


def _server_metadata(value: JSON, metadata: Metadata) -> Metadata:
    server = msgspec.convert(value, Metadata)
    return msgspec.structs.replace(server, annotations=metadata.annotations, labels=metadata.labels)


def _status(value: JSON, uid: str) -> Status | None:
    """The status if we wrote it for this object; None for any other."""
    try:
        return own(msgspec.convert(value, Status | None), uid)
    except msgspec.ValidationError:
        return None


def is_name(text: str) -> bool:
    """Whether it is a valid object name (RFC 1123 subdomain)."""
    return len(text) <= NAME_LENGTH and _SUBDOMAIN.fullmatch(text) is not None


def _flatten(document: Document) -> list[Document]:
    """The items of a list object; a list of one for any other document."""
    value = document.value
    if not _is_mapping(value) or (value.get("apiVersion"), value.get("kind")) not in _LISTS:
        return [document]
    items = value.get("items")
    if not isinstance(items, list):
        document.fail(("items",), "expected a list")
    prefix = len(("items", 0))
    return [
        Document(
            item,
            document.source,
            {path[prefix:]: line for path, line in document.lines.items() if path[:prefix] == ("items", index)},
        )
        for index, item in enumerate(items)
    ]


def _is_mapping(value: JSON) -> TypeGuard[dict[str, JSON]]:
    return isinstance(value, dict)


def _parse(document: Document) -> Parsed:
    value = _without_nulls(document.value)
    if not _is_mapping(value):
        document.fail((), "not an ImageCache: expected a mapping", _EXAMPLE)
    _expect(document, value, "apiVersion", API_VERSION)
    _expect(document, value, "kind", KIND)
    notes = [f"{name}: unknown field, ignored" for name in value if name not in _TOP_FIELDS]
    metadata = _metadata(document, value.get("metadata"), notes)
    if "spec" not in value:
        document.fail(("spec",), "required", _EXAMPLE)
    spec = _spec(document, value["spec"], notes)
    cache = ImageCache(api_version=API_VERSION, kind=KIND, metadata=metadata, spec=spec)
    return Parsed(cache, tuple(notes))


def _without_nulls(value: JSON) -> JSON:
    """The Kubernetes API treats keys with null as absent."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return value


def _expect(document: Document, value: dict[str, JSON], key: str, wanted: str) -> None:
    if key not in value:
        document.fail((key,), "required", _EXAMPLE)
    if value[key] != wanted:
        document.fail((key,), f"{_shown(value[key])} is not {wanted}", _EXAMPLE)


def _metadata(document: Document, value: JSON, notes: list[str]) -> Metadata:
    if not _is_mapping(value):
        document.fail(("metadata",), "required: a mapping with a name", _EXAMPLE)
    name = value.get("name")
    if name is None:
        document.fail(("metadata", "name"), "required", _EXAMPLE)
    if not isinstance(name, str) or not is_name(name):
        document.fail(
            ("metadata", "name"),
            f"{_shown(name)} is not a valid name",
            f"lowercase letters, digits, '-' and '.', at most {NAME_LENGTH} characters (RFC 1123 subdomain)",
        )
    if "namespace" in value:
        notes.append("metadata.namespace: an ImageCache is cluster-scoped, ignored")
    return Metadata(
        name=name,
        annotations=_texts(document, value, "annotations"),
        labels=_texts(document, value, "labels"),
    )


def _texts(document: Document, metadata: dict[str, JSON], key: str) -> dict[str, str]:
    value = metadata.get(key, {})
    if not _is_mapping(value):
        document.fail(("metadata", key), "expected a mapping of text to text")
    texts = {}
    for name, item in value.items():
        if not isinstance(item, str):
            document.fail(("metadata", key, name), f"expected text, got {_shown(item)}", "put the value in quotes")
        texts[name] = item
    return texts


def _spec(document: Document, value: JSON, notes: list[str]) -> Spec:
    if _is_mapping(value):
        notes.extend(f"spec.{name}: unknown field, ignored" for name in value if name not in _SPEC_FIELDS)
    try:
        spec = msgspec.convert(value, Spec)
    except msgspec.ValidationError as error:
        _explain(document, str(error))
    # here and nowhere later: what is built is compared with what is written
    return msgspec.structs.replace(
        spec,
        images=tuple(map(trimmed, spec.images)),
        image_pull_secrets=tuple(map(trimmed, spec.image_pull_secrets)),
    )


def _explain(document: Document, text: str) -> NoReturn:
    """A message of msgspec in our words, with its line in the file. msgspec has no structured errors."""
    match = _AT.fullmatch(text)
    message, trail = (match["message"], match["path"] or "") if match else (text, "")
    path: Path = ("spec",)
    for part in _PART.finditer(trail):
        path = (*path, part["name"] or int(part["index"]))
    missing = _MISSING.fullmatch(message)
    if missing:
        document.fail((*path, missing["name"]), "required", _EXAMPLE)
    for theirs, ours in _WORDS.items():
        message = message.replace(theirs, ours)
    document.fail(path, message[:1].lower() + message[1:])


def _shown(value: JSON) -> str:
    return repr(value) if isinstance(value, str) else msgspec.json.encode(value).decode()[:80]
