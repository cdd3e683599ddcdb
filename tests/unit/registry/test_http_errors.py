"""The tables: statuses, exceptions, Retry-After, TLS files."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
from pathlib import Path

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from yarl import URL

from imagecache.backoff import Retryable
from imagecache.errors import (
    AccessDenied,
    ImageNotFound,
    InvalidSetting,
    ProtocolViolation,
    RateLimited,
    RegistryError,
    RegistryUnavailable,
    RegistryUntrusted,
    Unauthenticated,
)
from imagecache.registry.config import RegistryConfig
from imagecache.registry.endpoint import Trust, default_endpoint
from imagecache.registry.http_errors import (
    error_code,
    may_try_again,
    retry_after,
    speaks_plain_http,
    status_error,
    transport_error,
)
from imagecache.registry.tls_context import tls_context
from imagecache.registry.transport import Transport

KEY = ConnectionKey("r.example", 443, True, True, None, None, None)
NOW = dt.datetime(2024, 5, 1, 12, 0, 0, tzinfo=dt.UTC)


def ssl_error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, "text")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("status", "kind", "again"),
    [
        (401, Unauthenticated, False),
        (403, AccessDenied, False),
        (404, ImageNotFound, False),
        (408, RegistryUnavailable, True),
        (429, RateLimited, True),
        (500, RegistryUnavailable, True),
        (503, RegistryUnavailable, True),
        (501, ProtocolViolation, False),
        (507, RegistryUnavailable, False),
        (400, ProtocolViolation, False),
        (302, ProtocolViolation, False),
    ],
)
def test_statuses(status: int, kind: type[RegistryError], again: bool) -> None:
    error = status_error(status, "r.example", "manifest 1", "DENIED", 3.0)

    assert type(error) is kind
    assert str(status) in str(error)
    assert "r.example" in str(error)
    assert "DENIED" in str(error)
    assert error.hint
    assert may_try_again(status) is again


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"errors":[{"code":"DENIED","message":"m"}]}', "DENIED"),
        (b'{"errors":[{"code":"odd"},{"code":"NAME_UNKNOWN"}]}', "NAME_UNKNOWN"),
        (b'{"errors":[{"code":"secret word"}]}', ""),
        (b'{"Errors":[null,{"CODE":"DENIED","detail":"\\ud800","message":null}]}', "DENIED"),
        (b'{"errors":null}', ""),
        (b'{"errors":[]}', ""),
        (b"<html>", ""),
        (b"\xff", ""),
    ],
)
def test_codes(body: bytes, code: str) -> None:
    assert error_code(body) == code


@pytest.mark.parametrize(
    ("field", "seconds"),
    [
        (None, None),
        ("", None),
        ("7", 7.0),
        (" 0 ", 0.0),
        ("9" * 30, 999_999_999.0),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("Wed, 01 May 2024 12:01:00 GMT", 60.0),
        ("Wed, 01 May 2024 12:01:00 -0000", 60.0),
        ("Wed, 01 May 2024 11:00:00 GMT", 0.0),
    ],
)
def test_retry_after(field: str | None, seconds: float | None) -> None:
    assert retry_after(field, NOW) == seconds


def kind_of(error: Exception) -> tuple[type[RegistryError], bool, str]:
    ours = transport_error(error, "r.example")
    inner = ours.error if isinstance(ours, Retryable) else ours
    assert isinstance(inner, RegistryError)
    return type(inner), isinstance(ours, Retryable), f"{inner} {inner.hint}"


CERTIFICATE = ssl.SSLCertVerificationError(1, "certificate verify failed")
CERTIFICATE.verify_message = "self-signed certificate"


@pytest.mark.parametrize(
    ("error", "kind", "again", "text"),
    [
        (
            aiohttp.ClientConnectorDNSError(KEY, OSError(socket.EAI_NONAME, "no name")),
            RegistryUnavailable,
            False,
            "DNS",
        ),
        (aiohttp.ClientConnectorDNSError(KEY, OSError(socket.EAI_AGAIN, "again")), RegistryUnavailable, True, "DNS"),
        (aiohttp.ClientConnectorError(KEY, OSError(111, "refused")), RegistryUnavailable, True, "refused"),
        (aiohttp.ClientConnectorError(KEY, OSError()), RegistryUnavailable, True, "no connection"),
        (
            aiohttp.ClientConnectorCertificateError(KEY, CERTIFICATE),
            RegistryUntrusted,
            False,
            "k8s.aliyun.com/insecure-registry",
        ),
        (
            aiohttp.ClientConnectorSSLError(KEY, ssl_error("WRONG_VERSION_NUMBER")),
            RegistryUntrusted,
            False,
            "k8s.aliyun.com/plain-http-registry",
        ),
        (aiohttp.ClientConnectorSSLError(KEY, ssl_error("ODD")), RegistryUntrusted, False, "handshake failed"),
        (ssl_error("ODD"), RegistryUntrusted, False, "handshake failed"),
        (TimeoutError(), RegistryUnavailable, True, "in time"),
        (aiohttp.SocketTimeoutError(), RegistryUnavailable, True, "in time"),
        (aiohttp.ServerDisconnectedError(), RegistryUnavailable, True, "broke"),
        (aiohttp.ClientPayloadError(), RegistryUnavailable, True, "broke"),
        (ConnectionResetError(), RegistryUnavailable, True, "broke"),
        (aiohttp.InvalidURL("http://x?word"), ProtocolViolation, False, "HTTP"),
    ],
)
def test_exceptions(error: Exception, kind: type[RegistryError], again: bool, text: str) -> None:
    actual, retryable, shown = kind_of(error)

    assert actual is kind
    assert retryable is again
    assert text in shown
    assert "r.example" in shown
    assert "word" not in shown


def test_the_certificate_error_says_why() -> None:
    assert "self-signed certificate" in kind_of(aiohttp.ClientConnectorCertificateError(KEY, CERTIFICATE))[2]


def test_plain_http_is_recognised() -> None:
    assert speaks_plain_http(aiohttp.ClientConnectorSSLError(KEY, ssl_error("WRONG_VERSION_NUMBER")))
    assert not speaks_plain_http(aiohttp.ClientConnectorCertificateError(KEY, CERTIFICATE))
    assert not speaks_plain_http(aiohttp.ClientConnectorError(KEY, OSError(111, "refused")))
    assert not speaks_plain_http(aiohttp.ServerDisconnectedError())


def test_trust(tmp_path: Path) -> None:
    assert tls_context(Trust()).verify_mode is ssl.CERT_REQUIRED
    assert tls_context(Trust(verify=False)).verify_mode is ssl.CERT_NONE
    bad = tmp_path / "bad.pem"
    bad.write_text("nothing")
    for trust in (Trust(authorities=(bad,)), Trust(clients=((bad, None),)), Trust(authorities=(tmp_path / "absent",))):
        with pytest.raises(InvalidSetting, match=str(tmp_path)):
            tls_context(trust)


@pytest.mark.parametrize("url", ["https://r.example/v2/", "https://tokens.example/token"])
def test_authorities_for_every_server(tmp_path: Path, url: str) -> None:
    """Also those that a registry names: its token server, and where it has its layers."""
    bad = tmp_path / "bad.pem"
    bad.write_text("nothing")
    transport = Transport(RegistryConfig(authorities=(bad,)))

    with pytest.raises(InvalidSetting, match=str(bad)):
        transport._context(default_endpoint("r.example"), URL(url))
