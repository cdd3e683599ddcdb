"""A registry that is a directory of blobs: it serves what it is given, and has no opinion about it.

docker-registry refuses documents that it thinks malformed, which other registries hold. Everything is public and is
served by HTTP on loopback, from threads, so that a real containerd can pull while a test waits.
"""

from __future__ import annotations

import contextlib
import gzip
import socket
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Self

from imagecache.digest import Digest
from testkit.oci_layout import Image, Layout

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from imagecache.digest import DiffID


@dataclass(frozen=True, slots=True)
class Published(Image):
    """Documents as they are, which need not be readable, and the diffIDs of the image that they mean."""

    layers_of: tuple[DiffID, ...] = ()

    @property
    def diff_ids(self) -> list[DiffID]:
        return list(self.layers_of)


def publish(
    layout: Layout, media_type: str, document: Mapping[str, object] | bytes, diff_ids: Sequence[DiffID]
) -> Published:
    """The image whose index or manifest this is; what it names is in the layout."""
    if isinstance(document, bytes):
        descriptor = layout.add(media_type, document)
    else:
        descriptor = layout.add_document(media_type, document)
    return Published(layout.directory, descriptor, tuple(diff_ids))


class StaticRegistry:
    """A context manager; listens while inside."""

    def __init__(self) -> None:
        self.encoded: set[Digest] = set()
        """Blobs that are sent with gzip as Content-Encoding."""
        self._directories: set[Path] = set()
        self._tags: dict[str, Image] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"registry": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, name="static registry", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def push(self, name: str, image: Image) -> str:
        """Serve an image as ``repository:tag``; returns the full reference."""
        self._directories.add(image.directory)
        self._tags[name] = image
        return f"{self.address}/{name}"

    def find(self, path: str) -> tuple[str, str, bytes] | None:
        """Content-Type, digest and bytes of a manifest or blob."""
        repository, _, last = path.removeprefix("/v2/").rpartition("/")
        repository, _, kind = repository.rpartition("/")
        tagged = self._tags.get(f"{repository}:{last}") if kind == "manifests" else None
        digest = str(tagged.descriptor.digest) if tagged else last
        if tagged is None:
            image = next((each for each in self._tags.values() if each.descriptor.digest == digest), None)
            media_type = image.descriptor.media_type if image else "application/octet-stream"
        else:
            media_type = tagged.descriptor.media_type
        for directory in tuple(self._directories):
            blob = directory / "blobs" / "sha256" / digest.removeprefix("sha256:")
            if digest.startswith("sha256:") and blob.is_file():
                return media_type, digest, blob.read_bytes()
        return None


class _Handler(BaseHTTPRequestHandler):
    registry: StaticRegistry
    protocol_version = "HTTP/1.1"

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # clients that have refused the image
            if self.connection.recv(1, socket.MSG_PEEK) == b"\x16":  # TLS: as Go answers, clients try HTTP then
                self.connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")
            else:
                super().handle()

    def do_HEAD(self) -> None:
        self._answer(head=True)

    def do_GET(self) -> None:
        self._answer(head=False)

    def _answer(self, *, head: bool) -> None:
        path = self.path.partition("?")[0]
        found = ("application/json", "", b"{}") if path == "/v2/" else self.registry.find(path)
        if found is None:
            self.send_error(404)
            return
        media_type, digest, body = found
        self.send_response(200)
        self.send_header("Content-Type", media_type)
        if digest:
            self.send_header("Docker-Content-Digest", digest)
        if digest in self.registry.encoded:
            body = gzip.compress(body, mtime=0)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if not head:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        """Nothing: the tests' output is for what fails."""
