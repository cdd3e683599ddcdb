"""``values.schema.json``: what Helm refuses before it renders anything.

Made from ``values.yaml``: each key is there with the type of its default, and no other key is. What a default does not
say (an enumeration, what an empty list may have in it) is in ``TOLD``; a default that says nothing, and is not there
either, does not render.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping

from imagecache.api.yamltext import JSON
from imagecache.settings.choices import InodeNumbers, LogFormat, LogLevel, Mode, MountFrom, Repair, StoreCompression
from tools.install import agent, controller
from tools.install import pod_schema as pods
from tools.install.pod_schema import FLAG, TEXT, TEXTS, Schema, items, mapping, needs, some, words
from tools.install.pods import labels
from tools.install.template import Node

_DRAFT = "http://json-schema.org/draft-07/schema#"
"""The one that editors and older versions of Helm know too."""
_BY_TYPE: Mapping[type, Schema] = {bool: FLAG, int: {"type": "integer", "minimum": 0}, str: TEXT}
_ABSOLUTE: Schema = {"type": "string", "pattern": "^/"}
_DIRECTORY = "(/[.]?[A-Za-z0-9_-][A-Za-z0-9._-]*)+"
"""Neither the root nor a way up."""
_KERNELS: Schema = {"not": {"pattern": "^/(dev|proc|sys)(/|$)"}}
_NAME: Schema = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"}
_NAMESPACE: Schema = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}
_NAME_OR_NONE: Schema = {"type": "string", "pattern": "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$"}
_SIZE: Schema = {
    "type": "string",
    "pattern": "^([0-9]*[1-9][0-9]*([.][0-9]+)?|0+[.][0-9]*[1-9][0-9]*)([KMGTPE]i|[kMGTPE])$",
}
"""More than nothing, with a unit: ``100`` would be a hundred bytes."""
_SECONDS: Schema = {"type": "integer", "minimum": 1}
"""Of a limit that must be one."""
_ISSUER: Schema = {
    "anyOf": [{**some(), "maxProperties": 0}, needs(some("kind", "group", name={**TEXT, "minLength": 1}), "name")]
}
_REGISTRY: Schema = {
    "anyOf": [
        {
            "type": "string",
            "pattern": r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)(:[0-9]{1,5})?$",
        },
        {"type": "string", "pattern": "^[0-9a-fA-F:.]+/[0-9]{1,3}$"},
    ]
}
"""``host[:port]``, or a network in CIDR form."""
_PULL_SECRET: Schema = {"anyOf": [_NAME, needs(some(name=_NAME), "name")]}


def _listed(values: type[enum.Enum], *without: enum.Enum) -> Schema:
    return words(*(str(member.value) for member in values if member not in without))


def _component(name: str, settings: list[Node]) -> dict[str, Schema]:
    """What controller and agent have both, by path. ``settings``: what the chart sets of the program's own."""
    always = [str(each["name"]) for each in settings if isinstance(each, dict)]
    found = {
        "resources": pods.RESOURCES,
        "nodeSelector": pods.NODE_SELECTOR,
        "tolerations": pods.TOLERATIONS,
        "affinity": pods.AFFINITY,
        "podLabels": mapping(TEXT, without=[*labels(name)]),
        "podAnnotations": mapping(TEXT),
        "podSecurityContext": pods.POD_SECURITY,
        "securityContext": pods.CONTAINER_SECURITY,
        "extraEnv": pods.environment(always),
        "extraVolumes": pods.VOLUMES,
        "extraVolumeMounts": pods.MOUNTS,
    }
    return {f"{name}.{key}": schema for key, schema in found.items()}


TOLD: Mapping[str, Schema] = {
    "image.repository": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._:/-]*$"},
    "image.tag": {"type": "string", "pattern": "^([A-Za-z0-9_][A-Za-z0-9._-]{0,127})?$"},
    "image.digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
    "image.pullPolicy": words("Always", "IfNotPresent", "Never"),
    "imagePullSecrets": items(_PULL_SECRET),
    "mode": _listed(Mode, Mode.AUTO),
    "inodeNumbers": _listed(InodeNumbers),
    "mountFrom": _listed(MountFrom),
    "logLevel": _listed(LogLevel),
    "logFormat": _listed(LogFormat),
    "containerd.socket": _ABSOLUTE,
    "containerd.config": _ABSOLUTE,
    "containerd.root": {"type": "string", "pattern": f"^{_DIRECTORY}/?$", **_KERNELS},
    "containerd.snapshotter": _NAME,
    # off is false in YAML
    "containerd.alsoUnpack": {"anyOf": [TEXT, TEXTS, {"const": False}]},
    "containerd.repair": _listed(Repair),
    "store.volume.accessMode": words("ReadWriteOnce", "ReadWriteOncePod", "ReadWriteMany"),
    "store.volume.size": _SIZE,
    "store.volume.existingClaim": _NAME_OR_NONE,
    "store.volume.storageClassName": _NAME_OR_NONE,
    "store.nodePath": {"type": "string", "pattern": f"^{_DIRECTORY}/?$", **_KERNELS},
    "store.compression": _listed(StoreCompression),
    "store.sharedHostPath": {"type": "string", "pattern": f"^({_DIRECTORY}/?)?$", **_KERNELS},
    "store.sharedLeasesPath": {"type": "string", "pattern": f"^({_DIRECTORY}/?)?$", **_KERNELS},
    "pullSecretNamespaces": {**items(_NAMESPACE), "uniqueItems": True},
    "pullSecretNames": items(_NAME),
    "insecureRegistries": items(_REGISTRY),
    "authors.pullSecrets": words("readable", "labelled", "any"),
    "tls.existingSecret": _NAME_OR_NONE,
    "tls.certManagerIssuer": _ISSUER,
    "controller.builds": {"type": "integer", "minimum": 1},
    "controller.proxySecret": _NAME_OR_NONE,
    "controller.hosts.configMap": _NAME_OR_NONE,
    "controller.caBundle.configMap": _NAME_OR_NONE,
    "controller.caBundle.key": {"type": "string", "pattern": "^[.]?[A-Za-z0-9_-][A-Za-z0-9._-]*$"},
    "controller.registry.connectTimeoutSeconds": _SECONDS,
    "controller.registry.readTimeoutSeconds": _SECONDS,
    "controller.storeReserve": {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
    **_component("controller", controller.settings()),
    "controller.topologySpreadConstraints": pods.TOPOLOGY_SPREAD,
    **_component("agent", agent.settings()),
    "agent.hostDirectory": {"type": "string", "pattern": f"^{_DIRECTORY}$"},
    "agent.reserve": {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
    "agent.allowPrivateNames": TEXTS,
    "agent.reservedNames": TEXTS,
    "metrics.serviceMonitor.labels": mapping(TEXT, without=[*labels("")]),
    "metrics.serviceMonitor.interval": {"type": "string", "pattern": "^([0-9]+(ms|s|m|h))*$"},
    "metrics.hostAddress": {"type": "string", "pattern": "^(.*:[0-9]+)?$"},
}


def schema(values: Mapping[str, JSON]) -> Schema:
    """For these defaults. Raises TypeError when a default says nothing of what may be there, and nothing else does."""
    whole = _object(values, "")
    properties = whole["properties"]
    if not isinstance(properties, dict):
        raise TypeError("values are a mapping")
    # what a chart that has this one among its dependencies gives it: its own values for all, and its condition
    properties |= {"global": {"type": "object"}, "enabled": FLAG}
    return {"$schema": _DRAFT, "title": "Values of the chart imagecache", **whole}


def text(values: Mapping[str, JSON], made_by: str) -> str:
    """The file."""
    return json.dumps({"$comment": made_by, **schema(values)}, indent=2) + "\n"


def _object(values: Mapping[str, JSON], path: str) -> Schema:
    properties: Schema = {}
    required: list[JSON] = []
    for key, value in values.items():
        below = f"{path}.{key}".lstrip(".")
        properties[key] = _of(value, below)
        # what is a list or a mapping of a pod may be taken away (null); a template cannot do without the others
        if not isinstance(value, list) and not (isinstance(value, dict) and below in TOLD):
            required.append(key)
    return {"type": "object", "additionalProperties": False, "required": required, "properties": properties}


def _of(value: JSON, path: str) -> Schema:
    if path in TOLD:
        return TOLD[path]
    if isinstance(value, dict) and value:
        return _object(value, path)
    for kind, found in _BY_TYPE.items():
        if type(value) is kind:
            return found
    raise TypeError(f"{path}: tools/install/schema.py must say what may be there")
