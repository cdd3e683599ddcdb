"""Changes of containerd's configuration by programs of ours: whose turn it is, and what containerd has refused.

``imagecache host install``, the guard of a running containerd, and the repair before its start are processes of their
own. A configuration with which containerd did not run is remembered by its fingerprint on the disk, so that none of
them tries it again and again. It must not restart anything.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from imagecache.errors import ContainerdMisconfigured
from imagecache.host.containerd_config import Change, ConfigState, Found
from imagecache.host.service_files import UNITS, HostFiles
from imagecache.host.systemd_units import TIMER

_REPAIR_SECONDS = 30.0
"""systemd gives containerd 90 s to start (TimeoutStartSec), and an install copies its program in some ten."""


class ContainerdFiles(Protocol):
    """Our drop-in for containerd's configuration. Raises ContainerdMisconfigured, PrivilegeMissing, StoreError."""

    def install(self, *, serve_only: bool = False) -> Sequence[Change]:
        """``serve_only``: new containers get containerd's own snapshotter, existing ones keep ours."""

    def undo(self) -> Sequence[Change]: ...

    def look(self) -> Found:
        """What containerd would read at its next start."""


@dataclass(frozen=True, slots=True)
class ConfigChanges:
    """Of one host."""

    files: HostFiles
    drop_in: ContainerdFiles

    @contextlib.contextmanager
    def turn(self, seconds: float = 0.0) -> Iterator[bool]:
        """Whether this process may change the host now, or within these seconds.

        No other does, and no uninstall has begun.
        """
        with self.files.locked(seconds=seconds) as mine:
            yield mine and not self.files.at(UNITS / TIMER).exists()

    def refuse(self, found: Found) -> None:
        """Remember that containerd does not run with what ``install`` would write."""
        self.files.write(self.files.refused, found.fingerprint, 0o600)

    def is_refused(self, found: Found) -> bool:
        mark = self.files.at(self.files.refused)
        return mark.exists() and mark.read_text(errors="replace") == found.fingerprint

    def accept(self) -> None:
        """Forget that: containerd runs with our configuration."""
        self.files.remove(self.files.refused)

    def repair_before_start(self, problem: Callable[[], str]) -> Sequence[Change]:
        """Write what is missing while containerd does not run, unless it has refused that before.

        An install that changes the host in this moment is waited for: it may have looked at containerd's files before
        they were written anew. One that itself restarts containerd, so that we run, is not.

        Args:
            problem: why containerd cannot read its configuration; empty when it can. Then what was written is undone.

        Raises ContainerdMisconfigured, PrivilegeMissing, StoreError.
        """
        with self.turn(_REPAIR_SECONDS) as mine:
            found = self.drop_in.look() if mine else Found(ConfigState.OK)
            if found.state is ConfigState.OK or self.is_refused(found):
                return ()
            changes = self.drop_in.install()
            why = problem()
            if not why:
                return changes
            self.drop_in.undo()
            self.refuse(found)
            raise ContainerdMisconfigured(
                f"containerd cannot read its configuration with our drop-in, which was removed: {why}",
                hint="repair containerd's configuration, then run: imagecache host install",
            )
