"""containerd's registry host configuration: mirrors and their settings, from ``hosts.toml``.

Source: containerd's docs/hosts.md and ``core/remotes/docker/config/hosts.go``: which directory is for a host, the order
of the servers, the type of each value, Docker's certificate files where ``hosts.toml`` does not exist or is empty. In
contrast to containerd, a file that cannot be read is an error, not a silent fallback to the registry itself. It must
not connect to anything.
"""

from __future__ import annotations

import dataclasses
import posixpath
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote, unquote

from yarl import URL

from imagecache.errors import InvalidSetting
from imagecache.registry.endpoint import ALL, Capability, Endpoint, Trust, default_endpoint, host_of
from imagecache.registry.go_duration import parse_duration
from imagecache.registry.go_url import has_broken_escape, parse_url
from imagecache.registry.tls_context import check_files

_CAPABILITIES = {
    "pull": Capability.PULL,
    "resolve": Capability.RESOLVE,
    "push": Capability(0),
    "referrers": Capability(0),
}
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
        text = ""
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSetting(f"cannot read {file}: {error}") from error
    if not text:
        return (dataclasses.replace(default_endpoint(host), trust=_certificate_files(found)),)
    return _parse(text, file, host)


def _place_for(directory: Path, host: str) -> Path | None:
    """``host_port_``, ``host:port``, then ``_default``. The first form is for filesystems without colons.

    A directory with ``hosts.toml`` and certificates, or the file itself: the keys of a ConfigMap have no slashes (nor
    colons), and its volume is one directory.
    """
    name, colon, port = host.rpartition(":")
    candidates = [f"{name}_{port}_"] if colon and port.isdigit() else []
    existing = (directory / candidate for candidate in [*candidates, host, "_default"])
    return next((path for path in existing if _exists(path)), None)


def _exists(path: Path) -> bool:
    """Anything but "not there" is an error, as in containerd (``core/remotes/docker/config``, HostDirFromRoot)."""
    try:
        path.stat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise InvalidSetting(
            f"cannot look for the registry's configuration at {str(path)[:320]}: {error.strerror}",
            hint="containerd refuses to pull then too: mend the directory, or the name of the registry's host",
        ) from error
    return True


def _parse(text: str, file: Path, host: str) -> tuple[Endpoint, ...]:
    try:
        document = _lower(tomllib.loads(text))
        mirrors = _table(document.get("host", {}), "host")
        endpoints = [_mirror(url, table, file.parent, host) for url, table in mirrors.items()]
        own = _text(document.get("server", ""), "server")
        last = _server(own, document, file.parent, host) if own else _registry(document, file.parent, host)
    except InvalidSetting as error:
        raise InvalidSetting(f"{file}: {error}", hint=error.hint) from error
    except (tomllib.TOMLDecodeError, ValueError) as error:
        raise InvalidSetting(f"{file} is malformed: {error}", hint="see docs/hosts.md of containerd") from error
    return (*endpoints, last)


def _lower(table: _Table) -> _Table:
    """Settings in any case, as go-toml reads them; ``host`` alone is looked for as it is (getSortedHosts)."""
    return {key.lower(): value for key, value in table.items() if key == "host" or key.lower() != "host"}


def _mirror(url: str, table: object, base: Path, host: str) -> Endpoint:
    where = f'[host."{url[:160]}"]'
    try:
        return _server(url, _lower(_table(table, "it")), base, host)
    except InvalidSetting as error:
        raise InvalidSetting(f"{where}: {error}", hint=error.hint) from error
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _server(address: str, table: _Table, base: Path, host: str) -> Endpoint:
    if address.startswith("http") and not address.startswith(("http://", "https://")):
        raise ValueError(f"{address[:160]!r} has no scheme, and containerd adds none to what begins with http")
    url = parse_url(address if address.startswith("http") else f"https://{address}")
    if not url.host:
        raise ValueError(f"no host in {address[:160]!r}")
    path = _path(url)
    # Without override_path, "/v2" is appended unless the address has it, as in containerd.
    if not _truth(table, "override_path") and not path.endswith("/v2"):
        path += "/v2"
    authority = host_of(url)
    same = authority in {host.lower(), default_endpoint(host).host}
    endpoint = Endpoint(scheme=url.scheme, host=authority, path=path, namespace="" if same else host)
    return _settings(endpoint, table, base)


def _path(url: URL) -> str:
    """As containerd has it: decoded, cleaned, and parsed once more in each request."""
    decoded = unquote(url.raw_path)
    if has_broken_escape(decoded):
        raise ValueError(f"the path of {str(url)[:160]!r} is no path when it is decoded")
    return quote(posixpath.normpath("/" + decoded.lstrip("/")).rstrip("/"), safe="/%:@!$&'()*+,;=~")


def _registry(table: _Table, base: Path, host: str) -> Endpoint:
    """The registry itself, where the file names no server: containerd reads path and capabilities, and uses neither."""
    _truth(table, "override_path")
    return dataclasses.replace(_settings(default_endpoint(host), table, base), capabilities=ALL)


def _settings(endpoint: Endpoint, table: _Table, base: Path) -> Endpoint:
    dial_timeout = _text(table.get("dial_timeout", ""), "dial_timeout")
    return dataclasses.replace(
        endpoint,
        capabilities=_capabilities(table.get("capabilities", [])),
        trust=_trust(table, base),
        headers=tuple(_headers(_table(table.get("header", {}), "header"))),
        dial_timeout=_seconds(dial_timeout) if dial_timeout else None,
    )


def _trust(table: _Table, base: Path) -> Trust:
    """Also where no TLS is spoken: containerd loads the files of every server, and then asks none if one is missing."""
    authorities = tuple(_file(name, "ca", base) for name in _list(table.get("ca", [])))
    clients = tuple(_client(entry, base) for entry in _list(table.get("client", [])))
    for key, files in ("ca", Trust(authorities=authorities)), ("client", Trust(clients=clients)):
        try:
            check_files(files)
        except InvalidSetting as error:
            raise InvalidSetting(f"{key}: {error}", hint=error.hint) from error
    return Trust(verify=not _truth(table, "skip_verify"), authorities=authorities, clients=clients)


def _capabilities(names: object) -> Capability:
    if not isinstance(names, list):
        raise ValueError('capabilities is not a list: write it like ["pull", "resolve"]')  # noqa: TRY004 - see _table
    listed = [name.lower() for name in _texts(names, "capabilities")]
    unknown = [name for name in listed if name not in _CAPABILITIES]
    if unknown:
        raise ValueError(f"unknown capability {unknown[0][:80]!r}")
    able = Capability(0)
    for name in listed:
        able |= _CAPABILITIES[name]
    return able if listed else ALL  # no list, or an empty one, means everything


def _client(entry: object, base: Path) -> tuple[Path, Path | None]:
    if not isinstance(entry, list):
        return _file(entry, "client", base), None
    if len(entry) != 2 or "" in entry:  # containerd's document leaves the key's name empty, and its code reads it
        raise ValueError('client: a pair is [["CERTIFICATE", "KEY"]], and one file with both is "FILE"')
    certificate, key = (_file(name, "client", base) for name in entry)
    return certificate, key


def _headers(table: _Table) -> Iterator[tuple[str, str]]:
    for name, values in table.items():
        for value in _texts(values, "header"):
            if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) or re.search(r"[\0\r\n]", value):
                raise ValueError(f"{name[:80]!r} is not a header")
            yield name, value


def _seconds(duration: str) -> float:
    try:
        return parse_duration(duration)
    except ValueError as error:
        raise ValueError(f"dial_timeout: {error}") from error


def _certificate_files(directory: Path) -> Trust:
    """Docker's pattern: ``*.crt`` are authorities, ``*.cert`` client certificates with ``*.key``."""
    certificates = _files(directory.glob("*.cert"))
    keys = {path: path.with_suffix(".key") for path in certificates}
    trust = Trust(
        authorities=_files(directory.glob("*.crt")),
        clients=tuple((path, key if key.exists() else None) for path, key in keys.items()),
    )
    check_files(trust)
    return trust


def _files(paths: Iterable[Path]) -> tuple[Path, ...]:
    return tuple(sorted(path for path in paths if not path.is_dir()))


def _table(value: object, name: str) -> _Table:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is not a table")  # noqa: TRY004 - the file is wrong, not our call
    return value


def _truth(table: _Table, key: str) -> bool:
    value = table.get(key, False)
    if not isinstance(value, bool):
        raise ValueError(f"{key} is neither true nor false: write one of them, without quotes")  # noqa: TRY004
    return value


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} is not text: write it in quotes")  # noqa: TRY004 - the file is wrong, not our call
    return value


def _file(value: object, key: str, base: Path) -> Path:
    name = _text(value, key)
    if not name:
        raise ValueError(f"{key} names a file without a name: name one, or remove it")
    return base / name


def _texts(value: object, name: str) -> list[str]:
    return [_text(item, name) for item in _list(value)]


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]
