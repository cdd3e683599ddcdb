"""Secrets without Kubernetes: a directory of Secret manifests.

What ``kubectl get secret -n NAMESPACE NAME -o yaml`` prints may lie there, any number in each ``.yaml``, ``.yml`` or
``.json`` file. No value of a Secret may reach an error or a log. It must not know what Secrets are for.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from imagecache import foreign_json
from imagecache.api import yamltext
from imagecache.errors import ObjectNotFound
from imagecache.file_version import file_version
from imagecache.kube import objects
from imagecache.kube.api import Object
from imagecache.oserrors import converting

_SUFFIXES = frozenset({".yaml", ".yml", ".json"})


class SecretDirectory:
    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def get(self, name: str, namespace: str) -> Object:
        """The last one of that name; ``selfLink`` is its file, ``resourceVersion`` that file's version.

        Raises ObjectNotFound, InvalidManifest, StoreError.
        """
        found: Object | None = None
        for item in self._secrets():
            if (objects.name(item), objects.namespace(item) or "default") == (name, namespace):
                found = item
        if found is None:
            raise ObjectNotFound(
                f"{namespace}:{name} is not in {self._directory}",
                hint=f"save it there, for example with kubectl get secret -n {namespace} {name} -o yaml",
            )
        return found

    def _secrets(self) -> Iterator[Object]:
        for path in self._files():
            with converting(path):
                # before the text: one that is changed in between has another version the next time
                version, text = file_version(path), path.read_text(encoding="utf-8", errors="replace")
            for document in yamltext.load(text, str(path)):
                secret = foreign_json.whole(document.value)
                if (
                    isinstance(secret, dict)
                    and secret.get("kind") == "Secret"
                    and objects.at(secret, "metadata", "name")
                ):
                    metadata: Object = {"selfLink": document.source, "resourceVersion": repr(version)}
                    objects.metadata(secret).update(metadata)
                    yield secret

    def _files(self) -> list[Path]:
        with converting(self._directory):
            if not self._directory.is_dir():
                return []
            return sorted(path for path in self._directory.iterdir() if path.suffix in _SUFFIXES)
