"""The server's certificate, loaded again when its files change.

cert-manager and Secret volumes replace the files of a running process. Each handshake looks at them (one stat each) and
uses the new ones; open connections keep theirs. It must not make certificates.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from imagecache.errors import InvalidSetting
from imagecache.file_version import FileVersion, file_version
from imagecache.telemetry.log import get_logger

_log = get_logger(__name__)


class ServerCertificate:
    """Raises InvalidSetting for unusable files; later versions that are unusable are logged and ignored."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate = certificate
        self._key = key
        try:
            self._versions = self._found()
            self._current = self._load()
        except (OSError, ValueError) as error:
            raise InvalidSetting(
                f"cannot use the certificate {certificate} with the key {key}: {error}",
                hint="both must be PEM, and the key not encrypted",
            ) from error
        self.context = self._current
        """For the listening socket: it switches to the newest one during the handshake."""

    def _found(self) -> tuple[FileVersion | None, FileVersion | None]:
        return file_version(self._certificate), file_version(self._key)

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self._certificate, self._key, password=_no_password)
        context.sni_callback = self._handshake
        return context

    def _handshake(
        self, connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _context: ssl.SSLContext
    ) -> None:
        self._refresh()
        connection.context = self._current

    def _refresh(self) -> None:
        try:
            found = self._found()
            if found != self._versions:
                self._current = self._load()
                self._versions = found
                _log.info("certificate replaced", file=str(self._certificate))
        except (OSError, ValueError) as error:
            # certificate and key are replaced one by one: the next handshake retries
            _log.warning("certificate cannot be used", file=str(self._certificate), problem=str(error))


def _no_password() -> str:
    """Without this, OpenSSL would ask on the terminal for the password of an encrypted key."""
    return ""
