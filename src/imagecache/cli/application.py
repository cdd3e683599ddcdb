"""What the commands need from the rest of the program, as ports.

``imagecache.apps.local`` has ``create_application(settings: Settings) -> Application``, which the commands import when
they run; tests use a fake. Results are plain data, failures are ``ImageCacheError``. ``async`` methods run in the
event loop of the command and must stop when cancelled; all others block and touch local files only. It must not do
anything itself.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from imagecache.digest import DiffID, Digest

if TYPE_CHECKING:
    from imagecache.settings.table import Settings
    from imagecache.standalone.controller import Controller
    from imagecache.store.check import Report


@dataclass(frozen=True, slots=True)
class LayerBuilt:
    """One layer image was written. Sizes are bytes."""

    diff_id: DiffID
    sha256: Digest
    """Of the layer image file."""
    size: int
    """Of the layer image file."""
    tar_size: int
    entries: int
    context_dependent: bool
    """Right only on top of the layers given with ``--lower`` (implied parents, bottom-layer whiteouts)."""


@dataclass(frozen=True, slots=True)
class LayerVerified:
    """A layer image is what it says: the data area hashes to ``diff_id`` and the metadata re-derives from it."""

    diff_id: DiffID
    sha256: Digest
    size: int
    entries: int


@dataclass(frozen=True, slots=True)
class LayerExported:
    diff_id: DiffID
    size: int
    """Bytes of tar written."""


@dataclass(frozen=True, slots=True)
class LayerEntry:
    """One name of a layer image, as overlayfs will see it."""

    path: str
    """From the layer's root, without a leading slash; undecodable bytes as surrogate escapes."""
    mode: int
    """st_mode, type bits included."""
    uid: int
    gid: int
    size: int
    mtime: int
    """Seconds since the epoch."""
    target: str = ""
    """Of a symbolic link."""
    major: int = 0
    minor: int = 0


class LayerTool(Protocol):
    """One layer at a time, without a store."""

    def build(self, source: BinaryIO, output: Path, lower: Sequence[Path]) -> LayerBuilt:
        """A tar (plain, gzip or zstd, told apart by its first bytes) to a layer image at ``output``.

        ``lower`` are the layer images below, bottom first. ``output`` appears whole or not at all.
        """

    def verify(self, file: Path, diff_id: DiffID | None) -> LayerVerified:
        """Prove a layer image; against ``diff_id`` when given. Raises ContentError when it is not what it says."""

    def export(self, file: Path, output: BinaryIO) -> LayerExported:
        """The original tar, byte for byte."""

    def entries(self, file: Path) -> Iterator[LayerEntry]:
        """Every name, parents first, in the image's own order; the root not included."""


@dataclass(frozen=True, slots=True)
class Mounted:
    image: str
    """As recorded in the bundle."""
    bundle_id: str
    layers: int
    directory: Path


class Severity(enum.IntEnum):
    """Outcome of a check; the greatest decides the exit code of ``doctor``."""

    OK = 0
    WARNING = 1
    PROBLEM = 2


@dataclass(frozen=True, slots=True)
class Check:
    """One line of ``doctor``."""

    area: str
    """``kernel``, ``containerd``, ``store`` or ``agent``: groups the lines."""
    name: str
    severity: Severity
    detail: str
    """What was found."""
    remedy: str = ""
    """What to do, unless it is ok."""


class Host(Protocol):
    """This machine."""

    def mount(self, image: str, directory: Path) -> Mounted:
        """Mount an image of the store read-only. ``image`` is a reference as written or normalised."""

    def unmount(self, directory: Path) -> None:
        """Take back what ``mount`` did. Raises NotFound when nothing of ours is mounted there."""

    async def doctor(self) -> Sequence[Check]:
        """Look at everything a node needs. Never raises for what it finds."""


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """A file that install or undo wrote or removed."""

    path: Path
    action: str
    """``created``, ``updated``, ``unchanged`` or ``removed``."""


@dataclass(frozen=True, slots=True)
class ConfigReport:
    changes: Sequence[ConfigChange]
    restart_needed: bool
    """containerd reads its configuration only when it starts; nothing of ours restarts it."""


class ContainerdConfig(Protocol):
    """Our drop-in for containerd's configuration."""

    def text(self) -> str:
        """The drop-in for this node's containerd version and mode."""

    def install(self) -> ConfigReport:
        """Write it, and make the main file import it. Idempotent."""

    def undo(self) -> ConfigReport:
        """Put everything back. Idempotent."""


@dataclass(frozen=True)
class HostOptions:
    """How to reach the host, and what may be changed on it."""

    root: Path = Path("/")
    """Where its filesystem is seen from here."""
    containerd_unit: str = "containerd.service"
    configure: bool = True
    """Write containerd's drop-in, and restart it."""
    health: str = ""
    """``host:port`` of our own probes."""


@dataclass(frozen=True, slots=True)
class HostLeft:
    """What an uninstall did."""

    changes: Sequence[ConfigChange]
    forgotten: Sequence[str] = ()
    """Images, after their containerd namespace, whose layers nobody else had: they are pulled when they are needed."""
    in_use: int = 0
    """Bundles that containers still have."""
    done: bool = True
    """False: the host does the rest."""


class HostTool(Protocol):
    """The agent as a service of the host."""

    def install(self, options: HostOptions) -> Sequence[ConfigChange]:
        """Install or upgrade. Idempotent. Raises ServiceManagerMissing when all is done but the start."""

    def uninstall(self, options: HostOptions) -> HostLeft:
        """Idempotent; containers go on."""

    def status(self, options: HostOptions) -> Sequence[Check]:
        """Never raises for what it finds."""

    async def keep(self, options: HostOptions) -> None:
        """Hand credentials to the host and answer probes, until cancelled."""

    async def removed(self) -> bool:
        """Whether our Pod ends for good. False when nobody can say."""

    async def withdraw(self) -> None:
        """Take back what the agent has reported of its Node. Never raises for an API that refuses."""


class Services(Protocol):
    """What runs until it is told to stop (SIGTERM and SIGINT cancel it)."""

    async def agent(self) -> None:
        """The node process: snapshotter or native mode, attacher, trim, expiry, health and metrics."""

    async def controller(self) -> None:
        """The cluster's controller. Raises LeadershipLost when another one leads."""

    async def snapshotter(self) -> None:
        """The proxy snapshotter alone, at ``settings.agent_socket`` with state in ``settings.agent_root``."""


class Application(Protocol):
    """Constructed for one set of settings; nothing is opened before it is used."""

    def controller(self) -> Controller: ...

    def layers(self) -> LayerTool: ...

    def check(self, *, deep: bool, quarantine: bool) -> Report:
        """Verify what the store holds. Raises StoreError."""

    def host(self) -> Host: ...

    def containerd_config(self) -> ContainerdConfig: ...

    def host_service(self) -> HostTool: ...

    def services(self) -> Services: ...


class ApplicationFactory(Protocol):
    def __call__(self, settings: Settings) -> Application: ...
