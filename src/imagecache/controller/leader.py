"""Leader election: a Lease that its holder renews, and that others take when it was not renewed for too long.

Source: client-go ``tools/leaderelection``, with its intervals. Clocks of two machines are never compared: a holder has
lost the lease when its record has not changed for the lease's duration on our own monotonic clock. It must not know
what leading means.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from imagecache.clock import Clock
from imagecache.errors import KubernetesError, LeadershipLost, ObjectConflict, ObjectExists, ObjectNotFound
from imagecache.kube import objects
from imagecache.kube.api import Kube, Object
from imagecache.kube.resources import LEASES
from imagecache.telemetry.log import get_logger

LEASE = 15.0
RENEW = 10.0
RETRY = 2.0
"""Seconds: until others may take it, until a leader that cannot renew stops, between two tries.

A leader stops five seconds before another one can begin, so that two never write at the same time.
"""
_log = get_logger(__name__)


@dataclass
class Leader:
    kube: Kube
    clock: Clock
    namespace: str
    identity: str
    """Unique among all candidates, also across restarts."""
    name: str = "imagecache-controller"
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    _seen: str = ""
    """The record as last read, and the monotonic time since when it has not changed."""
    _since: float = 0.0
    _lease: Object | None = None

    async def acquire(self) -> None:
        """Wait until we lead."""
        _log.info("waiting to lead", lease=f"{self.namespace}/{self.name}", identity=self.identity)
        while not await self._try():
            await self.sleep(RETRY)
        _log.info("leading", lease=f"{self.namespace}/{self.name}", identity=self.identity)

    async def keep(self) -> None:
        """Renew until cancelled. Raises LeadershipLost early enough that no other candidate leads yet."""
        renewed = self.clock.monotonic()
        while True:
            await self.sleep(RETRY)
            started = self.clock.monotonic()
            try:
                async with asyncio.timeout(max(0.1, RENEW - (started - renewed))):
                    held = await self._try()
            except TimeoutError:
                held = False
            if held:
                renewed = started
            elif self._taken() or self.clock.monotonic() - renewed >= RENEW:
                raise LeadershipLost(
                    f"the lease {self.namespace}/{self.name} could not be renewed",
                    hint="another controller leads now; this one starts again and waits",
                )

    async def release(self) -> None:
        """Let another candidate lead at once. Never raises for what the API server answers."""
        if self._lease is None or self._taken():
            return
        try:
            await self._write({"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": self._now()})
        except KubernetesError as error:
            _log.warning("lease not released", problem=str(error))

    def _taken(self) -> bool:
        """Whether the record as last read names another holder."""
        return objects.text(self._lease, "spec", "holderIdentity") != self.identity

    async def _try(self) -> bool:
        """Read the lease, and take or renew it when that is allowed. True when we hold it then."""
        try:
            try:
                self._lease = await self.kube.get(LEASES, self.name, namespace=self.namespace)
            except ObjectNotFound:
                spec: Object = self._claim(0) | {"acquireTime": self._now()}
                lease: Object = {"metadata": {"name": self.name}, "spec": spec}
                self._lease = await self.kube.create(LEASES, lease, namespace=self.namespace)
                return True
            return await self._take_or_renew()
        except (ObjectConflict, ObjectExists):
            return False  # another candidate was faster
        except KubernetesError as error:
            _log.warning("lease not reached", problem=str(error))
            return False

    async def _take_or_renew(self) -> bool:
        spec = objects.at(self._lease, "spec")
        holder = objects.text(spec, "holderIdentity")
        transitions = objects.at(spec, "leaseTransitions")
        count = transitions if isinstance(transitions, int) else 0
        if holder == self.identity:
            await self._write(self._claim(count))
            return True
        if holder and not self._expired(spec):
            return False
        await self._write(self._claim(count + 1) | {"acquireTime": self._now()})
        return True

    def _expired(self, spec: object) -> bool:
        """Whether the record has not changed for the duration that it names itself."""
        record, now = repr(spec), self.clock.monotonic()
        if record != self._seen:
            self._seen, self._since = record, now
        duration = objects.at(self._lease, "spec", "leaseDurationSeconds")
        return now - self._since >= (duration if isinstance(duration, int) else LEASE)

    async def _write(self, spec: Object) -> None:
        """Raises ObjectConflict when another candidate wrote after we read it."""
        version: Object = {"resourceVersion": objects.resource_version(self._lease or {})}
        patch: Object = {"metadata": version, "spec": spec}
        self._lease = await self.kube.patch(LEASES, self.name, patch, namespace=self.namespace)

    def _claim(self, transitions: int) -> Object:
        return {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": int(LEASE),
            "leaseTransitions": transitions,
            "renewTime": self._now(),
        }

    def _now(self) -> str:
        """metav1.MicroTime."""
        return self.clock.now().astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
