"""The one table from HTTP failures to the errors that a user reads.

Statuses and aiohttp's exceptions become errors of the RegistryError family. The text of a registry is not repeated,
except for codes of the distribution specification: a hostile registry could echo a secret. It must not do I/O.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import socket
import ssl

import aiohttp
import msgspec

from imagecache import foreign_json
from imagecache.backoff import Retryable
from imagecache.errors import (
    AccessDenied,
    ImageNotFound,
    MalformedDocument,
    ProtocolViolation,
    RateLimited,
    RegistryError,
    RegistryUnavailable,
    RegistryUntrusted,
    Unauthenticated,
)

_CODES = frozenset(
    {
        "BLOB_UNKNOWN",
        "DENIED",
        "MANIFEST_BLOB_UNKNOWN",
        "MANIFEST_INVALID",
        "MANIFEST_UNKNOWN",
        "NAME_INVALID",
        "NAME_UNKNOWN",
        "NOT_FOUND",
        "TAG_INVALID",
        "TOOMANYREQUESTS",
        "UNAUTHORIZED",
        "UNAVAILABLE",
        "UNKNOWN",
        "UNSUPPORTED",
    }
)
"""Codes of distribution-spec v1.1, "Error Codes", and older ones that registries still send."""
_DIGITS = 9
"""Of a Retry-After that are read: more seconds than any bound."""
_SERVER_SIDE = frozenset({408, 500, 502, 503, 504})
"""Worth a retry. 501 and 505 are not: they say that the server cannot do it at all."""
_NOT_TLS = (
    "WRONG_VERSION_NUMBER",
    "HTTP_REQUEST",
    "UNKNOWN_PROTOCOL",
    "PACKET_LENGTH_TOO_LONG",
    "RECORD_LAYER_FAILURE",
)
"""OpenSSL's reasons when the other side does not speak TLS."""
_ABSENT_NAME = frozenset({socket.EAI_NONAME, socket.EAI_NODATA})
"""DNS answered that the name does not exist: no retry. Every other failure of DNS (EAI_AGAIN) may be temporary."""
_PLAIN_HINT = (
    "trust its authority in hosts.toml (in a cluster: the chart's controller.caBundle or controller.hosts); or, where "
    "the setting insecure_registries has {host}, add it to the annotation k8s.aliyun.com/plain-http-registry if it "
    "speaks plain HTTP, to k8s.aliyun.com/insecure-registry if its certificate is self-signed"
)
_NOT_FOUND_HINT = (
    "check repository and tag; some registries hide private images like this. If it was pushed since then, the "
    "annotation imagecache.dev/refresh with any new value tries again"
)
_NO_REGISTRY_HINT = (
    "if it is away, it is tried again without help; else check the host in the reference. Plain HTTP takes the "
    "annotation k8s.aliyun.com/plain-http-registry and the chart's insecureRegistries, an authority of one's own "
    "controller.caBundle or controller.hosts. The controller's log says what has happened"
)
_PROXY_HINT = (
    "check the variables HTTP_PROXY and HTTPS_PROXY (http://user:password@host:port) and what the proxy allows, "
    "or name the registry in NO_PROXY"
)


class _ErrorItem(msgspec.Struct):
    code: str = ""


class _ErrorBody(msgspec.Struct):
    errors: tuple[_ErrorItem, ...] = ()


def error_code(body: bytes) -> str:
    """The first code of an error answer that is one of the specification's; empty when there is none."""
    try:
        codes = [item.code for item in foreign_json.decode(body, _ErrorBody, conflicts=False).errors]
    except MalformedDocument:
        return ""
    return next((code for code in codes if code in _CODES), "")


def status_error(status: int, host: str, what: str, code: str = "", after: float | None = None) -> RegistryError:
    """The error for an answer that is not a success.

    Args:
        status: of the HTTP answer.
        host: that answered.
        what: the requested thing: ``manifest 1.25``, ``blob sha256:...``.
        code: the specification's error code; empty when there is none.
        after: seconds of Retry-After.
    """
    said = f"{host} answers {status}{f' {code}' if code else ''} to the request for {what}"
    if status == 401:
        return Unauthenticated(
            said,
            hint=f"provide a credential for {host}: spec.imagePullSecrets (on a plain host also: docker login {host})",
        )
    if status == 403:
        return AccessDenied(said, hint=f"the account needs the right to pull this repository from {host}")
    if status == 404:
        return ImageNotFound(said, hint=_NOT_FOUND_HINT)
    if status == 429:
        wait = f" in {after:.0f} s" if after else " later"
        return RateLimited(said, hint=f"try again{wait}, or use a credential with a higher limit", retry_after=after)
    if status in _SERVER_SIDE or status > 504:
        return RegistryUnavailable(said, hint="try again later; the registry's own log says why")
    return ProtocolViolation(said, hint=f"is {host} a registry, and is plain HTTP or HTTPS right?")


def no_registry(host: str) -> RegistryUnavailable:
    """The one answer about all that is no registry: a name that does not exist, a port that is closed, a web page.

    Else whoever may name any address, and not reach it, would learn what is there.
    """
    return RegistryUnavailable(f"{host} did not answer as a registry", hint=_NO_REGISTRY_HINT)


def retry_after(field: str | None, now: dt.datetime) -> float | None:
    """Seconds that a Retry-After field asks for (RFC 9110 §10.2.3, a number or a date); None when it has neither."""
    text = (field or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:_DIGITS])
    try:
        date = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=dt.UTC)
    return max(0.0, (date - now).total_seconds())


def may_try_again(status: int) -> bool:
    return status == 429 or status in _SERVER_SIDE


def speaks_plain_http(error: aiohttp.ClientError) -> bool:
    """Whether a TLS handshake failed because the server does not speak TLS."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    return _is_not_tls(cause)


def transport_error(error: Exception, host: str) -> Retryable | RegistryError:
    """Our error for an exception of aiohttp, asyncio or ssl."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return _no_name(error, host)
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError | ssl.SSLError):
        return RegistryUntrusted(
            f"no TLS connection to {host}: {_tls_reason(error)}", hint=_PLAIN_HINT.format(host=host)
        )
    if isinstance(error, TimeoutError):
        return Retryable(
            RegistryUnavailable(f"{host} did not answer in time", hint="check the network, proxies and firewalls")
        )
    if isinstance(error, aiohttp.ClientConnectorError):
        reason = error.os_error.strerror or "no connection"
        whom, hint = host, "check that the registry runs, its port, and firewalls"
        if isinstance(error, aiohttp.ClientProxyConnectionError):
            whom, hint = f"the proxy {error.host}:{error.port} on the way to {host}", _PROXY_HINT
        return Retryable(RegistryUnavailable(f"cannot connect to {whom}: {reason}", hint=hint))
    if isinstance(error, aiohttp.ClientConnectionError | aiohttp.ClientPayloadError | ConnectionError):
        return Retryable(RegistryUnavailable(f"the connection to {host} broke", hint="try again"))
    return ProtocolViolation(f"{host} does not answer in HTTP ({type(error).__name__})", hint=f"is {host} a registry?")


def proxy_error(status: int, host: str) -> Retryable | RegistryError:
    """The error for an answer that comes from the proxy, not from the registry."""
    said = "requires a credential" if status == 407 else f"answers {status}"
    error = RegistryUnavailable(f"the proxy on the way to {host} {said}", hint=_PROXY_HINT)
    return Retryable(error) if may_try_again(status) else error


def _no_name(error: aiohttp.ClientConnectorDNSError, host: str) -> Retryable | RegistryError:
    unavailable = RegistryUnavailable(
        f"the host name of {host} cannot be resolved", hint="check the host in the reference, and DNS of this machine"
    )
    return unavailable if error.os_error.errno in _ABSENT_NAME else Retryable(unavailable)


def _tls_reason(error: Exception) -> str:
    cause = error
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        cause = error.certificate_error
    elif isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({cause.verify_message})"
    return "it does not speak TLS" if _is_not_tls(cause) else "the handshake failed"


def _is_not_tls(cause: BaseException) -> bool:
    reason: str | None = getattr(cause, "reason", None)  # absent when Python made the exception, not OpenSSL
    return isinstance(cause, ssl.SSLError) and (reason or "").upper() in _NOT_TLS
