"""Everything around pods that a match depends on, from documents: of an API server, or of files.

For commands, which look once. The controller follows changes instead. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import msgspec

from imagecache import foreign_json
from imagecache.api import nodes, parse, types
from imagecache.api.nodes import NodeStatus, NodeView, parse_status
from imagecache.api.types import Phase
from imagecache.api.yamltext import JSON
from imagecache.errors import InvalidManifest, MalformedDocument
from imagecache.match import selectors
from imagecache.match.index import Index, Usable, usable, view
from imagecache.match.pod import Metadata
from imagecache.match.views import CacheView, Defaults, Rule

_T = TypeVar("_T")
Object = dict[str, JSON]
Kind = tuple[str, str]
"""Group and kind."""
IMAGE_CACHE: Kind = (types.GROUP, types.KIND)
REPORT: Kind = (nodes.GROUP, nodes.KIND)
NAMESPACE: Kind = ("", "Namespace")
CONFIG_MAP: Kind = ("", "ConfigMap")
KINDS = frozenset({IMAGE_CACHE, REPORT, NAMESPACE, CONFIG_MAP})


class _ConfigMap(msgspec.Struct, frozen=True):
    data: dict[str, str] = {}


class _Namespace(msgspec.Struct, frozen=True):
    metadata: Metadata = Metadata()


@dataclass(frozen=True, slots=True)
class Surroundings:
    index: Index
    reports: Mapping[str, NodeStatus]
    """By name of the node."""
    namespaces: Mapping[str, Metadata]
    rules: tuple[Rule, ...] = ()
    cluster: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """What is ignored, for people."""

    def defaults(self, namespace: str) -> Defaults:
        found = self.namespaces.get(namespace, Metadata())
        return Defaults(found.annotations or {}, found.labels or {}, self.rules, self.cluster)


def kind_of(document: Object) -> Kind:
    """Group and kind of a document; texts that are none are empty."""
    version, kind = document.get("apiVersion"), document.get("kind")
    group = version.rpartition("/")[0] if isinstance(version, str) else ""
    return group, kind if isinstance(kind, str) else ""


def items(document: JSON) -> list[Object]:
    """The objects of a list, each with its kind; a document of its own for any other. What is no object is left out."""
    if not isinstance(document, dict):
        return []
    found, kind = document.get("items"), document.get("kind")
    if not isinstance(found, list) or not isinstance(kind, str) or not kind.endswith("List"):
        return [document]
    # the API server leaves the kind out of the items of a typed list
    own: Object = {"apiVersion": document.get("apiVersion"), "kind": kind.removesuffix("List")}
    return [own | item for item in found if isinstance(item, dict)]


def surroundings(documents: Iterable[Object], cluster: Mapping[str, str]) -> Surroundings:
    """What these documents say; of two about the same the later counts.

    Args:
        documents: of the kinds in ``KINDS``.
        cluster: the cluster's own defaults, as in ``Defaults``.

    Raises:
        InvalidManifest: one is not what its kind says.
    """
    found: dict[Kind, list[Object]] = {kind: [] for kind in KINDS}
    for document in documents:
        found.get(kind_of(document), []).append(document)
    namespaces = [_read(document, _Namespace).metadata for document in found[NAMESPACE]]
    reports = {_read(each, _Namespace).metadata.name: parse_status(each.get("status") or {}) for each in found[REPORT]}
    usable_on = usable(NodeView(name, None, report) for name, report in reports.items())
    rules, notes = _rules(found[CONFIG_MAP])
    caches = {}
    for document in found[IMAGE_CACHE]:
        cache, remarks = _cache(document, usable_on)
        caches[cache.name] = cache
        notes += remarks
    index = Index(caches.values())
    return Surroundings(index, reports, {each.name: each for each in namespaces}, rules, cluster, tuple(notes))


def _rules(config_maps: Iterable[Object]) -> tuple[tuple[Rule, ...], list[str]]:
    rules, notes = tuple[Rule, ...](), tuple[str, ...]()
    for each in config_maps:
        if selectors.is_profile(each):
            rules, notes = selectors.parse(_read(each, _ConfigMap).data.get(selectors.KEY, ""))
    return rules, list(notes)


def _cache(document: Object, usable_on: Usable) -> tuple[CacheView, list[str]]:
    stored = parse.stored(document)
    found, name = view(stored.cache, usable_on), stored.cache.name
    notes = [f"{types.KIND} {name}: {stored.problem}"] if stored.problem else []
    if found.uid or stored.cache.status is not None or stored.problem is not None:
        return found, notes
    # a manifest, whose cache is not there yet: what it is to be is of interest
    taken = replace(found, phase=Phase.READY, id=name)
    return taken, [*notes, f"{types.KIND} {name} has no status: taken as one that is Ready"]


def _read(document: Object, kind: type[_T]) -> _T:
    try:
        return foreign_json.read(document, kind, conflicts=False)
    except MalformedDocument as error:
        raise InvalidManifest(f"{kind_of(document)[1]}: {error}") from error
