"""Keep our part in containerd's configuration, although k3s, nodeadm, Ansible and others write that anew.

containerd reads its configuration when it starts. When it has started without our part, its default snapshotter is its
own, and every image whose layers only we have is "present" and cannot start: kubelet never pulls it. So the records of
those images are deleted first; then the files are repaired, and containerd is restarted. A file that was written anew
while containerd runs is repaired without a restart. ``decide`` is pure. It must not undo an uninstall, of which
``ConfigChanges.turn`` tells.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from imagecache.backoff import Backoff, Retries
from imagecache.clock import Clock
from imagecache.errors import ContainerdMisconfigured, ContainerdUnavailable, ImageCacheError
from imagecache.host.containerd_config import ConfigState, Found
from imagecache.host.service import HostService
from imagecache.telemetry.log import get_logger

_INTERVAL = 60.0
"""Seconds between two looks at the files."""
_STEP = 2.0
"""Seconds between two looks whether another containerd has started: until its images are forgotten, pods may fail."""
SETTLED = 5.0
"""Files that have changed within these seconds may still be being written: they are left alone."""
_RESTARTS = Backoff(10.0, 3600.0)
"""Pauses between two restarts of containerd."""
_CALM = 2 * _RESTARTS.longest
"""After these seconds without a restart they are counted anew."""
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Seen:
    """A node at one moment."""

    state: ConfigState
    age: float
    """Seconds since the main file, or one that it imports, has changed."""
    read: bool
    """The running containerd has started since then."""
    ours: bool | None
    """Whether the running containerd has our part of its configuration; None when it does not answer."""


@dataclass(frozen=True, slots=True)
class Steps:
    """What to do, in this order."""

    forget: bool
    """Delete the records of images that containerd cannot start now."""
    write: bool
    restart: bool


def decide(seen: Seen, *, may_repair: bool, rested: bool) -> Steps:
    """What follows from a look.

    Args:
        seen: the node.
        may_repair: the settings allow it, and containerd has not refused this configuration before.
        rested: the last restart is long enough ago.
    """
    lost = seen.ours is False
    # it has read a drop-in that repeats older files: in 1.x that replaces the administrator's whole cri section
    outdated = seen.ours is True and seen.state is ConfigState.STALE and seen.read
    write = may_repair and seen.state is not ConfigState.OK and seen.age >= SETTLED
    repaired = write or (may_repair and seen.state is ConfigState.OK)
    return Steps(forget=lost, write=write, restart=repaired and rested and (lost or outdated))


class ConfigGuard:
    """One node. ``check`` is called again and again; it blocks, and where nothing is wrong it changes nothing.

    Args:
        service: opens the host service for one look, since its unit is that of the containerd which runs now.
        clock: its wall time is compared with the times of files.
        repair: whether to change files and restart containerd, or only to forget images and report.
        forgotten: called after image records were deleted, in the thread that called ``check``.
        started: the identity of the running containerd; empty without one. Called every two seconds.
    """

    def __init__(
        self,
        service: Callable[[], HostService],
        clock: Clock,
        *,
        repair: bool,
        forgotten: Callable[[], None] = lambda: None,
        started: Callable[[], str] = lambda: "",
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._service = service
        self._clock = clock
        self._repair = repair
        self._forgotten = forgotten
        self._started, self._sleep = started, sleep
        self._restarts = 0
        self._restarted = clock.monotonic()
        self.problem = ""
        """What the last check of ``run`` has raised."""

    async def run(self) -> None:
        """Check until cancelled; a problem is logged once, until it changes."""
        # soon again: a file that was written just now is repaired when it has settled
        retries = Retries(Backoff(2 * SETTLED, _INTERVAL), _log, "containerd's configuration is not in order")
        while True:
            seen, pause = self._started(), _INTERVAL
            try:
                await asyncio.to_thread(self.check)
                self.problem = ""
                retries.succeeded()
            except ContainerdUnavailable:
                self.problem = seen = ""  # its files are looked at when it runs again, by its version
            except ImageCacheError as error:
                self.problem = str(error)
                pause = retries.failed(error)
            except Exception as error:  # noqa: BLE001 - whatever the files are, containers are served meanwhile
                self.problem = f"containerd's configuration could not be looked at: {error!r}"
                _log.exception("containerd's configuration could not be looked at")
            await self._pause(seen, pause)

    async def _pause(self, seen: str, seconds: float) -> None:
        """Until the next look: at once when another containerd has started than the one that was seen."""
        for _ in range(int(seconds / _STEP)):
            await self._sleep(_STEP)
            if self._started() not in {"", seen}:
                return

    def check(self) -> None:
        """One look, and what follows from it.

        Raises ContainerdMisconfigured when it stays as it is, HostError, StoreError, ContainerdUnavailable.
        """
        service = self._service()
        # without the lock: while we only look, the repair before containerd's start must not find it taken
        if self._is_in_order(service):
            return
        with service.config.turn() as mine:
            if mine:
                self._check(service)

    def _is_in_order(self, service: HostService) -> bool:
        """Whether nothing follows from a look."""
        try:
            found, seen = self._look(service)
        except ContainerdMisconfigured:
            return False
        unchecked = bool(seen.ours) and service.has_unchecked_images()
        refused = service.config.is_refused(found)
        return not (unchecked or refused or self._stays(seen, may_repair=self._repair)) and not any(
            dataclasses.astuple(decide(seen, may_repair=self._repair, rested=self._has_rested()))
        )

    def _check(self, service: HostService) -> None:
        try:
            found, seen = self._look(service)
        except ContainerdMisconfigured:
            if service.is_loaded() is False:  # whatever the files say, its images cannot start now
                self._forget(service)
            raise
        if seen.ours:
            service.check_images()
        may_repair = self._repair and not service.config.is_refused(found)
        steps = decide(seen, may_repair=may_repair, rested=self._has_rested())
        if steps.forget:
            self._forget(service)
        if steps.write:
            service.config.drop_in.install()
            _log.warning("containerd's configuration was repaired", problem=seen.state.value)
        if steps.restart:
            self._restart(service)
        elif self._stays(seen, may_repair=may_repair):
            raise self._left(seen, may_repair=may_repair)

    @staticmethod
    def _stays(seen: Seen, *, may_repair: bool) -> bool:
        """Whether it is wrong, and stays so when nothing is restarted."""
        return seen.ours is False or (not may_repair and seen.state not in {ConfigState.OK, ConfigState.ABSENT})

    def _left(self, seen: Seen, *, may_repair: bool) -> ContainerdMisconfigured:
        """What is wrong, and why it stays so for now."""
        runs = "containerd runs without our snapshotter" if seen.ours is False else "containerd would start without us"
        if may_repair:
            why = "it is tried again, since containerd was restarted or its file was changed a short time ago"
        elif self._repair:
            why = "it is not repaired, since containerd did not run with our configuration before"
        else:
            why = "it is not repaired, since the setting repair is report"
        return ContainerdMisconfigured(
            f"{runs}: {seen.state.value}; {why}",
            hint="imagecache host install tries it anew; where containerd's configuration comes from a template, "
            "import the drop-in there",
        )

    def _look(self, service: HostService) -> tuple[Found, Seen]:
        found, read, ours = service.look()
        return found, Seen(found.state, self._clock.now().timestamp() - found.changed, read, ours)

    def _forget(self, service: HostService) -> None:
        names = service.forget_images()
        if names:
            _log.warning("containerd runs without our snapshotter: images are pulled again", images=len(names))
            self._forgotten()

    def _restart(self, service: HostService) -> None:
        """Restart containerd; when that did not help, as where each start writes the file, never again for this one."""
        self._restarts += 1
        self._restarted = self._clock.monotonic()
        _log.warning("containerd is restarted, so that it reads its repaired configuration")
        service.restart_containerd()

    def _has_rested(self) -> bool:
        since = self._clock.monotonic() - self._restarted
        if since > _CALM:
            self._restarts = 0
        return not self._restarts or since >= _RESTARTS.pause(self._restarts)
