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
    for authority in trust.authorities:
        try:
            context.load_verify_locations(cafile=authority)
        except OSError as error:  # ssl.SSLError is one
            raise InvalidSetting(
                f"cannot use the authorities in {authority}: {error}", hint="it must be PEM"
            ) from error
    for certificate, key in trust.clients:
        try:
            # Without a password OpenSSL would ask for one on the terminal.
            context.load_cert_chain(certificate, key, password="")
        except (OSError, ValueError) as error:
            raise InvalidSetting(
                f"cannot use the client certificate {certificate}: {error}",
                hint="it must be PEM, with an unencrypted key",
            ) from error
    return context
