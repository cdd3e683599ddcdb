"""Credentials in Docker's formats: ``config.json``, and the two payloads of Kubernetes image pull secrets.

Source: docker/cli's ``cli/config/configfile``, kubelet's ``pkg/credentialprovider``. The caller reads the Secrets; this
module parses bytes and finds the credential for a repository. It must not keep or show text that it cannot parse.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from imagecache.errors import InvalidSetting
from imagecache.registry.auth_keys import most_specific_first
from imagecache.registry.credential_helper import HELPER_TIMEOUT, CredentialHelper
from imagecache.registry.credentials import Credential, CredentialChain, Credentials
from imagecache.registry.keyring import Keyring

_T = TypeVar("_T")


class _Entry(msgspec.Struct):
    username: str = ""
    password: str = ""
    auth: str = ""
    identitytoken: str = ""


class _File(msgspec.Struct, rename={"cred_helpers": "credHelpers", "creds_store": "credsStore"}):
    auths: dict[str, _Entry] | None = None
    cred_helpers: dict[str, str] | None = None
    creds_store: str | None = None


class DockerConfig:
    """One parsed configuration.

    Order for a host: its own credential helper, what the file itself holds, the default credential store.
    """

    def __init__(
        self, keyring: Keyring, helpers: Mapping[str, CredentialHelper], store: CredentialHelper | None
    ) -> None:
        self._keyring = keyring
        self._helpers = helpers
        self._store = store

    async def credentials_for(self, host: str, repository: str) -> Sequence[Credential]:
        """Raises InvalidSetting when a helper has failed and nothing else has a credential."""
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
    """The configuration in a ``config.json``; None when the file does not exist. Raises InvalidSetting."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InvalidSetting(f"cannot read {path}: {error.strerror}", hint="check its owner and mode") from error
    return parse_docker_config(data, str(path), helper_timeout)


def parse_docker_config(data: bytes, source: str, helper_timeout: float = HELPER_TIMEOUT) -> DockerConfig:
    """Parse ``config.json``. ``source`` names it in messages. Raises InvalidSetting, without quoting the text."""
    file = _decode(data, _File, source)
    store = CredentialHelper(file.creds_store, helper_timeout) if file.creds_store else None
    helpers = {key: CredentialHelper(name, helper_timeout) for key, name in (file.cred_helpers or {}).items()}
    return DockerConfig(_keyring(file.auths or {}, source), helpers, store)


def parse_docker_config_json(data: bytes, source: str) -> Keyring:
    """The payload ``.dockerconfigjson`` of a Secret of type kubernetes.io/dockerconfigjson.

    A Secret must not start programs: helpers that it names are ignored, as kubelet does. Raises InvalidSetting.
    """
    return _keyring(_decode(data, _File, source).auths or {}, source)


def _decode(data: bytes, kind: type[_T], source: str) -> _T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # The cause may quote the text, which holds secrets: it is not chained.
        raise InvalidSetting(
            f"{source} is not a Docker configuration", hint='expected JSON: {"auths": {"HOST": {"auth": "..."}}}'
        ) from None


def _keyring(entries: Mapping[str, _Entry], source: str) -> Keyring:
    """Entries that hold a secret. Empty ones only note that a credential store has it."""
    found = ((key, _credential(key, entry, source)) for key, entry in entries.items())
    return Keyring(tuple((key, credential) for key, credential in found if credential is not None))


def _credential(key: str, entry: _Entry, source: str) -> Credential | None:
    username, password = entry.username, entry.password
    if entry.auth:
        username, password = _split_auth(key, entry.auth, source)
    if entry.identitytoken:
        return Credential(username=username, identity_token=entry.identitytoken, source=source)
    return Credential(username=username, password=password, source=source) if username or password else None


def _split_auth(key: str, auth: str, source: str) -> tuple[str, str]:
    try:
        text = base64.b64decode(auth.strip() + "=" * (-len(auth.strip()) % 4), validate=True).decode()
    except (binascii.Error, ValueError):
        raise InvalidSetting(
            f"{source}: 'auth' of {key[:160]!r} is not base64", hint="it is base64 of user:password"
        ) from None
    username, colon, password = text.partition(":")
    if not colon:
        raise InvalidSetting(f"{source}: 'auth' of {key[:160]!r} has no colon", hint="it is base64 of user:password")
    return username, password.rstrip("\0")  # as docker/cli does (decodeAuth)
