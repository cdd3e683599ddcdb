"""imagePullSecrets without Kubernetes: a directory of Secret manifests.

What ``kubectl get secret -n NAMESPACE NAME -o yaml`` prints may lie there, any number in each ``.yaml``, ``.yml`` or
``.json`` file. No value of a secret may reach an error, a log or an object. It must not know what
credentials are for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from imagecache.api import yamltext
from imagecache.api.pull_secrets import PullSecret, pull_secret
from imagecache.api.yamltext import JSON, Document
from imagecache.errors import NotFound
from imagecache.oserrors import converting

_SUFFIXES = frozenset({".yaml", ".yml", ".json"})


class SecretDirectory:
    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load(self, names: Iterable[str]) -> tuple[PullSecret, ...]:
        """The named secrets, in that order. Raises NotFound, InvalidInput, StoreDenied, StoreError."""
        wanted = tuple(names)
        if not wanted:
            return ()
        found = {name: secret for name, secret in self._secrets() if name in wanted}
        return tuple(self._payload(name, found) for name in wanted)

    def _secrets(self) -> Iterator[tuple[str, Document]]:
        for path in self._files():
            with converting(path):
                text = path.read_text(encoding="utf-8", errors="replace")
            for document in yamltext.load(text, str(path)):
                name = _name(document.value)
                if name:
                    yield name, document

    def _files(self) -> list[Path]:
        with converting(self._directory):
            if not self._directory.is_dir():
                return []
            return sorted(path for path in self._directory.iterdir() if path.suffix in _SUFFIXES)

    def _payload(self, name: str, found: dict[str, Document]) -> PullSecret:
        if name not in found:
            namespace, _, short = name.partition(":")
            raise NotFound(
                f"imagePullSecret {name} is not in {self._directory}",
                hint=f"save it there, for example with kubectl get secret -n {namespace} {short} -o yaml",
            )
        document = found[name]
        return pull_secret(name, document.value, f"{document.source}: ")


def _name(value: JSON) -> str:
    """``namespace:name`` of a Secret document; empty for anything else."""
    if not isinstance(value, dict) or value.get("kind") != "Secret":
        return ""
    metadata = value.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        return ""
    return f"{metadata.get('namespace') or 'default'}:{metadata['name']}"
