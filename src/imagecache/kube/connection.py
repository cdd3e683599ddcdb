"""Address of the API server and our identity there: a Pod's service account, or a kubeconfig file.

Source: kubernetes.io "Accessing the API from a Pod", client-go ``tools/clientcmd``. The caller reads the environment.
Secrets of it must not reach an error or a text form.
"""

from __future__ import annotations

import base64
import binascii
import json
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from imagecache.api import yamltext
from imagecache.api.yamltext import JSON
from imagecache.errors import InvalidManifest, InvalidSetting
from imagecache.kube.objects import at, text

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach the API server."""

    server: str
    """``https://host:port``, without a slash at the end."""
    ca: str = ""
    """PEM; empty: the system's."""
    insecure: bool = False
    certificate: str = ""
    """PEM of a client certificate."""
    key: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    token_file: Path | None = None
    """Read again while we run: kubelet replaces projected tokens."""
    namespace: str = "default"
    """Of the Pod or of the kubeconfig's context."""

    def ssl_context(self) -> ssl.SSLContext:
        """For this server. Raises InvalidSetting when a certificate cannot be parsed."""
        try:
            context = ssl.create_default_context(cadata=self.ca or None)
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # many clusters' own authorities lack key identifiers
            if self.insecure:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if self.certificate:
                self._load_identity(context)
        except (ssl.SSLError, ValueError) as error:
            raise InvalidSetting(
                f"{self.server}: a certificate of the configuration cannot be parsed: {error}"
            ) from error
        return context

    def _load_identity(self, context: ssl.SSLContext) -> None:
        """Python's ssl reads client certificates from files only."""
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
            file.write(f"{self.certificate}\n{self.key}\n")
            file.flush()
            context.load_cert_chain(file.name)


def kubeconfig_text(access: Connection) -> str:
    """A kubeconfig file for the same server and namespace, with ``ca.crt`` and ``token`` in files beside it."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "cluster", "cluster": {"server": access.server, "certificate-authority": "ca.crt"}},
        ],
        # a token in a file of its own is read again and again, so that it may expire
        "users": [{"name": "agent", "user": {"tokenFile": "token"}}],
        "contexts": [
            {"name": "agent", "context": {"cluster": "cluster", "user": "agent", "namespace": access.namespace}}
        ],
        "current-context": "agent",
    }
    return json.dumps(document, indent=2) + "\n"


def find(kubeconfig_file: str, environ: Mapping[str, str], home: Path) -> Connection:
    """The named kubeconfig; else the Pod's service account; else what kubectl uses. Raises InvalidSetting."""
    if kubeconfig_file:
        return kubeconfig(Path(kubeconfig_file))
    found = in_cluster(environ)
    if found is not None:
        return found
    path = Path(environ.get("KUBECONFIG") or home / ".kube" / "config")
    if not path.exists():
        raise InvalidSetting(
            f"this is not a Pod with a service account, and {path} does not exist", hint="name one with --kubeconfig"
        )
    return kubeconfig(path)


def in_cluster(environ: Mapping[str, str], directory: Path = SERVICE_ACCOUNT) -> Connection | None:
    """The service account of the Pod that we run in; None outside a Pod. Raises InvalidSetting."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT")
    token_file = directory / "token"
    if not host or not port or not token_file.exists():
        return None
    name = directory / "namespace"
    return Connection(
        server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
        ca=_read(directory / "ca.crt"),
        token_file=token_file,
        namespace=_read(name).strip() if name.exists() else "default",
    )


def kubeconfig(path: Path) -> Connection:
    """The current context of a kubeconfig file. Raises InvalidSetting."""
    try:
        documents = yamltext.load(_read(path), str(path))
    except InvalidManifest as error:
        raise InvalidSetting(str(error), hint=error.hint) from error
    document = documents[0].value if documents else None
    context = _named(document, "contexts", text(document, "current-context"), path)
    cluster = _named(document, "clusters", text(context, "context", "cluster"), path)
    user = _named(document, "users", text(context, "context", "user"), path)
    return _connection(at(cluster, "cluster"), at(user, "user"), text(context, "context", "namespace"), path)


def _connection(cluster: JSON, user: JSON, namespace: str, path: Path) -> Connection:
    for unknown in ("exec", "auth-provider", "username"):
        if at(user, unknown) is not None:
            raise InvalidSetting(
                f"{path}: the user's {unknown!r} is not supported", hint="use a token or a client certificate"
            )
    server = text(cluster, "server").rstrip("/")
    if not server:
        raise InvalidSetting(f"{path}: the cluster has no server", hint="kubectl config view shows it")
    token_file = text(user, "tokenFile")
    return Connection(
        server=server,
        ca=_pem(cluster, "certificate-authority", path),
        insecure=at(cluster, "insecure-skip-tls-verify") is True,
        certificate=_pem(user, "client-certificate", path),
        key=_pem(user, "client-key", path),
        token="" if token_file else text(user, "token"),
        token_file=path.parent / token_file if token_file else None,
        namespace=namespace or "default",
    )


def _named(document: JSON, kind: str, name: str, path: Path) -> JSON:
    entries = at(document, kind)
    for entry in entries if isinstance(entries, list) else []:
        if text(entry, "name") == name:
            return entry
    raise InvalidSetting(f"{path}: no {name!r} under {kind}", hint="kubectl config view lists them")


def _pem(item: JSON, key: str, path: Path) -> str:
    """Inline base64 data, or a file named relative to the kubeconfig."""
    data, file = text(item, f"{key}-data"), text(item, key)
    if data:
        try:
            return base64.b64decode(data, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise InvalidSetting(f"{path}: {key}-data is not base64 of a PEM text") from error
    return _read(path.parent / file) if file else ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        problem = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise InvalidSetting(f"{path}: {problem}", hint="check the file and its mode") from error
