"""A real docker-registry on loopback, with its access log as data.

Images are pushed by the distribution API itself, so that every byte and media type arrives as made; ``skopeo`` is there
for those who want a real client. Users, TLS, stop and start on the same port.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import errno
import http.client
import os
import re
import secrets
import signal
import socket
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from testkit.peers.processes import Daemon
from testkit.peers.programs import PeerFailed, environment, find, run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from imagecache.digest import Digest
    from testkit.oci_layout import Image

_AGENT = "imagecache-testing"
_ACCESS = re.compile(r'^\S+ - \S+ \[[^\]]*\] "(\S+) (\S+) HTTP/[0-9.]+" (\d{3}) (\d+) "[^"]*" "([^"]*)"')
_CONFIG = """\
version: 0.1
log: {{level: warn, accesslog: {{disabled: false}}}}
storage:
  filesystem: {{rootdirectory: {root}, maxthreads: 100}}
  delete: {{enabled: true}}
  maintenance: {{uploadpurging: {{enabled: false}}}}
http:
  addr: {address}
  secret: not-a-secret
"""
_TLS = "  tls: {{certificate: {certificate}, key: {key}}}\n"
_AUTH = "auth: {{htpasswd: {{realm: test, path: {path}}}}}\n"


@dataclass(frozen=True, slots=True)
class Request:
    """One line of the access log."""

    method: str
    path: str
    status: int
    sent: int
    """Bytes of the answer's body."""


_PORTS = range(12_000, 30_000)
"""Below those of Kubernetes' Services (30000) and those that the kernel gives to connections (32768)."""


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port of ``host`` that was free a moment ago, and that no connection gets meanwhile."""
    while True:
        port = secrets.choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return port


def bcrypt_hash(password: str) -> str:
    """The only form of htpasswd that docker-registry reads, from the C library's crypt(3)."""
    library = ctypes.CDLL("libcrypt.so.1")
    library.crypt.restype = ctypes.c_char_p
    hashed: bytes | None = library.crypt(password.encode(), b"$2a$04$imagecacheimagecacheie")
    if not hashed or not hashed.startswith(b"$2a$"):
        raise PeerFailed("crypt(3) of this system makes no bcrypt")
    return hashed.decode()


class Registry:
    """A registry with its own storage in ``directory``. A context manager; started on entry.

    ``host`` is the address of this machine that it listens on: loopback, or a cluster's for its nodes to reach it.
    """

    def __init__(
        self, directory: Path, *, users: Mapping[str, str] | None = None, tls: bool = False, host: str = "127.0.0.1"
    ) -> None:
        self.directory = directory
        self.host = host
        self.port = free_port(host)
        self.address = f"{host}:{self.port}"
        self.tls = tls
        self.url = f"{'https' if tls else 'http'}://{self.address}"
        self.certificate = directory / "trust" / "ca.crt"
        """PEM of the self-signed certificate when ``tls``; the only file of its folder, as clients' cert-dir wants."""
        self._users = dict(users or {})
        self._skipped = 0
        directory.mkdir(parents=True, exist_ok=True)
        config = directory / "registry.yml"
        config.write_text(self._config())
        self._daemon = Daemon("registry", [find("docker-registry"), "serve", config], directory, environment())

    def _config(self) -> str:
        text = _CONFIG.format(root=self.directory / "registry", address=self.address)
        if self.tls:
            key = self.directory / "registry.key"
            self._make_certificate(key)
            text += _TLS.format(certificate=self.certificate, key=key)
        if self._users:
            path = self.directory / "htpasswd"
            path.write_text("".join(f"{user}:{bcrypt_hash(word)}\n" for user, word in self._users.items()))
            text += _AUTH.format(path=path)
        return text

    def _make_certificate(self, key: Path) -> None:
        names = f"subjectAltName=IP:{self.host},DNS:localhost"
        self.certificate.parent.mkdir(exist_ok=True)
        subject = ["-subj", f"/CN={self.host}", "-addext", names, "-days", "30", "-nodes"]
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        run([find("openssl"), "req", "-x509", *curve, *subject, "-keyout", key, "-out", self.certificate])

    # life

    def start(self) -> None:
        self._daemon.start(self._answers)

    def stop(self) -> None:
        """After this the port refuses connections; ``start`` brings the same registry back."""
        self._daemon.stop()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Inside, it accepts connections and sends nothing: whoever needs another byte of it cannot end."""
        os.kill(self._daemon.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._daemon.pid, signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def log_tail(self) -> str:
        return self._daemon.tail()

    def _answers(self) -> bool:
        try:
            self._call("GET", "/v2/")
        except OSError:
            return False
        return True

    # what clients asked

    def requests(self) -> list[Request]:
        """Requests answered since ``clear_requests``, as in the access log; this class's own left out."""
        return self._logged()[self._skipped :]

    def clear_requests(self) -> None:
        self._skipped = len(self._logged())

    def _logged(self) -> list[Request]:
        if self._daemon.running:
            self._call("GET", "/v2/")  # its line comes after those of all requests answered before
        lines = self._daemon.log.read_text(errors="replace").splitlines()
        matches = [match for line in lines if (match := _ACCESS.match(line)) and match[5] != _AGENT]
        return [Request(match[1], match[2], int(match[3]), int(match[4])) for match in matches]

    def blobs(self) -> list[Path]:
        """The files that it serves (``distribution``'s layout: blobs/sha256/AB/DIGEST/data)."""
        return sorted(self.directory.glob("registry/docker/registry/v2/blobs/sha256/*/*/data"))

    # pushing

    def push(self, name: str, image: Image) -> str:
        """Upload an image (or an index with all its images) as ``repository:tag``; returns the full reference."""
        repository, _, tag = name.rpartition(":")
        self._push_tree(repository, image)
        self._put_manifest(repository, tag, image)
        return f"{self.address}/{name}"

    def push_manifest(self, name: str, image: Image, body: bytes) -> str:
        """Upload an image's blobs, and ``body`` as its manifest, whatever it says; returns the full reference."""
        repository, _, tag = name.rpartition(":")
        self._push_tree(repository, image)
        path = self.directory / "manifest.json"
        path.write_bytes(body)
        self._expect(
            201, "PUT", f"/v2/{repository}/manifests/{tag}", path, {"Content-Type": image.descriptor.media_type}
        )
        return f"{self.address}/{name}"

    def _push_tree(self, repository: str, image: Image) -> None:
        children = image.children()
        for child in children:
            self._push_tree(repository, child)
            self._put_manifest(repository, str(child.descriptor.digest), child)
        if not children:
            for blob in {item.digest: item for item in [image.config, *image.layers]}.values():
                self._put_blob(repository, blob.digest, image.blob(blob.digest))

    def _put_blob(self, repository: str, digest: Digest, path: Path) -> None:
        if self._call("HEAD", f"/v2/{repository}/blobs/{digest}").status == 200:
            return
        started = self._expect(202, "POST", f"/v2/{repository}/blobs/uploads/")
        location = started.headers.get("Location", "")
        target = location.removeprefix(self.url)
        target += f"{'&' if '?' in target else '?'}digest={digest}"
        self._expect(201, "PUT", target, path, {"Content-Type": "application/octet-stream"})

    def _put_manifest(self, repository: str, reference: str, image: Image) -> None:
        path = image.blob(image.descriptor.digest)
        target = f"/v2/{repository}/manifests/{reference}"
        self._expect(201, "PUT", target, path, {"Content-Type": image.descriptor.media_type})

    def delete_blob(self, repository: str, digest: Digest) -> None:
        self._expect(202, "DELETE", f"/v2/{repository}/blobs/{digest}")

    def delete_manifest(self, repository: str, digest: Digest) -> None:
        self._expect(202, "DELETE", f"/v2/{repository}/manifests/{digest}")

    def _expect(
        self, status: int, method: str, target: str, body: Path | None = None, headers: Mapping[str, str] | None = None
    ) -> _Answer:
        answer = self._call(method, target, body, headers)
        if answer.status != status:
            raise PeerFailed(f"registry answered {answer.status} to {method} {target}: {answer.text}")
        return answer

    def _call(
        self, method: str, target: str, body: Path | None = None, headers: Mapping[str, str] | None = None
    ) -> _Answer:
        connection = self._connection()
        sent = {"User-Agent": _AGENT, **self._authorization(), **(headers or {})}
        try:
            if body is None:
                connection.request(method, target, headers=sent)
            else:
                with body.open("rb") as file:
                    sent["Content-Length"] = str(body.stat().st_size)
                    connection.request(method, target, body=file, headers=sent)
            response = connection.getresponse()
            return _Answer(response.status, dict(response.getheaders()), response.read().decode(errors="replace"))
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if not self.tls:
            return http.client.HTTPConnection(self.host, self.port, timeout=120)
        context = ssl.create_default_context(cafile=str(self.certificate))
        return http.client.HTTPSConnection(self.host, self.port, timeout=120, context=context)

    def _authorization(self) -> dict[str, str]:
        for user, password in self._users.items():
            return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}
        return {}


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: dict[str, str]
    text: str
