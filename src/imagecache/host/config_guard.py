"""Keep our part in containerd's configuration, although k3s, nodeadm, Ansible and others write that anew.

containerd reads its configuration when it starts. When it has started without our part, its default snapshotter is its
own, and every image whose layers only we have is "present" and cannot start: kubelet never pulls it. So the records of
those images are deleted first; then the files are repaired, and containerd is restarted. A file that was written anew
while containerd runs is repaired without a restart. ``decide`` is pure. It must not undo an uninstall, of which
``turn`` of the host service tells.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from imagecache.backoff import Backoff, Retries
from imagecache.clock import Clock
from imagecache.errors import ContainerdMisconfigured, ContainerdUnavailable, ImageCacheError
from imagecache.host.containerd_config import ConfigState, Found
from imagecache.host.service import HostService
from imagecache.telemetry.log import get_logger

_INTERVAL = 60.0
"""Seconds between two looks."""
SETTLED = 5.0
"""A main file that has changed within these seconds may still be being written: it is left alone."""
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
    """Seconds since the main file has changed."""
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
    """

    def __init__(
        self,
        service: Callable[[], HostService],
        clock: Clock,
        *,
        repair: bool,
        forgotten: Callable[[], None] = lambda: None,
    ) -> None:
        self._service = service
        self._clock = clock
        self._repair = repair
        self._forgotten = forgotten
        self._restarts = 0
        self._restarted = clock.monotonic()
        self._was_lost = False
        self.problem = ""
        """What the last check of ``run`` has raised."""

    async def run(self) -> None:
        """Check until cancelled; a problem is logged once, until it changes."""
        retries = Retries(Backoff(_INTERVAL, _INTERVAL), _log, "containerd's configuration is not in order")
        while True:
            try:
                await asyncio.to_thread(self.check)
                self.problem = ""
                retries.succeeded()
            except ContainerdUnavailable:
                self.problem = ""  # its files are looked at when it runs again, by its version
            except ImageCacheError as error:
                self.problem = str(error)
                retries.failed(error)
            await asyncio.sleep(_INTERVAL)

    def check(self) -> None:
        """One look, and what follows from it.

        Raises ContainerdMisconfigured when it stays as it is, HostError, StoreError, ContainerdUnavailable.
        """
        service = self._service()
        with service.turn() as mine:
            if mine:
                self._check(service)

    def _check(self, service: HostService) -> None:
        found, seen = self._look(service)
        may_repair = self._repair and not service.is_refused(found)
        steps = decide(seen, may_repair=may_repair, rested=self._has_rested())
        if steps.forget:
            self._forget(service)
        elif seen.ours and self._was_lost:  # somebody else has restarted containerd
            self._found_again(service)
        if steps.write:
            service.write_drop_in()
            _log.warning("containerd's configuration was repaired", problem=seen.state.value)
        if steps.restart:
            self._restart(service)
        elif seen.ours is False or (not may_repair and seen.state not in {ConfigState.OK, ConfigState.ABSENT}):
            raise self._left(seen, may_repair=may_repair)

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
        self._was_lost = True
        names = service.forget_images()
        if names:
            _log.warning("containerd runs without our snapshotter: images are pulled again", images=len(names))
            self._forgotten()

    def _found_again(self, service: HostService) -> None:
        """What was pulled meanwhile was unpacked elsewhere; with discard_unpacked_layers its blobs are gone too."""
        service.forget_images(ours=True)
        self._was_lost = False

    def _restart(self, service: HostService) -> None:
        """Restart containerd; when that did not help, as where each start writes the file, never again for this one."""
        self._restarts += 1
        self._restarted = self._clock.monotonic()
        _log.warning("containerd is restarted, so that it reads its repaired configuration")
        service.restart_containerd()
        if self._look(service)[1].ours is False:
            service.refuse()
            raise ContainerdMisconfigured(
                "containerd was restarted with its repaired configuration, and runs without our snapshotter again",
                hint="whatever starts it writes its configuration: import the drop-in in the template of that",
            )
        self._found_again(service)

    def _has_rested(self) -> bool:
        since = self._clock.monotonic() - self._restarted
        if since > _CALM:
            self._restarts = 0
        return not self._restarts or since >= _RESTARTS.pause(self._restarts)
