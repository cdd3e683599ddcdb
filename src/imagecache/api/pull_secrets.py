"""The payload of a Secret document that ``imagePullSecrets`` names.

No value of a secret may reach an error, a log or an object. It must not know where Secrets are read from, or what the
credentials are for.
"""

from __future__ import annotations

import base64
import binascii

import msgspec

from imagecache import foreign_json
from imagecache.api.yamltext import JSON
from imagecache.errors import InvalidInput

_LONGEST = 4 << 20
"""Bytes of a payload, when a file has it: API servers take 1 MiB."""
CONFIG_KIND = "kubernetes.io/dockerconfigjson"
_KEYS = {CONFIG_KIND: ".dockerconfigjson", "kubernetes.io/dockercfg": ".dockercfg"}
"""Secret type to the key that holds the payload (core/v1 SecretType)."""


class PullSecret(msgspec.Struct, frozen=True):
    """What a build proves itself with to registries."""

    name: str
    """``namespace:name``."""
    config: bytes
    """The text of a docker ``config.json``. Never to be logged."""

    def __repr__(self) -> str:
        return f"PullSecret({self.name})"


def pull_secret(name: str, document: JSON, source: str = "") -> PullSecret:
    """The payload of the Secret document ``name``; messages start with ``source``. Raises InvalidInput."""
    secret = document if isinstance(document, dict) else {}
    kind = secret.get("type")
    key = _KEYS.get(kind) if isinstance(kind, str) else None
    if key is None:
        raise InvalidInput(
            f"{source}imagePullSecret {name} is no pull secret: its type is none of {', '.join(_KEYS)}",
            hint="write the right type into its file; in a cluster a type cannot be changed: delete it, and create it "
            "with kubectl create secret docker-registry",
        )
    config = _decoded(secret, key)
    if config is None:
        raise InvalidInput(
            f"{source}imagePullSecret {name} has no valid {key}",
            hint="create it with kubectl create secret docker-registry",
        )
    # .dockercfg is the older form: what .dockerconfigjson has below "auths"
    return PullSecret(name, config if kind == CONFIG_KIND else b'{"auths":' + config + b"}")


def _decoded(secret: dict[str, JSON], key: str) -> bytes | None:
    """The JSON text of a key in ``stringData`` or (base64) ``data``; None when it is missing or not a JSON object."""
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
    return text if len(text) <= _LONGEST and foreign_json.is_object(text) else None
