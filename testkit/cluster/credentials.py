"""Who may talk to the API server, and how it proves itself: one CA, one token per component, kubeconfigs.

Tokens are static (``--token-auth-file``), the simplest that the authorizers Node and RBAC can tell apart. They are
valid for this one cluster and go with its directory.
"""

from __future__ import annotations

import ipaddress
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from testkit.cluster.network import NODES, Network
from testkit.peers.programs import find, run

_AUTHORITY = """\
[req]
distinguished_name = name
x509_extensions = authority
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
"""
_SERVER = """\
[req]
distinguished_name = name
x509_extensions = server
[name]
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
    def ca_key(self) -> Path:
        return self.directory / "ca.key"

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


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate of the cluster's CA and its key, PEM files."""

    certificate: Path
    key: Path


def create(directory: Path, network: Network, server: str) -> Credentials:
    """Make them all. ``server`` is the URL of the API server."""
    made = Credentials(directory, server)
    directory.mkdir(mode=0o700)
    _make_authority(made)
    issue(made, "apiserver", [network.address, network.api_service, "kubernetes.default.svc", "kubernetes"])
    curve = ["-name", "prime256v1", "-genkey", "-noout"]
    run([find("openssl"), "ecparam", *curve, "-out", made.service_accounts_key])
    users = {**_COMPONENTS, **{node_name(i): (f"system:node:{node_name(i)}", "system:nodes") for i in NODES}}
    lines = []
    for component, (user, group) in users.items():
        token = secrets.token_hex(16)
        lines.append(f'{token},{user},{user},"{group}"')
        write_kubeconfig(made, made.kubeconfig(component), {"token": token})
    made.tokens.write_text("\n".join(lines) + "\n")
    return made


def _request(config: Path) -> list[str | Path]:
    return [find("openssl"), "req", "-x509", "-config", config, *_KEY]


def _make_authority(made: Credentials) -> None:
    config = made.directory / "ca.cnf"
    config.write_text(_AUTHORITY)
    run([*_request(config), "-subj", "/CN=imagecache-test", "-keyout", made.ca_key, "-out", made.ca])


def issue(made: Credentials, name: str, hosts: Sequence[str]) -> Pair:
    """A server's certificate for these addresses and DNS names: ``name``.crt and .key beside the others."""
    pair = Pair(made.directory / f"{name}.crt", made.directory / f"{name}.key")
    config = made.directory / f"{name}.cnf"
    config.write_text(_SERVER.format(names=",".join(map(_alternative_name, hosts))))
    signer: list[str | Path] = ["-CA", made.ca, "-CAkey", made.ca_key]
    run([*_request(config), *signer, "-subj", f"/CN={name}", "-keyout", pair.key, "-out", pair.certificate])
    return pair


def _alternative_name(host: str) -> str:
    try:
        return f"IP:{ipaddress.ip_address(host)}"
    except ValueError:
        return f"DNS:{host}"


def write_kubeconfig(made: Credentials, path: Path, user: Mapping[str, str]) -> None:
    """``user`` says how to prove who one is: ``token``, or ``tokenFile``. JSON is YAML."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": made.server, "certificate-authority": str(made.ca)}}],
        "users": [{"name": "user", "user": dict(user)}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "user"}}],
        "current-context": "test",
    }
    path.write_text(json.dumps(document, indent=2))
