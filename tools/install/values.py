"""The chart's values, and what is named after them. ``charts/imagecache/values.yaml`` is read, never written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from imagecache import __version__
from imagecache.api import yamltext
from imagecache.api.yamltext import JSON
from tools.install.template import Context, Expression, Kind, equals, given, join, since

CHART = Path(__file__).resolve().parents[2] / "charts" / "imagecache"


def defaults() -> dict[str, JSON]:
    path = CHART / "values.yaml"
    (document,) = yamltext.load(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(document.value, dict):
        raise TypeError(f"{path} is not a mapping")
    return document.value


def merged(below: Mapping[str, JSON], above: Mapping[str, JSON]) -> dict[str, JSON]:
    """Values as Helm lays those of a user over the chart's own: null takes one away."""
    result = dict(below)
    for key, value in above.items():
        found = result.get(key)
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(found, value) if isinstance(found, dict) and isinstance(value, dict) else value
    return result


_DEFAULTS = Context(defaults())


def value(path: str) -> Expression:
    """One value, written as its default's type asks. Raises KeyError."""
    default = _DEFAULTS.at(path)
    go, kind = f"$.Values.{path}", Kind.TEXT
    if isinstance(default, dict | list):
        kind = Kind.BLOCK
    elif isinstance(default, bool):
        kind = Kind.BARE
    elif isinstance(default, int):
        go, kind = f"int64 $.Values.{path}", Kind.BARE  # Helm reads numbers as floats
    return Expression(go, lambda context: context.at(path), kind)


def number_as_text(path: str) -> Expression:
    """A whole number for an environment variable."""
    return Expression(f"int64 $.Values.{path} | toString", lambda context: str(context.at(path)))


def flag_as_text(path: str) -> Expression:
    """``true`` or ``false`` for an environment variable."""
    return Expression(f"$.Values.{path} | toString", lambda context: "true" if context.at(path) else "false")


def decimal_as_text(path: str) -> Expression:
    """A number that may have a fraction, for an environment variable."""
    return Expression(f"$.Values.{path} | toString", lambda context: str(context.at(path)))


def listed(path: str, nothing: str) -> Expression:
    """A list, or one text, with commas between; ``nothing`` for an empty one, and for YAML's ``off``, that is false."""

    def plain(context: Context) -> JSON:
        value = context.at(path) or nothing
        return ",".join(map(str, value)) if isinstance(value, list) else str(value)

    return Expression(f'join "," ($.Values.{path} | default {json.dumps(nothing)})', plain)


def directory_of(path: str) -> Expression:
    """The directory of the file that a value names."""
    return Expression(f"dir $.Values.{path}", lambda context: str(Path(str(context.at(path))).parent))


LEASES = "agents"
"""Directory in a shared store."""
NAMESPACE = Expression("$.Release.Namespace", lambda _context: "imagecache-system")
SERVED = ~given("store.sharedHostPath")
"""The controller serves the store; else controller and nodes share a directory."""
SHARED_VOLUME = equals("store.volume.accessMode", "ReadWriteMany") | ~SERVED
"""More than one controller can have the store."""
PROXY = equals("mode", "proxy")
NATIVE = equals("mode", "native")
PREPULL = equals("mode", "prepull")
NODE_STORE = Expression(
    "$.Values.store.sharedHostPath | default $.Values.store.nodePath",
    lambda context: context.at("store.sharedHostPath") or context.at("store.nodePath"),
)
"""The store's directory on a node."""
OWN_LEASES = given("store.sharedLeasesPath") & ~SERVED
"""What nodes write is not below the store that they share."""
NODE_LEASES = Expression(
    f'$.Values.store.sharedLeasesPath | default (printf "%v/{LEASES}" $.Values.store.sharedHostPath)',
    lambda context: context.at("store.sharedLeasesPath") or f"{context.at('store.sharedHostPath')}/{LEASES}",
)
"""The directory on a node that shares the store, in which it writes."""
IMAGE = join(
    value("image.repository"),
    ":",
    Expression(
        "$.Values.image.tag | default $.Chart.AppVersion", lambda context: context.at("image.tag") or __version__
    ),
    Expression(
        'empty $.Values.image.digest | ternary "" (printf "@%v" $.Values.image.digest)',
        lambda context: f"@{context.at('image.digest')}" if context.at("image.digest") else "",
    ),
)
PULL_SECRET = Expression(
    '(ternary (dict "name" $item) $item (kindIs "string" $item)).name',
    lambda context: context.item["name"] if isinstance(context.item, dict) else context.item,
)
"""The name in an item of ``imagePullSecrets``: the item itself, or what is in it, as in a pod."""
TLS_SECRET = Expression(
    '$.Values.tls.existingSecret | default "imagecache-store-tls"',
    lambda context: context.at("tls.existingSecret") or "imagecache-store-tls",
)
FENCED = since(30)
"""The API server has ValidatingAdmissionPolicy, and says in a token's review on which node it is used."""
_FENCED_OR_NOT = FENCED | given("pods.unfenced")
PODS = given("pods.enabled") & _FENCED_OR_NOT
"""The controller may change pods."""
GATED = PODS & since(36)
"""Pods that pin a cache get their gate from a MutatingAdmissionPolicy."""
HELD_OR_REFUSED = PODS & (since(36) | (FENCED & given("pods.refuse")))
"""A pod that pins a cache and has no gate is refused."""
POD_EVENTS = given("pods.events") & _FENCED_OR_NOT
"""Agents may write events on pods."""
