"""Credentials in Docker's formats: ``config.json``, and the two payloads of Kubernetes image pull secrets.

They are read as Go reads them (``foreign_json``), and entry by entry: one that is broken is an error for its own
registry and for no other. Source: docker/cli's ``cli/config/configfile``, kubelet's ``pkg/credentialprovider``. The
caller reads the Secrets; this module parses bytes and finds the credential for a repository. It must not keep or show
text that it cannot parse.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from imagecache import foreign_json
from imagecache.errors import InvalidSetting, MalformedDocument
from imagecache.limits import MIB
from imagecache.registry.auth_keys import most_specific_first
from imagecache.registry.credential_helper import HELPER_TIMEOUT, CredentialHelper
from imagecache.registry.credentials import Credential, CredentialChain, Credentials
from imagecache.registry.keyring import BrokenEntry, Keyring

_T = TypeVar("_T")
_LONGEST = 4 * MIB
"""Bytes of a configuration: a Secret has at most 1 MiB."""
_FORM = 'expected JSON: {"auths": {"HOST": {"auth": "..."}}}'
_AUTH_FORM = "it is base64 of user:password"


class _Entry(msgspec.Struct):
    username: str = ""
    password: str = ""
    auth: str = ""
    email: str = ""  # nobody reads it, and an entry where it is no text is none
    identitytoken: Any = None


class _Secret(msgspec.Struct):
    """What kubelet reads of a pull secret. Whatever the fields for helpers hold, it has not looked at them."""

    auths: dict[str, Any] = {}
    http_headers: dict[str, str] = msgspec.field(default_factory=dict, name="HttpHeaders")
    """Not used; a Secret where it is anything else is none."""


class _File(_Secret, rename={"cred_helpers": "credHelpers", "creds_store": "credsStore"}):
    cred_helpers: dict[str, Any] = {}
    creds_store: str = ""


class DockerConfig:
    """One parsed configuration.

    Order for a host: its own credential helper, what the file itself holds, the default credential store.
    """

    def __init__(self, keyring: Keyring, helpers: Mapping[str, Credentials], store: CredentialHelper | None) -> None:
        self._keyring = keyring
        self._helpers = helpers
        self._store = store

    async def credentials_for(self, host: str, repository: str) -> Sequence[Credential]:
        """Raises InvalidSetting when a helper or an entry cannot be used and nothing else has a credential."""
        # a helper wins over auths, as in docker/cli; kubelet knows none
        sources: list[Credentials] = [*most_specific_first(self._helpers.items(), host, repository), self._keyring]
        if self._store is not None:
            sources.append(self._store)
        return await CredentialChain(sources).credentials_for(host, repository)


def config_path(named: str, environ: Mapping[str, str], home: Path) -> Path:
    """The named file, else ``$DOCKER_CONFIG/config.json``, else ``~/.docker/config.json``, as docker itself looks."""
    if named:
        return Path(named)
    directory = environ.get("DOCKER_CONFIG")
    return (Path(directory) if directory else home / ".docker") / "config.json"


def load_docker_config(path: Path, helper_timeout: float = HELPER_TIMEOUT) -> DockerConfig | None:
    """The configuration in a ``config.json``; None when the file does not exist. Raises InvalidSetting.

    An empty file is an empty configuration, as for docker.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InvalidSetting(f"cannot read {path}: {error.strerror}", hint="check its owner and mode") from error
    return parse_docker_config(data if data.strip() else b"{}", str(path), helper_timeout)


def parse_docker_config(data: bytes, source: str, helper_timeout: float = HELPER_TIMEOUT) -> DockerConfig:
    """Parse ``config.json``. ``source`` names it in messages. Raises InvalidSetting, without quoting the text."""
    file = _decode(data, _File, source)
    store = CredentialHelper(file.creds_store, helper_timeout) if file.creds_store else None
    helpers = {key: _helper(key, name, source, helper_timeout) for key, name in file.cred_helpers.items() if name}
    return DockerConfig(_keyring(file.auths, source, ends="\0"), helpers, store)


def parse_docker_config_json(data: bytes, source: str) -> Keyring:
    """The payload ``.dockerconfigjson`` of a Secret of type kubernetes.io/dockerconfigjson.

    A Secret must not start programs: helpers that it names are ignored, as kubelet does. Raises InvalidSetting.
    """
    return _keyring(_decode(data, _Secret, source).auths, source)


def _decode(data: bytes, kind: type[_T], source: str) -> _T:
    if len(data) > _LONGEST:
        raise InvalidSetting(f"{source} is no Docker configuration: it has more than {_LONGEST} bytes", hint=_FORM)
    try:
        return foreign_json.decode(data, kind, conflicts=False)
    except MalformedDocument:
        raise InvalidSetting(f"{source} is not a Docker configuration", hint=_FORM) from None


def _helper(key: str, name: object, source: str, timeout: float) -> Credentials:
    try:
        return CredentialHelper(foreign_json.read(name, str), timeout)
    except (InvalidSetting, MalformedDocument):
        return BrokenEntry(f"{source}: credHelpers of {key[:160]!r} names no helper", "NAME of docker-credential-NAME")


def _keyring(entries: Mapping[str, Any], source: str, *, ends: str = "") -> Keyring:
    """Entries that hold a secret. Empty ones only note that a credential store has it.

    ``ends``: what is no part of a password at its ends (docker/cli, decodeAuth; kubelet has nothing of the kind).
    """
    return Keyring(
        tuple((key, each) for key, value in entries.items() for each in _credentials(key, value, source, ends))
    )


def _credentials(key: str, value: object, source: str, ends: str) -> Iterator[Credential | BrokenEntry]:
    """Both of an entry that has a password, which kubelet takes, and an identity token, which Docker takes."""
    try:
        entry = foreign_json.read(value, _Entry, conflicts=False)
    except MalformedDocument:
        yield BrokenEntry(f"{source}: the entry for {key[:160]!r} is not a credential", _FORM)
        return
    username, password = entry.username, entry.password
    if entry.auth:
        try:
            username, password = _split_auth(entry.auth)
            password = password.strip(ends) if ends else password
        except ValueError as problem:  # our own words: see there
            yield BrokenEntry(f"{source}: 'auth' of {key[:160]!r} {problem}", _AUTH_FORM)
            return
    try:
        token = foreign_json.read(entry.identitytoken, str)
    except MalformedDocument:
        if not password:
            yield BrokenEntry(f"{source}: 'identitytoken' of {key[:160]!r} is not text", _FORM)
            return
        token = ""  # kubelet does not look at it
    if password or (username and not token):
        yield Credential(username=username, password=password, source=source)
    if token:
        yield Credential(username=username, identity_token=token, source=source)


def _split_auth(auth: str) -> tuple[str, str]:
    """User and password, as kubelet's ``decodeDockerConfigFieldAuth`` reads them. Raises ValueError.

    Line breaks are passed over, as by Go's ``encoding/base64``, and nothing else. Padding is there whole or not at all.
    """
    packed = auth.replace("\r", "").replace("\n", "")
    packed += "" if packed.endswith("=") else "=" * (-len(packed) % 4)
    try:
        # Python passes over a part of the padding, so the length is compared
        decoded = base64.b64decode(packed if len(packed) % 4 == 0 else "!", validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("is not base64") from None  # the cause would hold the text
    try:
        text = decoded.decode()
    except UnicodeDecodeError:
        raise ValueError("holds no UTF-8 text") from None
    username, colon, password = text.partition(":")
    if not colon:
        raise ValueError("has no colon")
    return username, password
