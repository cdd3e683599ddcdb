"""The chart through Helm itself: what it renders is what ``tools.install`` says, for every kind of values."""

from __future__ import annotations

import base64
import contextlib
import json
import ssl
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from testkit.peers.programs import cache, environment, find
from tools.install.render import MODES, objects

CHART = Path(__file__).resolve().parents[2] / "charts" / "imagecache"
KUBERNETES = "1.37.2"
Name = tuple[str, str | None, str]
"""Kind, namespace, name."""
EVERYTHING_SET = {
    "store": {"volume": {"accessMode": "ReadWriteMany", "storageClassName": "nfs", "size": "1Ti"}},
    "taint": {"enabled": True, "timeoutSeconds": 1000000},
    "pullSecretNamespaces": ["a", "1"],
    "pullSecretNames": ["x"],
    "metrics": {"serviceMonitor": True, "hostAddress": ":9999"},
    "networkPolicy": False,
    "imagePullSecrets": [{"name": "r"}],
    "agent": {"tolerations": [], "nodeSelector": {"pool": "gpu"}},
    "controller": {"proxySecret": "registry-proxy"},
    "image": {"tag": "1.2.3", "repository": "registry.example.com/imagecache"},
    "tls": {"existingSecret": "mine"},
}
VALUES = [
    *({"mode": mode} for mode in MODES),
    {"mode": "native", "containerd": {"configure": False}},
    {"mode": "native", "containerd": {"alsoUnpack": ["devmapper", "overlayfs"]}},
    {"store": {"sharedHostPath": "/mnt/imagecache"}},
    {"store": {"volume": {"existingClaim": "claim"}}},
    EVERYTHING_SET,
]


def helm(*args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    program = find("helm", before=[cache() / "kubernetes" / "bin"])
    return subprocess.run(
        [program, *args], env=environment(), input=stdin, capture_output=True, text=True, timeout=60, check=False
    )


def rendered(values: object, *flags: str) -> dict[Name, Any]:
    """By kind, namespace and name."""
    done = helm(
        *("template", "imagecache", str(CHART), "--namespace=imagecache-system", "--values=-"),
        *(flags or (f"--kube-version={KUBERNETES}",)),
        stdin=json.dumps(values),
    )
    assert done.returncode == 0, done.stderr
    return by_name([item for item in yaml.safe_load_all(done.stdout) if item])


def by_name(items: Iterable[Any]) -> dict[Name, Any]:
    return {(item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]): item for item in items}


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


def test_what_kustomize_builds_is_what_helm_renders() -> None:
    kubectl = find("kubectl", before=[cache() / "kubernetes" / "bin"])
    done = subprocess.run(
        [kubectl, "kustomize", CHART.parents[1] / "config" / "proxy"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    built = by_name(yaml.safe_load_all(done.stdout))
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


def test_old_clusters_get_no_policy_that_they_do_not_know() -> None:
    found = rendered({}, "--kube-version=1.29.0")

    assert not [kind for kind, _, _ in found if kind.startswith("ValidatingAdmissionPolicy")]


def test_another_namespace_is_everywhere() -> None:
    done = helm("template", "x", str(CHART), "--namespace=other", f"--kube-version={KUBERNETES}")

    assert done.returncode == 0
    assert "imagecache-system" not in done.stdout
