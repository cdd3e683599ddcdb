"""Every file of ``config/`` and ``charts/`` that is made from documents, by its path in the checkout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from imagecache import __version__
from imagecache.api import crd, dump
from imagecache.api.yamltext import JSON
from imagecache.host.systemd_units import agent_units
from tools.install import schema
from tools.install.admission import admission
from tools.install.agent import agent
from tools.install.authors import authors
from tools.install.controller import controller
from tools.install.network import network
from tools.install.pins import pins
from tools.install.rbac import rbac
from tools.install.release import release
from tools.install.template import NEWEST, Document, documents, template, text
from tools.install.values import defaults, merged

MODES = ("proxy", "native", "prepull")
_FROM = "# made by tools/render.py from {}; do not edit\n"
_OURS, _API = _FROM.format("tools/install"), _FROM.format("src/imagecache/api/crd.py")
_PACKAGED = Path("/usr/local/bin/imagecache")
_CONFIG, _CHART = Path("config"), Path("charts/imagecache")
_REFERENCES = "name-references.yaml"


def parts() -> dict[str, list[Document]]:
    """The documents by the name of their file."""
    return {
        "rbac": rbac(),
        "admission": admission(),
        "authors": authors(),
        "pins": pins(),
        "controller": controller(),
        "network": network(),
        "agent": agent(),
    }


def objects(values: Mapping[str, JSON], kubernetes: int = NEWEST) -> list[dict[str, JSON]]:
    """What is in a cluster of Kubernetes 1.``kubernetes`` with these values over the defaults.

    CRDs, the chart's certificate and what Helm makes for a moment are left out.
    """
    whole = merged(defaults(), values)
    return [body for part in parts().values() for body in documents(part, whole, kubernetes)]


def hooks(values: Mapping[str, JSON], kubernetes: int = NEWEST) -> list[dict[str, JSON]]:
    """What Helm makes for a moment."""
    return documents(release(), merged(defaults(), values), kubernetes)


def files() -> dict[Path, str]:
    """Whole texts."""
    made = {path: _OURS + content for path, content in {**_bases(), **_chart(), **_units()}.items()}
    made[_CHART / "values.schema.json"] = schema.text(defaults(), _OURS.strip("# \n"))
    return made | {path: _API + content for path, content in _crds().items()}


def _crds() -> dict[Path, str]:
    """Helm installs what is in ``crds/`` once and never changes it; ``kubectl apply -f config/crd/`` does."""
    return {
        folder / name: dump.to_yaml(document)
        for name, document in crd.all_documents().items()
        for folder in (_CONFIG / "crd", _CHART / "crds")
    }


def _bases() -> dict[Path, str]:
    """``base`` is what all modes have, one folder for each mode is for ``kubectl apply -k``."""
    found = {_CONFIG / "crd" / "Kustomization": _kustomization(sorted(crd.all_documents()))}
    shared = {name: items for name, items in parts().items() if name != "agent"}
    base = _CONFIG / "base"
    found[base / "namespace.yaml"] = text([_namespace()])
    for name, items in shared.items():
        found[base / f"{name}.yaml"] = text(documents(items, defaults()))
    found[base / _REFERENCES] = text([_references()])
    found[base / "kustomization.yaml"] = _kustomization(
        ["../crd", "namespace.yaml", *(f"{name}.yaml" for name in shared)], configurations=[_REFERENCES]
    )
    for mode in MODES:
        values = merged(defaults(), {"mode": mode})
        found[_CONFIG / mode / "agent.yaml"] = text(documents(agent(), values))
        found[_CONFIG / mode / "kustomization.yaml"] = _kustomization(["../base", "agent.yaml"])
    return found


def _units() -> dict[Path, str]:
    """For packages of distributions, and for people who install by hand."""
    return {Path("packaging/systemd") / name: unit for name, unit in agent_units(_PACKAGED).items()}


def _chart() -> dict[Path, str]:
    shown = {**parts(), "release": release()}
    found = {_CHART / "templates" / f"{name}.yaml": template(items) for name, items in shown.items()}
    found[_CHART / "Chart.yaml"] = text([_chart_document()])
    return found


def _chart_document() -> dict[str, JSON]:
    return {
        "apiVersion": "v2",
        "name": "imagecache",
        "description": "Container images pulled once, mounted everywhere: Alibaba ECI's ImageCache for any cluster",
        "type": "application",
        "version": __version__,
        "appVersion": __version__,
        "kubeVersion": ">=1.25.0-0",
    }


def _namespace() -> dict[str, JSON]:
    """Agents need more than the lesser pod security standards allow."""
    labels: JSON = {"app.kubernetes.io/name": "imagecache", "pod-security.kubernetes.io/enforce": "privileged"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "imagecache-system", "labels": labels}}


def _references() -> dict[str, JSON]:
    """Where names of objects stand that kustomize does not know of, so that namePrefix and nameSuffix change them too.

    A configuration of a base holds for what is built on it.
    """
    variable, first = (f"spec/template/spec/{which}/env/value" for which in ("containers", "initContainers"))
    selected = "spec/matchResources/namespaceSelector/matchExpressions/values"
    mutating, validating = (f"{kind}AdmissionPolicyBinding" for kind in ("Mutating", "Validating"))
    referrers: dict[str, list[tuple[str, str]]] = {
        "ServiceAccount": [(variable, "Deployment")],
        "Service": [(variable, "DaemonSet"), (first, "DaemonSet")],
        "DaemonSet": [(variable, "DaemonSet"), (first, "DaemonSet"), ("rules/resourceNames", "Role")],
        "ValidatingAdmissionPolicy": [("spec/policyName", validating)],
        "MutatingAdmissionPolicy": [("spec/policyName", mutating)],
        "Namespace": [(selected, mutating), (selected, validating)],
    }
    found: list[JSON] = [
        {"kind": kind, "fieldSpecs": [{"path": path, "kind": referrer} for path, referrer in places]}
        for kind, places in referrers.items()
    ]
    return {"nameReference": found}


def _kustomization(resources: list[str], **more: JSON) -> str:
    head: dict[str, JSON] = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
    return text([{**head, "resources": [*resources], **more}])
