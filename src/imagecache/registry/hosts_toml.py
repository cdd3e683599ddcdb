"""containerd's registry host configuration: mirrors and their settings, from ``hosts.toml``.

Source: containerd's docs/hosts.md and ``core/remotes/docker/config/hosts.go``: which directory is for a host, the order
of the servers, Docker's certificate files where ``hosts.toml`` does not exist. In contrast to containerd, a file that
cannot be read is an error, not a silent fallback to the registry itself. It must not connect to anything.
"""

from __future__ import annotations

import dataclasses
import posixpath
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

from yarl import URL

from imagecache.errors import InvalidSetting
from imagecache.registry.endpoint import ALL, Capability, Endpoint, Trust, default_endpoint, host_of

_CAPABILITIES = {
    "pull": Capability.PULL,
    "resolve": Capability.RESOLVE,
    "push": Capability(0),
    "referrers": Capability(0),
}
# The part of Go's time.ParseDuration that makes sense for dialling.
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0}
_Table = Mapping[str, object]


def configured_endpoints(directory: Path, host: str) -> tuple[Endpoint, ...]:
    """The servers for the host of a reference, in the order to try; the registry itself is last.

    Raises InvalidSetting, which names the file.
    """
    found = _place_for(directory, host)
    if found is None:
        return (default_endpoint(host),)
    file = found if found.is_file() else found / "hosts.toml"
    try:
        text = file.read_text()
    except FileNotFoundError:
        return (dataclasses.replace(default_endpoint(host), trust=_certificate_files(found)),)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSetting(f"cannot read {file}: {error}") from error
    return _parse(text, file, host)


def _place_for(directory: Path, host: str) -> Path | None:
    """``host_port_``, ``host:port``, then ``_default``. The first form is for filesystems without colons.

    A directory with ``hosts.toml`` and certificates, or the file itself: the keys of a ConfigMap have no slashes (nor
    colons), and its volume is one directory.
    """
    name, colon, port = host.rpartition(":")
    candidates = [f"{name}_{port}_"] if colon and port.isdigit() else []
    existing = (directory / candidate for candidate in [*candidates, host, "_default"])
    return next((path for path in existing if path.exists()), None)


def _parse(text: str, file: Path, host: str) -> tuple[Endpoint, ...]:
    try:
        document: _Table = tomllib.loads(text)
        mirrors = _table(document.get("host", {}), "host")
        endpoints = [_server(url, _table(table, url), file.parent, host) for url, table in mirrors.items()]
        own = document.get("server")
        if own is None:  # the root of the file then configures the registry itself
            last = _settings(default_endpoint(host), document, file.parent)
        else:
            last = _server(_text(own, "server"), document, file.parent, host)
    except (tomllib.TOMLDecodeError, ValueError) as error:
        raise InvalidSetting(f"{file} is malformed: {error}", hint="see docs/hosts.md of containerd") from error
    return (*endpoints, last)


def _server(address: str, table: _Table, base: Path, host: str) -> Endpoint:
    url = URL(address if address.startswith(("http://", "https://")) else f"https://{address}")
    if not url.host:
        raise ValueError(f"no host in {address[:160]!r}")
    path = posixpath.normpath(url.raw_path).rstrip("/")
    # Without override_path, "/v2" is appended unless the address has it, as in containerd.
    if table.get("override_path") is not True and not path.endswith("/v2"):
        path += "/v2"
    authority = host_of(url)
    same = authority in {host.lower(), default_endpoint(host).host}
    endpoint = Endpoint(scheme=url.scheme, host=authority, path=path, namespace="" if same else host)
    return _settings(endpoint, table, base)


def _settings(endpoint: Endpoint, table: _Table, base: Path) -> Endpoint:
    trust = Trust(
        verify=table.get("skip_verify") is not True,
        authorities=tuple(base / name for name in _texts(table.get("ca", []), "ca")),
        clients=tuple(_client(pair, base) for pair in _list(table.get("client", []))),
    )
    return dataclasses.replace(
        endpoint,
        capabilities=_capabilities(_texts(table.get("capabilities", []), "capabilities")),
        trust=trust,
        headers=tuple(_headers(_table(table.get("header", {}), "header"))),
        dial_timeout=_seconds(table.get("dial_timeout")),
    )


def _capabilities(names: Iterable[str]) -> Capability:
    listed = [name.lower() for name in names]
    unknown = [name for name in listed if name not in _CAPABILITIES]
    if unknown:
        raise ValueError(f"unknown capability {unknown[0][:80]!r}")
    able = Capability(0)
    for name in listed:
        able |= _CAPABILITIES[name]
    return able if listed else ALL  # no list, or an empty one, means everything


def _client(pair: object, base: Path) -> tuple[Path, Path | None]:
    names = _texts(pair, "client")
    if len(names) not in {1, 2}:
        raise ValueError("an entry of client is a file, or a certificate and a key")
    return base / names[0], base / names[1] if names[1:] and names[1] else None


def _headers(table: _Table) -> Iterable[tuple[str, str]]:
    for name, values in table.items():
        for value in _texts(values, "header"):
            if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) or re.search(r"[\0\r\n]", value):
                raise ValueError(f"{name[:80]!r} is not a header")
            yield name, value


def _seconds(value: object) -> float | None:
    if value is None:
        return None
    match = _DURATION.fullmatch(_text(value, "dial_timeout"))
    if match is None:
        raise ValueError("dial_timeout is a number with ms, s or m")
    return float(match[1]) * _SECONDS[match[2]]


def _certificate_files(directory: Path) -> Trust:
    """Docker's pattern: ``*.crt`` are authorities, ``*.cert`` client certificates with ``*.key``."""
    certificates = sorted(directory.glob("*.cert"))
    keys = {path: path.with_suffix(".key") for path in certificates}
    return Trust(
        authorities=tuple(sorted(directory.glob("*.crt"))),
        clients=tuple((path, key if key.exists() else None) for path, key in keys.items()),
    )


def _table(value: object, name: str) -> _Table:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is not a table")  # noqa: TRY004 - the file is wrong, not our call
    return value


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} is not text")  # noqa: TRY004 - the file is wrong, not our call
    return value


def _texts(value: object, name: str) -> list[str]:
    return [_text(item, name) for item in _list(value)]


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]
