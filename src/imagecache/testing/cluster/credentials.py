"""Who may talk to the API server, and how it proves itself: one CA, one token per component, kubeconfigs.

Tokens are static (``--token-auth-file``), the simplest that the authorizers Node and RBAC can tell apart. They are
valid for this one cluster and go with its directory.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from pathlib import Path

from imagecache.testing.cluster.network import NODES, Network
from imagecache.testing.peers.programs import find, run

_OPENSSL = """\
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = {names}
"""
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30")
_COMPONENTS = {
    "admin": ("admin", "system:masters"),
    "controller-manager": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "proxy": ("system:kube-proxy", ""),
}


def node_name(index: int) -> str:
    return f"node-{index}"


@dataclass(frozen=True, slots=True)
class Credentials:
    """Files below ``directory``."""

    directory: Path
    server: str

    @property
    def ca(self) -> Path:
        return self.directory / "ca.crt"

    @property
    def certificate(self) -> Path:
        return self.directory / "apiserver.crt"

    @property
    def key(self) -> Path:
        return self.directory / "apiserver.key"

    @property
    def service_accounts_key(self) -> Path:
        """Signs and proves the tokens of ServiceAccounts."""
        return self.directory / "service-accounts.key"

    @property
    def tokens(self) -> Path:
        return self.directory / "tokens.csv"

    def kubeconfig(self, component: str) -> Path:
        """Of ``admin``, ``controller-manager``, ``scheduler``, ``proxy`` or a node's name."""
        return self.directory / f"{component}.kubeconfig"


def create(directory: Path, network: Network, server: str) -> Credentials:
    """Make them all. ``server`` is the URL of the API server."""
    made = Credentials(directory, server)
    directory.mkdir(mode=0o700)
    _make_certificates(made, network)
    users = {**_COMPONENTS, **{node_name(i): (f"system:node:{node_name(i)}", "system:nodes") for i in NODES}}
    lines = []
    for component, (user, group) in users.items():
        token = secrets.token_hex(16)
        lines.append(f'{token},{user},{user},"{group}"')
        made.kubeconfig(component).write_text(_kubeconfig(made, user, token))
    made.tokens.write_text("\n".join(lines) + "\n")
    return made


def _make_certificates(made: Credentials, network: Network) -> None:
    names = [f"IP:{network.address}", f"IP:{network.api_service}", "DNS:kubernetes.default.svc", "DNS:kubernetes"]
    config = made.directory / "openssl.cnf"
    config.write_text(_OPENSSL.format(names=",".join(names)))
    ca_key = made.directory / "ca.key"
    request: list[str | Path] = [find("openssl"), "req", "-x509", "-config", config, *_KEY]
    run([*request, "-extensions", "authority", "-subj", "/CN=imagecache-test", "-keyout", ca_key, "-out", made.ca])
    signed: list[str | Path] = [
        "-CA",
        made.ca,
        "-CAkey",
        ca_key,
        "-extensions",
        "server",
        "-subj",
        "/CN=kube-apiserver",
    ]
    run([*request, *signed, "-keyout", made.key, "-out", made.certificate])
    curve = ["-name", "prime256v1", "-genkey", "-noout"]
    run([find("openssl"), "ecparam", *curve, "-out", made.service_accounts_key])


def _kubeconfig(made: Credentials, user: str, token: str) -> str:
    """JSON is YAML."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": made.server, "certificate-authority": str(made.ca)}}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
        "current-context": "test",
    }
    return json.dumps(document, indent=2)
