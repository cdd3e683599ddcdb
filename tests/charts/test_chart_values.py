"""What Helm refuses of the chart's values, and what it takes."""

from __future__ import annotations

import pytest

from tests.charts.rendering import CHART, KUBERNETES, helm, rendered


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--set=agent.tolerationz=1"], "at '/agent': additional properties 'tolerationz' not allowed"),
        (["--set=modes=native"], "at '': additional properties 'modes' not allowed"),
        (["--set=mode=nativ"], "at '/mode': value must be one of 'proxy', 'native', 'prepull'"),
        (["--set=taint.timeoutSeconds=5m"], "at '/taint/timeoutSeconds': got string, want integer"),
        (["--set-string=taint.enabled=false"], "at '/taint/enabled': got string, want boolean"),
        (["--set-string=networkPolicy.enabled=false"], "at '/networkPolicy/enabled': got string, want boolean"),
        (["--set=networkPolicy=false"], "at '/networkPolicy': got boolean, want object"),
        (["--set-string=pods.enabled=false"], "at '/pods/enabled': got string, want boolean"),
        (["--set=pods.autoCaches=many"], "at '/pods/autoCaches': got string, want integer"),
        (["--set=pods.autoCaches=-1"], "at '/pods/autoCaches': minimum: got -1, want 0"),
        (["--set=pods.pin=true"], "at '/pods': additional properties 'pin' not allowed"),
        (["--set=agent.nodeSelector.gpu=true"], "at '/agent/nodeSelector/gpu': got boolean, want string"),
        (["--set=agent.reserve=15"], "at '/agent/reserve': exclusiveMaximum: got 15, want 1"),
        (["--set=image.digest=abc"], "at '/image/digest': 'abc' does not match pattern"),
        (["--set=containerd.socket=run/x.sock"], "at '/containerd/socket': 'run/x.sock' does not match pattern"),
        (["--set=store.volume.size=100"], "at '/store/volume/size': got number, want string"),
        (["--set-string=store.volume.size=100"], "at '/store/volume/size': '100' does not match pattern"),
        (["--set=agent.hostDirectory=/opt/../etc"], "at '/agent/hostDirectory': '/opt/../etc' does not match pattern"),
        (["--set=pullSecretNamespaces={a,a}"], "at '/pullSecretNamespaces': items at 0 and 1 are equal"),
        (["--set=pullSecretNamespaces={a.b}"], "at '/pullSecretNamespaces/0': 'a.b' does not match pattern"),
        (["--set=insecureRegistries={https://a.example}"], "at '/insecureRegistries/0': 'https://a.example' does not"),
        (["--set=store.sharedLeasesPath=/"], "at '/store/sharedLeasesPath': '/' does not match pattern"),
        (["--set=mode=null"], "missing property 'mode'"),
        (
            ["--set=agent.tolerations[0].operater=Exists"],
            "at '/agent/tolerations/0': additional properties 'operater' not allowed",
        ),
        (
            ["--set=controller.resources.limit.memory=1Gi"],
            "at '/controller/resources': additional properties 'limit' not allowed",
        ),
        (["--set=image.repository="], "at '/image/repository': '' does not match pattern"),
        (["--set=image.tag=a b"], "at '/image/tag': 'a b' does not match pattern"),
        (["--set=store.sharedHostPath=/"], "at '/store/sharedHostPath': '/' does not match pattern"),
        (["--set=store.nodePath=/proc/x"], "at '/store/nodePath'"),
        (["--set=store.volume.size=0Gi"], "at '/store/volume/size': '0Gi' does not match pattern"),
        (["--set=controller.resources.limits.memory=2GB"], "at '/controller/resources/limits/memory': '2GB' does not"),
        (["--set=controller.hosts.configMap=Bad_Name"], "at '/controller/hosts/configMap': 'Bad_Name' does not match"),
        (["--set=controller.caBundle.key=../a"], "at '/controller/caBundle/key': '../a' does not match pattern"),
        (["--set=controller.registry.readTimeoutSeconds=0"], "readTimeoutSeconds': minimum: got 0, want 1"),
        (["--set=controller.registry.connectTimeoutSeconds=0"], "connectTimeoutSeconds': minimum: got 0, want 1"),
        (['--set-json=tls.certManagerIssuer={"kind":"Issuer"}'], "at '/tls/certManagerIssuer'"),
        (
            ['--set-json=controller.extraEnv=[{"name":"IMAGECACHE_MAX_CACHES","value":"7"}]'],
            "at '/controller/extraEnv/0/name': 'not' failed",
        ),
        (['--set-json=agent.extraEnv=[{"name":"IMAGECACHE_MODE"}]'], "at '/agent/extraEnv/0/name': 'not' failed"),
        (["--set=controller.podLabels.app\\.kubernetes\\.io/name=x"], "app.kubernetes.io/name"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_is_misspelled_is_refused(flags: list[str], message: str) -> None:
    done = helm("template", "x", str(CHART), f"--kube-version={KUBERNETES}", *flags)

    assert done.returncode == 1
    assert message in done.stderr


@pytest.mark.parametrize(
    "values",
    [
        {"global": {"imageRegistry": "x"}, "enabled": True},
        {"agent": {"tolerations": None, "resources": None}, "controller": {"affinity": None}},
        {"controller": {"resources": {"limits": {"cpu": 2, "memory": "1Gi"}}}, "store": {"volume": {"size": "1.5Ti"}}},
        {"containerd": {"alsoUnpack": False}},
    ],
    ids=["a parent chart's", "taken away", "numbers", "off"],
)
def test_what_others_write_is_taken(values: dict[str, object]) -> None:
    assert rendered(values)
