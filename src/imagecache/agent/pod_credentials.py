"""Credentials of the DaemonSet's Pod that the host service uses: who brings which of them onto the host.

The installer is root on the host already. It brings everything at each of its tries, first of all, so that an agent
goes on whose upgrade does not succeed; and it says whom the agent believes: the API server's address and authorities,
and the served store's address. The keeper, which stays, is nobody, and hands over what expires, in a directory of its
own: tokens, and the store's authorities, since no store is trusted anyway. The agent copies that into a directory that
root alone reads. All is in /run, in memory: after a boot the agent serves without it until the Pod has started.
It must not log or raise the content of a file.
"""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from yarl import URL

from imagecache.errors import HostError, ImageCacheError
from imagecache.host.pod_directory import POD_FILE_BYTES, PodDirectory, PodFileRefused, refusal
from imagecache.host.service_files import CREDENTIALS, HostFiles
from imagecache.kube.connection import SERVICE_ACCOUNT, Connection, in_cluster, kubeconfig_text
from imagecache.settings.choices import Mode
from imagecache.settings.table import Settings
from imagecache.telemetry.log import get_logger

KUBECONFIG = CREDENTIALS / "kubeconfig"
INTERVAL = 5.0
"""Seconds between two looks at what may have been renewed."""
TOKEN, STORE_TOKEN, STORE_CA = "token", "store-token", "store-ca.crt"
"""Files that the keeper hands over."""
_AUTHORITIES = "ca.crt"
"""The API server's."""
_A_TOKEN = re.compile(r"[!-~]+\n?")
_SECRET = 0o600
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PodCredentials:
    """What the installer knows of the cluster that it runs in; outside of a Pod there is nothing."""

    settings: Settings
    """The Pod's."""
    environ: Mapping[str, str]
    account: Path = SERVICE_ACCOUNT

    def settings_on_host(self) -> Settings:
        """The Pod's settings with paths and addresses of the host. Raises HostError, InvalidSetting."""
        settings = dataclasses.replace(self.settings, mode=Mode.PROXY, daemonset="")
        if self._access() is None:
            return settings
        settings = dataclasses.replace(settings, kubeconfig=str(KUBECONFIG))
        if not settings.store_url:
            return settings
        url, name = by_address(settings.store_url)
        return dataclasses.replace(
            settings,
            store_url=url,
            store_name=settings.store_name or name,
            store_token=CREDENTIALS / STORE_TOKEN,
            store_ca=CREDENTIALS / STORE_CA,
        )

    def write(self, files: HostFiles) -> None:
        """Write what has changed. Raises HostError, InvalidSetting, PrivilegeMissing."""
        access = self._access()
        if access is None:
            return
        files.make_private(CREDENTIALS)
        for name, source in handed_over(self.settings, self.account).items():
            files.write(CREDENTIALS / name, text_of(source), _SECRET)
        files.write(CREDENTIALS / _AUTHORITIES, access.ca, _SECRET)
        # last: the agent starts its work in the cluster when this file exists
        files.write(KUBECONFIG, kubeconfig_text(access), _SECRET)

    def _access(self) -> Connection | None:
        return in_cluster(self.environ, self.account)


def handed_over(settings: Settings, account: Path = SERVICE_ACCOUNT) -> Mapping[str, Path]:
    """What expires, by its name on the host: where the Pod has it."""
    store = {STORE_TOKEN: settings.store_token, STORE_CA: settings.store_ca} if settings.store_url else {}
    return {**store, TOKEN: account / "token"}


def text_of(source: Path) -> str:
    """Raises HostError."""
    try:
        text = source.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise HostError(f"{source} cannot be read: {type(error).__name__}", hint="check the Pod's volumes") from None
    if len(text) > POD_FILE_BYTES:
        raise HostError(f"{source} has more than {POD_FILE_BYTES} bytes", hint="check the Pod's volumes")
    return text


def is_kept(settings: Settings) -> bool:
    """Whether a Pod hands credentials over to the agent with these settings."""
    return settings.kubeconfig == str(KUBECONFIG)


@dataclass(frozen=True, slots=True)
class HandedOver:
    """The host's side: what the keeper has written becomes files that root alone reads, when it is what it may be."""

    files: HostFiles
    pod: PodDirectory
    has_store: bool
    """Whether the agent fetches from a served store."""
    leave: Callable[[], None] = lambda: None
    """Begins the uninstall. Raises HostError."""

    def receive(self) -> None:
        """Copy what has changed. A file that is refused, or missing, leaves what was there.

        Raises PodFileRefused for the first such file, when the others are done, and HostError, StoreError.
        """
        if not self.files.at(KUBECONFIG).exists():  # no Pod has installed since the boot
            return
        refused: PodFileRefused | None = None
        for name in (STORE_TOKEN, STORE_CA, TOKEN) if self.has_store else (TOKEN,):
            try:
                self._receive(name)
            except PodFileRefused as error:
                refused = refused or error
        if refused is not None:
            raise refused

    def _receive(self, name: str) -> None:
        text = self.pod.read(name)
        if text is None:
            return
        if name != STORE_CA and not _A_TOKEN.fullmatch(text):
            raise refusal(name, "no token")
        self.files.write(CREDENTIALS / name, text, _SECRET)

    def leave_if_asked(self) -> None:
        """The Pod may ask once, and be gone: from then on its wish is the host's. Raises HostError, StoreError."""
        if self.pod.asks():
            self.files.write(self.files.asked, "", _SECRET)
        if self.files.at(self.files.asked).exists():
            self.leave()

    async def follow(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Look without end; each problem is logged once."""
        problem = ""
        while True:
            try:
                await asyncio.to_thread(self.leave_if_asked)
                await asyncio.to_thread(self.receive)
                problem = ""
            except (ImageCacheError, OSError) as error:  # files may go while we read: the host is being left
                if str(error) != problem:
                    problem = str(error)
                    _log.warning("what the Pod hands over is not taken", problem=problem)
            await sleep(INTERVAL)


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
