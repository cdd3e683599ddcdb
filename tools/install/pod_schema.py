"""JSON Schemas of the parts of a pod that the chart's values may have, so that a misspelled key is refused by Helm.

Source: Kubernetes' core/v1 types (1.37). Values that only the API server can judge are texts, numbers or lists here.
"""

from __future__ import annotations

from collections.abc import Sequence

from imagecache.api.yamltext import JSON

Schema = dict[str, JSON]

TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer"}
FLAG: Schema = {"type": "boolean"}
QUANTITY: Schema = {
    "type": ["string", "number"],
    "pattern": "^[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$",
}
"""As ``resource.ParseQuantity`` of Kubernetes reads it: ``2GB`` is none."""


def some(*keys: str, **of: Schema) -> Schema:
    """An object with these keys: ``keys`` are texts, ``of`` what it says."""
    properties: Schema = {**dict.fromkeys(keys, TEXT), **of}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def needs(schema: Schema, *keys: str) -> Schema:
    required: list[JSON] = list(keys)
    return {**schema, "required": required}


def items(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


def words(*allowed: str) -> Schema:
    listed: list[JSON] = list(allowed)
    return {"type": "string", "enum": listed}


def mapping(schema: Schema, *, without: Sequence[str] = ()) -> Schema:
    """Keys are free, but for ``without``, which the chart sets itself."""
    taken: list[JSON] = list(without)
    names: Schema = {"propertyNames": {"not": {"enum": taken}}} if taken else {}
    return {"type": "object", "additionalProperties": schema, **names}


TEXTS = items(TEXT)
NODE_SELECTOR = mapping(TEXT)
TOLERATIONS = items(
    some("key", "value", operator=words("Exists", "Equal", "Lt", "Gt"), effect=TEXT, tolerationSeconds=WHOLE)
)
RESOURCES = some(requests=mapping(QUANTITY), limits=mapping(QUANTITY), claims=items(some("name", "request")))

_EXPRESSIONS = items(needs(some("key", "operator", values=TEXTS), "key", "operator"))
_LABELS = some(matchLabels=mapping(TEXT), matchExpressions=_EXPRESSIONS)
_NODE_TERM = some(matchExpressions=_EXPRESSIONS, matchFields=_EXPRESSIONS)
_POD_TERM = needs(
    some(
        "topologyKey",
        labelSelector=_LABELS,
        namespaceSelector=_LABELS,
        namespaces=TEXTS,
        matchLabelKeys=TEXTS,
        mismatchLabelKeys=TEXTS,
    ),
    "topologyKey",
)
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
_PODS = some(
    **{
        _REQUIRED: items(_POD_TERM),
        _PREFERRED: items(needs(some(weight=WHOLE, podAffinityTerm=_POD_TERM), "weight", "podAffinityTerm")),
    }
)
AFFINITY = some(
    nodeAffinity=some(
        **{
            _REQUIRED: some(nodeSelectorTerms=items(_NODE_TERM)),
            _PREFERRED: items(needs(some(weight=WHOLE, preference=_NODE_TERM), "weight", "preference")),
        }
    ),
    podAffinity=_PODS,
    podAntiAffinity=_PODS,
)
TOPOLOGY_SPREAD = items(
    needs(
        some(
            "topologyKey",
            maxSkew=WHOLE,
            minDomains=WHOLE,
            whenUnsatisfiable=words("DoNotSchedule", "ScheduleAnyway"),
            labelSelector=_LABELS,
            matchLabelKeys=TEXTS,
            nodeAffinityPolicy=words("Honor", "Ignore"),
            nodeTaintsPolicy=words("Honor", "Ignore"),
        ),
        "maxSkew",
        "topologyKey",
        "whenUnsatisfiable",
    )
)

_PROFILE = needs(some("localhostProfile", type=words("RuntimeDefault", "Unconfined", "Localhost")), "type")
_USER: Schema = {
    "runAsUser": WHOLE,
    "runAsGroup": WHOLE,
    "runAsNonRoot": FLAG,
    "seLinuxOptions": some("level", "role", "type", "user"),
    "seccompProfile": _PROFILE,
    "appArmorProfile": _PROFILE,
}


def _secured(**more: Schema) -> Schema:
    return {"type": "object", "additionalProperties": False, "properties": {**_USER, **more}}


POD_SECURITY = _secured(
    fsGroup=WHOLE,
    fsGroupChangePolicy=words("OnRootMismatch", "Always"),
    supplementalGroups=items(WHOLE),
    supplementalGroupsPolicy=words("Merge", "Strict"),
    seLinuxChangePolicy=words("Recursive", "MountOption"),
    sysctls=items(needs(some("name", "value"), "name", "value")),
)
CONTAINER_SECURITY = _secured(
    allowPrivilegeEscalation=FLAG,
    privileged=FLAG,
    readOnlyRootFilesystem=FLAG,
    capabilities=some(add=TEXTS, drop=TEXTS),
    procMount=words("Default", "Unmasked"),
)

_KEY_OF = needs(some("name", "key", optional=FLAG), "key")
_FIELD = needs(some("apiVersion", "fieldPath"), "fieldPath")
_RESOURCE = needs(some("containerName", "resource", divisor=QUANTITY), "resource")
_FROM = some(configMapKeyRef=_KEY_OF, secretKeyRef=_KEY_OF, fieldRef=_FIELD, resourceFieldRef=_RESOURCE)


def environment(without: Sequence[str]) -> Schema:
    """Variables of a container, but for those that the chart sets: an API server refuses a name that is there twice."""
    taken: list[JSON] = list(without)
    return items(needs(some("value", name={**TEXT, "not": {"enum": taken}}, valueFrom=_FROM), "name"))


_PATHS = items(needs(some("key", "path", mode=WHOLE), "key", "path"))
_DOWNWARD = items(needs(some("path", fieldRef=_FIELD, resourceFieldRef=_RESOURCE, mode=WHOLE), "path"))
_SOURCES = items(
    some(
        configMap=some("name", items=_PATHS, optional=FLAG),
        secret=some("name", items=_PATHS, optional=FLAG),
        downwardAPI=some(items=_DOWNWARD),
        serviceAccountToken=needs(some("audience", "path", expirationSeconds=WHOLE), "path"),
        clusterTrustBundle=some("name", "signerName", "path", labelSelector=_LABELS, optional=FLAG),
    )
)
VOLUMES = items(
    needs(
        some(
            "name",
            configMap=some("name", items=_PATHS, optional=FLAG, defaultMode=WHOLE),
            secret=some("secretName", items=_PATHS, optional=FLAG, defaultMode=WHOLE),
            emptyDir=some("medium", sizeLimit=QUANTITY),
            hostPath=needs(some("path", "type"), "path"),
            persistentVolumeClaim=needs(some("claimName", readOnly=FLAG), "claimName"),
            projected=some(sources=_SOURCES, defaultMode=WHOLE),
            downwardAPI=some(items=_DOWNWARD, defaultMode=WHOLE),
            csi=needs(
                some(
                    "driver",
                    "fsType",
                    readOnly=FLAG,
                    volumeAttributes=mapping(TEXT),
                    nodePublishSecretRef=some("name"),
                ),
                "driver",
            ),
            nfs=needs(some("server", "path", readOnly=FLAG), "server", "path"),
        ),
        "name",
    )
)
MOUNTS = items(
    needs(
        some(
            "name",
            "mountPath",
            "subPath",
            "subPathExpr",
            readOnly=FLAG,
            recursiveReadOnly=TEXT,
            mountPropagation=words("None", "HostToContainer", "Bidirectional"),
        ),
        "name",
        "mountPath",
    )
)
