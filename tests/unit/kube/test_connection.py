"""Where the API server is: service accounts, kubeconfigs, and everything that is wrong with one."""

from __future__ import annotations

import base64
import json
import ssl
from pathlib import Path

import pytest

from imagecache.errors import InvalidSetting
from imagecache.kube.connection import Connection, find, in_cluster, kubeconfig, kubeconfig_text

TOKEN = "t0p-secret-token"  # noqa: S105 - of no cluster
POD = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def write(folder: Path, *, user: dict[str, object] | None = None, cluster: dict[str, object] | None = None) -> Path:
    document = {
        "current-context": "x",
        "contexts": [{"name": "w"}, {"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "n"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://h:6443/", **(cluster or {})}}],
        "users": [{"name": "u", "user": user or {}}],
    }
    path = folder / "config"
    path.write_text(json.dumps(document))
    return path


def test_a_pod_has_a_service_account(tmp_path: Path) -> None:
    for name, text in {"token": TOKEN, "ca.crt": "PEM", "namespace": "imagecache-system\n"}.items():
        (tmp_path / name).write_text(text)
    found = in_cluster(POD, tmp_path)

    assert found == Connection(
        "https://10.96.0.1:443", ca="PEM", token_file=tmp_path / "token", namespace="imagecache-system"
    )
    assert TOKEN not in repr(found)
    six = in_cluster(POD | {"KUBERNETES_SERVICE_HOST": "fd00::1"}, tmp_path)
    assert six is not None
    assert six.server == "https://[fd00::1]:443"


def test_anything_else_is_no_pod(tmp_path: Path) -> None:
    assert in_cluster(POD, tmp_path) is None
    assert in_cluster({}, tmp_path) is None


def test_the_named_file_wins_then_the_pod_then_kubectls(tmp_path: Path) -> None:
    named, home, pod = tmp_path / "named", tmp_path / "home", tmp_path / "pod"
    named.write_text(kubeconfig_text(Connection("https://named")))
    (home / ".kube").mkdir(parents=True)
    (home / ".kube/config").write_text(kubeconfig_text(Connection("https://home", namespace="mine")))
    for folder in (tmp_path, home / ".kube"):
        (folder / "ca.crt").touch()
    environ = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}

    assert find(str(named), environ, home).server == "https://named"
    assert find("", {}, home).server == "https://home"
    assert find("", {}, home).namespace == "mine"
    assert find("", {"KUBECONFIG": str(named)}, home).server == "https://named"
    with pytest.raises(InvalidSetting, match="does not exist") as caught:
        find("", {}, pod)
    assert "--kubeconfig" in caught.value.hint


def test_a_kubeconfig_names_server_and_user(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("CA")
    path = write(
        tmp_path,
        user={"client-certificate-data": encoded("CERT"), "client-key-data": encoded("KEY"), "token": TOKEN},
        cluster={"certificate-authority": "ca.pem"},
    )
    found = kubeconfig(path)

    assert (found.server, found.namespace, found.ca) == ("https://h:6443", "n", "CA")
    assert (found.certificate, found.key, found.token) == ("CERT", "KEY", TOKEN)
    assert TOKEN not in repr(found)
    assert "KEY" not in repr(found)


def test_a_token_file_wins(tmp_path: Path) -> None:
    found = kubeconfig(write(tmp_path, user={"token": "old", "tokenFile": "token"}))

    assert (found.token, found.token_file) == ("", tmp_path / "token")


def test_tls_is_verified_unless_told_otherwise(tmp_path: Path) -> None:
    strict = kubeconfig(write(tmp_path)).ssl_context()
    lax = kubeconfig(write(tmp_path, cluster={"insecure-skip-tls-verify": True})).ssl_context()

    assert (strict.verify_mode, strict.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert lax.verify_mode is ssl.CERT_NONE


@pytest.mark.parametrize(
    "connection",
    [Connection("https://h", ca="nonsense"), Connection("https://h", certificate="nonsense", key="nonsense")],
)
def test_a_certificate_that_is_none_is_a_setting_to_correct(connection: Connection) -> None:
    with pytest.raises(InvalidSetting, match="a certificate"):
        connection.ssl_context()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not YAML"),
        ("{}", "no '' under contexts"),
        ("current-context: x\ncontexts: [{name: x, context: {cluster: c}}]", "no 'c' under clusters"),
    ],
)
def test_a_file_that_is_no_kubeconfig_is_said(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)

    with pytest.raises(InvalidSetting, match=message):
        kubeconfig(path)


@pytest.mark.parametrize(
    ("user", "cluster", "message"),
    [
        ({"exec": {"command": "aws"}}, {}, "'exec' is not supported"),
        ({"client-key-data": "!"}, {}, "client-key-data is not base64"),
        ({}, {"server": ""}, "no server"),
        ({}, {"certificate-authority": "gone.pem"}, "No such file"),
    ],
)
def test_what_cannot_be_used_is_said(
    tmp_path: Path, user: dict[str, object], cluster: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidSetting, match=message):
        kubeconfig(write(tmp_path, user=user, cluster=cluster))
