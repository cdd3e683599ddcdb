"""imagePullSecrets without Kubernetes: a directory of Secret manifests.

What ``kubectl get secret -n NAMESPACE NAME -o yaml`` prints may lie there, any number in each ``.yaml``, ``.yml`` or
``.json`` file. No value of a secret may reach an error, a log or an object. It must not know what
credentials are for.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from imagecache.api import yamltext
from imagecache.api.yamltext import JSON, Document
from imagecache.errors import InvalidInput, NotFound
from imagecache.oserrors import converting

_SUFFIXES = frozenset({".yaml", ".yml", ".json"})
_CONFIG_KIND = "kubernetes.io/dockerconfigjson"
_KEYS = {_CONFIG_KIND: ".dockerconfigjson", "kubernetes.io/dockercfg": ".dockercfg"}
"""Secret type to the key that holds the payload (core/v1 SecretType)."""


@dataclass(frozen=True, slots=True, repr=False)
class PullSecret:
    name: str
    """``namespace:name``."""
    config: bytes
    """The text of a docker ``config.json``. Never to be logged."""


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
        secret = document.value if isinstance(document.value, dict) else {}
        kind = secret.get("type")
        key = _KEYS.get(kind) if isinstance(kind, str) else None
        if key is None:
            raise InvalidInput(
                f"{document.source}: imagePullSecret {name} has no pull secret's type", hint=f"expected {_CONFIG_KIND}"
            )
        config = _decoded(secret, key)
        if config is None:
            raise InvalidInput(
                f"{document.source}: imagePullSecret {name} has no usable {key}",
                hint="make it with kubectl create secret docker-registry",
            )
        return PullSecret(name, config if kind == _CONFIG_KIND else b'{"auths":' + config + b"}")


def _name(value: JSON) -> str:
    """``namespace:name`` of a Secret document; empty for anything else."""
    if not isinstance(value, dict) or value.get("kind") != "Secret":
        return ""
    metadata = value.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        return ""
    return f"{metadata.get('namespace') or 'default'}:{metadata['name']}"


def _decoded(secret: dict[str, JSON], key: str) -> bytes | None:
    """The JSON text under a key of ``stringData`` or, base64, ``data``; None when it is not there or no JSON object."""
    plain, coded = secret.get("stringData"), secret.get("data")
    if isinstance(plain, dict) and isinstance(plain.get(key), str):
        text = str(plain[key]).encode()
    elif isinstance(coded, dict) and isinstance(coded.get(key), str):
        try:
            text = base64.b64decode(str(coded[key]))
        except binascii.Error:
            return None
    else:
        return None
    return text if _is_object(text) else None


def _is_object(text: bytes) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
