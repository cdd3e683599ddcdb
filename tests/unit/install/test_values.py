"""The chart's values: each setting of the program has one or a reason, each one has an effect, and a schema."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from imagecache.api.yamltext import JSON
from imagecache.settings.load import check
from imagecache.settings.table import SETTINGS
from tools.install.render import MODES, objects
from tools.install.schema import TOLD, schema
from tools.install.values import defaults

NOT_IN_THE_CHART = {
    "namespace": "kubelet uses k8s.io alone",
    "agent_socket": "it stands in a unit of systemd, and nobody sees it",
    "secrets": "in a cluster pull secrets are Secrets",
    "docker_config": "in a cluster pull secrets are Secrets",
    "kubeconfig": "a pod has its service account; the installer writes one for the host",
    "store_name": "the installer takes it from the Service's name",
}
"""Settings without a value, each with its reason. extraEnv could set them all the same."""
OTHER_DEFAULTS = {
    "mode": "auto asks a containerd that is configured already",
    "metrics_address": "a pod has an address of its own",
    "serve_address": "in a cluster the store is served",
    "reserved_names": "the release's own image is one of them",
}
"""Settings that the chart sets to another default than the program's."""
SITUATIONS: list[dict[str, JSON]] = [
    {"mode": "proxy"},
    {"mode": "native"},
    {"mode": "prepull"},
    {"mode": "native", "store": {"sharedHostPath": "/mnt"}},
    {"metrics": {"serviceMonitor": {"enabled": True}}},
    {"controller": {"hosts": {"configMap": "a"}, "caBundle": {"configMap": "b"}}},
]
"""Values that other values need to have an effect."""
VERSIONS = (37, 35, 29)
"""Of Kubernetes 1: some values have an effect in old ones only."""
ONLY_IN_THE_CERTIFICATE = {"tls.certManagerIssuer"}
"""Its template is written by hand."""


def leaves(values: Mapping[str, JSON], path: str = "") -> Iterator[tuple[str, JSON]]:
    for key, value in values.items():
        below = f"{path}.{key}".lstrip(".")
        if isinstance(value, dict) and value:
            yield from leaves(value, below)
        else:
            yield below, value


def at(path: str, value: JSON, below: Mapping[str, JSON]) -> dict[str, JSON]:
    """``below`` with another value at the path."""
    key, _, rest = path.partition(".")
    inner = below.get(key)
    return {**below, key: at(rest, value, inner if isinstance(inner, dict) else {}) if rest else value}


def another(value: JSON) -> JSON:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return f"{value}x"
    return ["x"] if isinstance(value, list) else {"x": "y"}


def containers(values: Mapping[str, JSON]) -> Iterator[Any]:
    for item in json.loads(json.dumps(objects(values))):
        if item["kind"] in {"Deployment", "DaemonSet"}:
            spec = item["spec"]["template"]["spec"]
            yield from [*spec.get("initContainers", []), *spec["containers"]]


def settings(values: Mapping[str, JSON]) -> dict[str, str]:
    """What containers are given, by the setting's name; flags too."""
    found = {}
    for container in containers(values):
        for entry in container["env"]:
            if entry["name"].startswith("IMAGECACHE_"):
                found[entry["name"].removeprefix("IMAGECACHE_").lower()] = entry.get("value", "$")
        for word in container["args"]:
            name = word.partition("=")[0].removeprefix("--").replace("-", "_")
            if name in SETTINGS:
                found[name] = word.partition("=")[2]
    return found


def test_every_setting_of_the_program_has_a_way_through_the_chart() -> None:
    with_unit: dict[str, JSON] = {"containerd": {"unit": "k3s.service"}}
    given = {name for values in [*SITUATIONS, with_unit] for name in settings(values)}

    assert given <= set(SETTINGS)
    assert set(NOT_IN_THE_CHART) == set(SETTINGS) - given


@pytest.mark.parametrize("mode", MODES)
def test_defaults_are_those_of_the_program(mode: str) -> None:
    """Where both have one."""
    found = {name: text for name, text in settings({"mode": mode}).items() if "$" not in text and text}
    differ = {name for name, text in found.items() if check(SETTINGS[name], text, name) != SETTINGS[name].default}

    assert differ <= set(OTHER_DEFAULTS)
    assert len(found) > 20


@pytest.mark.parametrize(
    ("path", "value"),
    [(path, value) for path, value in leaves(defaults()) if path not in ONLY_IN_THE_CERTIFICATE],
    ids=lambda value: str(value)[:60],
)
def test_every_value_has_an_effect(path: str, value: JSON) -> None:
    changed = "native" if path == "mode" else another(value)

    assert any(
        objects(at(path, changed, values), minor) != objects(values, minor)
        for minor in VERSIONS
        for values in SITUATIONS
    )


def test_the_schema_has_every_value_and_no_other() -> None:
    found = schema(defaults())
    properties = found["properties"]
    assert isinstance(properties, dict)

    assert set(properties) - set(defaults()) == {"global", "enabled"}
    for path, _ in leaves(defaults()):
        part: JSON = found
        walked: list[str] = []
        for key in path.split("."):
            if ".".join(walked) in TOLD:
                break
            walked.append(key)
            assert isinstance(part, dict)
            below = part.get("properties")
            assert isinstance(below, dict)
            part = below[key]
    for path in TOLD:
        value: JSON = defaults()
        for key in path.split("."):
            assert isinstance(value, dict)
            value = value[key]


def test_no_object_takes_keys_that_it_does_not_know() -> None:
    """But labels and the like, whose keys are the user's, and what a parent chart calls global."""
    objects_of_schema = list(objects_in(schema(defaults())))
    open_ones = [item for item in objects_of_schema if item.get("additionalProperties") is not False]

    assert len(objects_of_schema) > 60
    assert open_ones.count({"type": "object"}) == 1
    assert all("type" in item["additionalProperties"] for item in open_ones if item != {"type": "object"})


def objects_in(part: JSON) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        if part.get("type") == "object":
            yield part
        for child in part.values():
            yield from objects_in(child)
    elif isinstance(part, list):
        for child in part:
            yield from objects_in(child)


def test_a_default_that_says_nothing_must_be_explained() -> None:
    with pytest.raises(TypeError, match=r"more: tools/install/schema\.py must say"):
        schema({**defaults(), "more": {}})
