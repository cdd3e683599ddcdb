"""What is said around pods: labels and annotations of Namespaces, the rules of eci-profile, the cluster's default.

Of a Namespace its labels and our keys are kept, and nothing else. The ConfigMap is followed by its name: no role lets
us see another. It must not know what a key means.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress

import msgspec

from imagecache.controller.pods.bare import BARE, Bare
from imagecache.kube.api import ClusterKube
from imagecache.kube.resources import CONFIG_MAPS, NAMESPACES
from imagecache.kube.stream import Gone, ListBegun, ListEnded, News, Seen, Stream, pages
from imagecache.match import selectors
from imagecache.match.keys import CREATE, KEYS
from imagecache.match.pod import Metadata
from imagecache.match.views import Defaults, Rule
from imagecache.telemetry.log import get_logger

_PATIENCE = 5.0
"""Seconds that pods wait for the ConfigMap at the start: who may not read it has pods all the same."""
_log = get_logger(__name__)


class _ConfigMap(msgspec.Struct, frozen=True, gc=False):
    metadata: Metadata = Metadata()
    data: dict[str, str] | None = None

    @property
    def resource_version(self) -> str:
        return self.metadata.resource_version


_config_map = msgspec.json.Decoder(_ConfigMap)


class DefaultsWatcher:
    """``changed`` is called with the name of a Namespace whose defaults are others now; empty: of all of them."""

    def __init__(
        self,
        kube: ClusterKube,
        changed: Callable[[str], None],
        *,
        auto_create: bool,
        patience: float = _PATIENCE,
    ) -> None:
        self._kube = kube
        self._patience = patience
        self._namespaces = Stream(kube, NAMESPACES, BARE)
        name = f"metadata.name={selectors.CONFIG_MAP}"
        self._profile = Stream(kube, CONFIG_MAPS, _config_map, namespace=selectors.NAMESPACE, fields=name)
        self._changed = changed
        self._cluster: Mapping[str, str] = {CREATE: "true"} if auto_create else {}
        self._known: dict[str, Defaults] = {}
        """By Namespace."""
        self._rules: tuple[Rule, ...] = ()
        self._listed: set[str] = set()
        """Namespaces that the list in progress has reported."""

    def of(self, namespace: str) -> Defaults:
        return self._known.get(namespace) or Defaults(rules=self._rules, cluster=self._cluster)

    async def read(self, namespace: str) -> Defaults:
        """As the API server has them now: the watch may be behind. Raises KubernetesError."""
        found = None
        async for page in pages(self._kube, NAMESPACES, BARE, fields=f"metadata.name={namespace}"):
            found = next((item.metadata for item in page.objects), found)
        self._put(namespace, found)
        return self.of(namespace)

    async def ready(self) -> None:
        """Returns when all Namespaces are known, and the ConfigMap is, or cannot be for now."""
        await self._namespaces.synced.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._patience):
                await self._profile.synced.wait()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_namespaces())
            group.create_task(self._follow_profile())

    async def _follow_namespaces(self) -> None:
        async for news in self._namespaces.news():
            self._take_namespace(news)

    def _take_namespace(self, news: News[Bare]) -> None:
        match news:
            case ListBegun():
                self._listed = set()
            case ListEnded():
                for name in self._known.keys() - self._listed:
                    self._put(name, None)
            case Seen(object=item):
                self._listed.add(item.metadata.name)
                self._put(item.metadata.name, item.metadata)
            case Gone(object=item):
                self._put(item.metadata.name, None)

    def _put(self, name: str, metadata: Metadata | None) -> None:
        if metadata is None:
            self._known.pop(name, None)
            return
        annotations = {key: text for key, text in (metadata.annotations or {}).items() if key in KEYS}
        defaults = Defaults(annotations, metadata.labels or {}, self._rules, self._cluster)
        if self._known.get(name) != defaults:
            self._known[name] = defaults
            self._changed(name)

    async def _follow_profile(self) -> None:
        found = False
        async for news in self._profile.news():
            match news:
                case ListBegun():
                    found = False
                case ListEnded() if not found:
                    self._set_rules("")
                case Seen(object=item):
                    found = True
                    self._set_rules((item.data or {}).get(selectors.KEY, ""))
                case Gone():
                    self._set_rules("")

    def _set_rules(self, text: str) -> None:
        rules, notes = selectors.parse(text)
        for note in notes:
            _log.warning("eci-profile", note=note)
        if rules == self._rules:
            return
        self._rules = rules
        self._known = {
            name: Defaults(each.namespace_annotations, each.namespace_labels, rules, self._cluster)
            for name, each in self._known.items()
        }
        self._changed("")
