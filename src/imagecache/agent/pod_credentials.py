"""Credentials of the Pod that the host service uses: tokens, certificate authorities, addresses, as files of the host.

They are in /run, in memory, and written again before they expire; after a boot the agent serves without them until the
Pod has started. It must not log or raise the content of a file.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from yarl import URL

from imagecache.errors import HostError
from imagecache.host.service_files import CREDENTIALS, HostFiles
from imagecache.kube.connection import SERVICE_ACCOUNT, Connection, in_cluster, kubeconfig_text
from imagecache.settings.table import Mode, Settings

_SECRET = 0o600


@dataclass(frozen=True, slots=True)
class PodCredentials:
    """Those of the Pod that we run in; outside of a Pod there are none."""

    files: HostFiles
    settings: Settings
    """The Pod's."""
    environ: Mapping[str, str]
    account: Path = SERVICE_ACCOUNT

    def settings_on_host(self) -> Settings:
        """The Pod's settings with paths and addresses of the host. Raises HostError, InvalidSetting."""
        settings = dataclasses.replace(self.settings, mode=Mode.PROXY, daemonset="")
        if self._access() is None:
            return settings
        settings = dataclasses.replace(settings, kubeconfig=str(CREDENTIALS / "kubeconfig"))
        if not settings.store_url:
            return settings
        url, name = by_address(settings.store_url)
        return dataclasses.replace(
            settings,
            store_url=url,
            store_name=settings.store_name or name,
            store_token=CREDENTIALS / "store-token",
            store_ca=CREDENTIALS / "store-ca.crt",
        )

    def write(self) -> None:
        """Write what has changed. Raises HostError, InvalidSetting, PrivilegeMissing."""
        access = self._access()
        if access is None:
            return
        self.files.make_private(CREDENTIALS)
        self._copy(self.account / "token", "token")
        self._put("ca.crt", access.ca)
        if self.settings.store_url:
            self._copy(self.settings.store_token, "store-token")
            self._copy(self.settings.store_ca, "store-ca.crt")
        self._put(
            "kubeconfig", kubeconfig_text(access)
        )  # last: the agent starts its work in the cluster when this file exists

    def _access(self) -> Connection | None:
        return in_cluster(self.environ, self.account)

    def _copy(self, source: Path, name: str) -> None:
        try:
            text = source.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise HostError(
                f"{source} cannot be read: {type(error).__name__}", hint="check the Pod's volumes"
            ) from None
        self._put(name, text)

    def _put(self, name: str, text: str) -> None:
        self.files.write(CREDENTIALS / name, text, _SECRET)


def by_address(url: str) -> tuple[str, str]:
    """The URL with an address instead of its host's name, and the name. Hosts cannot resolve names of the cluster."""
    parsed = URL(url)
    host = parsed.host or ""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        return url, ""
    try:
        found = socket.getaddrinfo(host, parsed.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise HostError(f"{host} has no address: {error}", hint="check that the Service of the store exists") from error
    return str(parsed.with_host(str(found[0][4][0]))), host
