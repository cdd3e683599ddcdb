"""The chart through Helm itself: what it renders is what ``tools.install`` says, for every kind of values."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import ssl
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.charts.rendering import CHART, KUBERNETES, Name, by_name, helm, hooked, kustomized, rendered, whole
from tools.install.release import HOOK
from tools.install.render import MODES, hooks, objects

INSTALL = CHART.parents[1] / "docs" / "install.md"
FENCES = {"imagecache-agent", "imagecache-controller", "imagecache-authors"}
GATES = {"imagecache-pinned-pods", "imagecache-pinned-namespaces"}
UNHELD = "imagecache-unheld-pods"
COMPONENT = "app.kubernetes.io/component"
_LINES = re.MULTILINE | re.DOTALL
NOT_ON_FARGATE = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [
                {
                    "matchExpressions": [
                        {"key": "eks.amazonaws.com/compute-type", "operator": "NotIn", "values": ["fargate"]}
                    ]
                }
            ]
        }
    }
}
EVERYTHING_SET = {
    "store": {"volume": {"accessMode": "ReadWriteMany", "storageClassName": "nfs", "size": "1Ti"}},
    "taint": {"enabled": True, "timeoutSeconds": 1000000},
    "pullSecretNamespaces": ["a", "1"],
    "pullSecretNames": ["x"],
    "insecureRegistries": ["registry.example.com:5000", "10.0.0.0/8", "[::1]:5000"],
    "metrics": {
        "serviceMonitor": {"enabled": True, "labels": {"release": "kube-prometheus-stack"}, "interval": "30s"},
        "hostAddress": ":9999",
    },
    "networkPolicy": {"enabled": False},
    "rbac": {"aggregateClusterRoles": False},
    "pods": {"autoCreate": True, "autoCaches": 1000000, "autoCachesPerNamespace": 7, "refuse": True, "events": False},
    "imagePullSecrets": [{"name": "r"}, "s"],
    "image": {"tag": "1.2.3", "digest": f"sha256:{64 * 'a'}", "repository": "registry.example.com/imagecache"},
    "tls": {"existingSecret": "mine"},
    "logLevel": "debug",
    "agent": {
        "tolerations": [],
        "nodeSelector": {"pool": "gpu"},
        "affinity": NOT_ON_FARGATE,
        "reserve": 0.2,
        "allowPrivateNames": ["k8s.io", "other"],
        "reservedNames": ["registry.k8s.io/", "registry.example.com/pause"],
        "hostDirectory": "/home/kubernetes/bin/imagecache",
        "podLabels": {"team": "a", "number": "1"},
        "podAnnotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict": "true"},
        "podSecurityContext": {"seLinuxOptions": {"type": "spc_t"}},
        "securityContext": {"privileged": True},
        "extraEnv": [
            {"name": "A", "value": "1"},
            {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ],
        "extraVolumes": [{"name": "more", "emptyDir": {"sizeLimit": "1Gi"}}],
        "extraVolumeMounts": [{"name": "more", "mountPath": "/more", "readOnly": True}],
    },
    "controller": {
        "proxySecret": "registry-proxy",
        "hosts": {"configMap": "registries"},
        "caBundle": {"configMap": "trust", "key": "bundle.pem"},
        "registry": {"retries": 1},
        "priorityClassName": "system-cluster-critical",
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
        "podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None},
        "podLabels": {"team": "a"},
        "extraEnv": [{"name": "C", "value": "2"}],
        "extraVolumes": [{"name": "more", "configMap": {"name": "m", "items": [{"key": "k", "path": "p"}]}}],
        "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
        "resources": {"limits": {"cpu": 2}},
    },
}
VALUES = [
    *({"mode": mode} for mode in MODES),
    {"mode": "native", "containerd": {"configure": False}},
    {"mode": "native", "containerd": {"alsoUnpack": ["devmapper", "overlayfs"]}},
    *({"mode": mode, "store": {"sharedHostPath": "/mnt/imagecache"}} for mode in MODES),
    {"mode": "native", "store": {"sharedHostPath": "/mnt/imagecache", "sharedLeasesPath": "/mnt/leases"}},
    {"store": {"volume": {"existingClaim": "claim"}}},
    *({**EVERYTHING_SET, "mode": mode} for mode in MODES),
]


def test_helm_finds_nothing_to_complain_about() -> None:
    done = helm("lint", "--strict", f"--kube-version={KUBERNETES}", str(CHART))

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("values", VALUES, ids=lambda values: ",".join(map(str, values.values()))[:60])
def test_the_chart_and_the_kustomize_bases_have_one_truth(values: dict[str, object]) -> None:
    chart = rendered(values)
    chart.pop(("Secret", "imagecache-system", "imagecache-store-tls"), None)

    assert chart == by_name(objects(json.loads(json.dumps(values))))


@pytest.mark.parametrize(
    ("written", "setting"),
    [
        ("auto", "auto"),
        ("a,b", "a,b"),
        ("[a, b]", "a,b"),
        ("off", "off"),  # false, in YAML
        ("[]", "off"),
    ],
)
def test_snapshotters_may_be_written_as_a_list(written: str, setting: str, tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(f"mode: native\ncontainerd:\n  alsoUnpack: {written}\n")
    done = helm("template", "x", str(CHART), f"--values={file}", f"--kube-version={KUBERNETES}")
    assert done.returncode == 0, done.stderr
    named = done.stdout.index("IMAGECACHE_ALSO_UNPACK")
    assert f'value: "{setting}"' in done.stdout[named:].splitlines()[1]


KUSTOMIZED = """\
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: other
namePrefix: prod-
resources:
- {base}
"""


@pytest.mark.parametrize("mode", MODES)
def test_kustomize_with_another_namespace_and_a_prefix(mode: str, tmp_path: Path) -> None:
    base = os.path.relpath(CHART.parents[1] / "config" / mode, tmp_path)
    (tmp_path / "kustomization.yaml").write_text(KUSTOMIZED.format(base=base))
    found = by_name(kustomized(tmp_path))
    text = json.dumps([item for (kind, _, _), item in found.items() if kind != "CustomResourceDefinition"])

    assert "imagecache-system" not in text
    assert {namespace for _, namespace, _ in found} == {None, "other"}
    controller = found["Deployment", "other", "prod-imagecache-controller"]
    agent = found["DaemonSet", "other", "prod-imagecache-agent"]
    for pod, account in ((controller, "prod-imagecache-controller"), (agent, "prod-imagecache-agent")):
        assert pod["spec"]["template"]["spec"]["serviceAccountName"] == account
        assert ("ServiceAccount", "other", account) in found
    assert variables(controller)["AGENT_ACCOUNT"] == "prod-imagecache-agent"
    assert variables(agent)["AGENT_DAEMONSET"] == "prod-imagecache-agent"
    assert ("Service", "other", variables(agent)["STORE_SERVICE"]) in found
    role = found["Role", "other", "prod-imagecache-agent"]
    assert role["rules"][0]["resourceNames"] == ["prod-imagecache-agent"]
    subjects = [item["subjects"] for (kind, _, _), item in found.items() if kind.endswith("RoleBinding")]
    assert all(subject["namespace"] == "other" for each in subjects for subject in each)
    # kustomize does not know that policies and bindings belong to no namespace; the API server takes it away
    of_kinds = {"ValidatingAdmissionPolicy": FENCES | {UNHELD}, "MutatingAdmissionPolicy": GATES}
    for kind, policies in of_kinds.items():
        bindings = {name: item for (each, _, name), item in found.items() if each == f"{kind}Binding"}
        assert set(bindings) == {f"prod-{name}" for name in policies}
        for name, item in bindings.items():
            assert item["spec"]["policyName"] == name
            assert (kind, "other", name) in found
            # install.md goes by labels when it takes the gate away by hand
            assert (item["metadata"]["labels"].get(COMPONENT) == "pins") == (name.removeprefix("prod-") not in FENCES)
    for kind, name in (*(("Mutating", name) for name in GATES), ("Validating", UNHELD)):
        bound = found[f"{kind}AdmissionPolicyBinding", "other", f"prod-{name}"]["spec"]["matchResources"]
        (expression,) = bound["namespaceSelector"]["matchExpressions"]
        assert expression["values"] == ["kube-system", "other"]


def variables(workload: Any) -> dict[str, str]:
    spec = workload["spec"]["template"]["spec"]
    containers = [*spec.get("initContainers", []), *spec["containers"]]
    found: dict[str, str] = {}
    for entry in (entry for container in containers for entry in container["env"]):
        text = entry.get("value", "")
        if not entry["name"].startswith("IMAGECACHE_"):  # names of objects
            assert found.get(entry["name"], text) == text, "in every container the same"
        found[entry["name"]] = text
    return found


def test_what_kustomize_builds_is_what_helm_renders() -> None:
    built = by_name(kustomized(CHART.parents[1] / "config" / "proxy"))
    chart = rendered({}, "--include-crds", f"--kube-version={KUBERNETES}")

    assert chart.pop(("Secret", "imagecache-system", "imagecache-store-tls"))
    assert built.pop(("Namespace", None, "imagecache-system"))
    assert chart == built


def test_helm_generates_a_certificate_that_python_trusts_for_the_service(tmp_path: Path) -> None:
    secret = rendered({})["Secret", "imagecache-system", "imagecache-store-tls"]
    for key, text in secret["data"].items():
        (tmp_path / key).write_bytes(base64.b64decode(text))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    trust = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
    trust.verify_flags |= ssl.VERIFY_X509_STRICT  # Python 3.13's default

    assert shake_hands(server, trust, "imagecache-store.imagecache-system.svc")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake_hands(server, trust, "imagecache-store.other.svc")


def shake_hands(server: ssl.SSLContext, trust: ssl.SSLContext, name: str) -> bool:
    """TLS between two ends in memory. Raises what the client finds wrong."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client_end = trust.wrap_bio(down, up, server_hostname=name)
    server_end = server.wrap_bio(up, down, server_side=True)
    done: set[ssl.SSLObject] = set()
    for _ in range(10):
        for end in (client_end, server_end):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
                done.add(end)
    return len(done) == 2


def test_cert_manager_makes_it_when_an_issuer_is_named() -> None:
    found = rendered({"tls": {"certManagerIssuer": {"kind": "ClusterIssuer", "name": "mine"}}})
    certificate = found["Certificate", "imagecache-system", "imagecache-store-tls"]

    assert certificate["spec"]["dnsNames"] == ["imagecache-store.imagecache-system.svc"]
    assert certificate["spec"]["issuerRef"] == {"kind": "ClusterIssuer", "name": "mine"}
    assert ("Secret", "imagecache-system", "imagecache-store-tls") not in found


VERSIONS = (25, 29, 30, 35, 36, 37)
"""Minor versions of Kubernetes 1, on both sides of each that makes a difference."""
PODS = [
    {},
    {"pods": {"enabled": False}},
    {"pods": {"refuse": True, "unfenced": True}},
    {"pods": {"events": False}, "taint": {"enabled": True}},
]


@pytest.mark.parametrize("values", PODS, ids=str)
@pytest.mark.parametrize("minor", VERSIONS)
def test_each_kubernetes_gets_what_it_knows(minor: int, values: dict[str, object]) -> None:
    found = whole(values, f"--kube-version=1.{minor}.0")
    installed = by_name(item for item in found if not hooked(item))
    installed.pop(("Secret", "imagecache-system", "imagecache-store-tls"))
    written = json.loads(json.dumps(values))

    assert installed == by_name(objects(written, minor))
    assert by_name(filter(hooked, found)) == by_name(hooks(written, minor))


@pytest.mark.parametrize(
    ("minor", "fences", "gates", "refusal"),
    [
        (29, set(), set(), set()),
        (30, FENCES, set(), set()),
        (35, FENCES, set(), set()),
        (36, FENCES, GATES, {UNHELD}),
        (37, FENCES, GATES, {UNHELD}),
    ],
)
def test_policies(minor: int, fences: set[str], gates: set[str], refusal: set[str]) -> None:
    found = rendered({}, f"--kube-version=1.{minor}.0")
    off = rendered({"pods": {"enabled": False}}, f"--kube-version=1.{minor}.0")

    for kind in ("AdmissionPolicy", "AdmissionPolicyBinding"):
        assert names(found, f"Validating{kind}") == fences | refusal
        assert names(found, f"Mutating{kind}") == gates
        assert names(off, f"Validating{kind}") == fences - {"imagecache-controller"}
        assert names(off, f"Mutating{kind}") == set()


def names(found: dict[Name, Any], kind: str) -> set[str]:
    return {name for each, _, name in found if each == kind}


@pytest.mark.parametrize(("minor", "refused"), [(29, False), (30, True), (35, True)])
def test_before_the_gate_pinned_pods_without_one_are_refused_on_request(minor: int, refused: bool) -> None:
    found = rendered({"pods": {"refuse": True}}, f"--kube-version=1.{minor}.0")
    policy = found.get(("ValidatingAdmissionPolicy", None, UNHELD))

    assert (policy is not None) is refused
    if policy is not None:
        assert "it needs the scheduling gate imagecache.dev/pinned" in policy["spec"]["validations"][1]["message"]


@pytest.mark.parametrize(
    ("minor", "values", "given"),
    [
        (29, {}, False),
        (29, {"pods": {"unfenced": True}}, True),
        (29, {"pods": {"unfenced": True, "enabled": False, "events": False}}, False),
        (30, {}, True),
        (37, {"pods": {"enabled": False, "events": False}}, False),
    ],
)
def test_pods_are_patched_only_behind_the_fence_or_on_request(
    minor: int, values: dict[str, object], given: bool
) -> None:
    found = rendered(values, f"--kube-version=1.{minor}.0")
    rights = {
        (resource, verb)
        for item in found.values()
        for rule in item.get("rules", [])
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    controller = variables(found["Deployment", "imagecache-system", "imagecache-controller"])
    agent = variables(found["DaemonSet", "imagecache-system", "imagecache-agent"])

    assert (("pods", "patch") in rights) is given
    assert ("ClusterRoleBinding", None, "imagecache-controller-pods") in found or not given
    assert (("ClusterRole", None, "imagecache-agent-events") in found) is given
    assert (controller["IMAGECACHE_PODS"], agent["IMAGECACHE_POD_EVENTS"]) == (2 * (str(given).lower(),))


def test_old_clusters_are_told_what_is_missing(tmp_path: Path) -> None:
    told = {minor: notes(tmp_path, f"--kube-version=1.{minor}.0") for minor in VERSIONS}
    off = notes(tmp_path, "--kube-version=1.35.0", "--set=pods.enabled=false")

    assert "NOT PROTECTED: Kubernetes v1.29.0" in told[29]
    assert "pods are not matched with caches" in told[29]
    assert all("NOT PROTECTED" not in told[minor] for minor in (30, 35, 36, 37))
    assert "schedulingGates: [{name: imagecache.dev/pinned}]" in told[35]
    assert all("schedulingGates" not in text for text in (off, told[29], told[36], told[37]))


def test_before_a_release_goes_its_gate_goes_and_then_every_held_pod() -> None:
    found = [item for item in whole({"controller": {"podLabels": {"a": "b"}}}) if hooked(item)]
    *bindings, job = sorted(found, key=lambda item: int(item["metadata"]["annotations"][f"{HOOK}-weight"]))

    assert {item["metadata"]["name"] for item in bindings} == GATES
    assert {item["kind"] for item in bindings} == {"MutatingAdmissionPolicyBinding"}
    for item in found:
        assert item["metadata"]["annotations"][HOOK] == "pre-delete"
        assert item["metadata"]["annotations"][f"{HOOK}-delete-policy"] == "before-hook-creation,hook-succeeded"
    pod = job["spec"]["template"]
    assert (job["kind"], pod["spec"]["containers"][0]["args"]) == ("Job", ["controller", "--release"])
    assert pod["spec"]["serviceAccountName"] == "imagecache-controller"
    service = rendered({})["Service", "imagecache-system", "imagecache-store"]
    assert service["spec"]["selector"].items() - pod["metadata"]["labels"].items(), "it serves no store"
    assert [item["kind"] for item in whole({}, "--kube-version=1.35.0") if hooked(item)] == ["Job"]
    assert not [item for item in whole({"pods": {"enabled": False}}) if hooked(item)]


def test_an_overlay_for_clusters_without_the_gate(tmp_path: Path) -> None:
    """As docs/install.md has it."""
    written = r"^# kustomization\.yaml for Kubernetes 1\.30 to 1\.35\n(.*?)^```"
    (overlay,) = re.findall(written, INSTALL.read_text(), _LINES)
    base = os.path.relpath(CHART.parents[1] / "config" / "proxy", tmp_path)
    (tmp_path / "kustomization.yaml").write_text(overlay.replace("config/proxy", base))
    built = by_name(kustomized(tmp_path))
    chart = rendered({}, "--include-crds", "--kube-version=1.35.0")

    assert chart.pop(("Secret", "imagecache-system", "imagecache-store-tls"))
    assert built.pop(("Namespace", None, "imagecache-system"))
    assert chart == built


def test_without_a_cluster_a_helm_built_as_ours_renders_for_its_own_kubernetes() -> None:
    """Helm's source says 1.20, and its Makefile the version of client-go: only with that is this no error."""
    policies = [kind for kind, _, _ in rendered({}, "--include-crds") if kind.endswith("AdmissionPolicy")]

    assert len(policies) == len(FENCES | GATES | {UNHELD})


@pytest.mark.parametrize("mode", MODES)
def test_notes_say_what_to_wait_for(mode: str, tmp_path: Path) -> None:
    text = notes(tmp_path, f"--kube-version={KUBERNETES}", f"--set=mode={mode}")

    assert "kubectl -n other rollout status deployment/imagecache-controller daemonset/imagecache-agent" in text
    assert "kubectl wait --for=condition=Ready imagecaches.eci.alibabacloud.com/" in text
    assert "kubectl label namespace other pod-security.kubernetes.io/enforce=privileged" in text


def notes(folder: Path, *flags: str) -> str:
    """What ``helm install`` prints, which wants a cluster: as an object that is rendered without one."""
    chart = folder / "chart"
    shutil.copytree(CHART, chart, dirs_exist_ok=True)
    text = (chart / "templates" / "NOTES.txt").read_text()
    head = 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: notes}\ndata: {notes: {{ include "notes" . | quote }}}\n'
    (chart / "templates" / "notes.yaml").write_text(f'{{{{- define "notes" }}}}{text}{{{{- end }}}}\n{head}')
    done = helm("template", "x", str(chart), "--namespace=other", "--show-only=templates/notes.yaml", *flags)
    assert done.returncode == 0, done.stderr
    found: str = yaml.safe_load(done.stdout)["data"]["notes"]
    return found


def test_another_namespace_is_everywhere() -> None:
    done = helm("template", "x", str(CHART), "--namespace=other", f"--kube-version={KUBERNETES}")

    assert done.returncode == 0
    assert "imagecache-system" not in done.stdout
