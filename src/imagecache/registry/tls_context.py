"""TLS contexts from trust settings.

Loading the system's authorities takes 10 ms and more, so the caller keeps the context. It must not connect.
"""

from __future__ import annotations

import ssl

from imagecache.errors import InvalidSetting
from imagecache.registry.endpoint import Trust


def tls_context(trust: Trust) -> ssl.SSLContext:
    """The context for a server's trust settings. Raises InvalidSetting, which names the file."""
    context = ssl.create_default_context()
    if not trust.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    _load(context, trust)
    return context


def check_files(trust: Trust) -> None:
    """Raises InvalidSetting, as ``tls_context`` does, when a file cannot be used."""
    _load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), trust)  # without the system's authorities, which take time


def _load(context: ssl.SSLContext, trust: Trust) -> None:
    for authority in trust.authorities:
        try:
            context.load_verify_locations(cafile=authority)
        except OSError as error:  # ssl.SSLError is one
            raise InvalidSetting(
                f"cannot use the authorities in {authority}: {error}", hint="it must be a file of certificates in PEM"
            ) from error
    for certificate, key in trust.clients:
        try:
            # Without a password OpenSSL would ask for one on the terminal.
            context.load_cert_chain(certificate, key, password="")
        except (OSError, ValueError) as error:
            with_key = f" with the key {key}" if key else ""
            raise InvalidSetting(
                f"cannot use the client certificate {certificate}{with_key}: {error}",
                hint="it must be PEM, with an unencrypted key, in the same file or in one that is named with it",
            ) from error
