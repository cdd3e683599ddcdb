"""CRI's runtime handlers that have a snapshotter of their own, and which of these snapshotters get our images too.

containerd puts a container's root into the snapshotter of its runtime handler (``RuntimeSnapshotter`` in
``internal/cri/server/images``); a RuntimeClass such as kata's may have another one than the default. CRI lists an image
whichever snapshotter has it, so an image that only ours has would be present there, and never start. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from imagecache.errors import ContainerdMisconfigured

AUTO = "auto"
"""Those that CRI's runtime handlers have."""
OFF = "off"


@dataclass(frozen=True, slots=True)
class Handlers:
    """Of one runtime. By default it has none, and so nothing is unpacked."""

    snapshotters: Mapping[str, str] = field(default_factory=dict)
    """By the name of a runtime handler: its snapshotter, when that is not the one that serves our layers."""
    loaded: frozenset[str] = frozenset()
    """Snapshotters of this containerd, without the one that serves our layers."""
    setting: tuple[str, ...] = (AUTO,)
    """The node's: AUTO, OFF or names of snapshotters."""

    def unpacked(self, asked: Collection[str] = ()) -> frozenset[str]:
        """The snapshotters that get the images of a cache too; ``asked`` by the cache wins over the setting."""
        choice = frozenset(asked or self.setting)
        if OFF in choice:
            return frozenset()
        found = frozenset(self.snapshotters.values()) if AUTO in choice else frozenset()
        # of the names, those that exist here: one setting may serve nodes that differ
        return (choice | found) & self.loaded

    def left_out(self, asked: Collection[str] = ()) -> tuple[str, ...]:
        """Runtime handlers whose pods cannot start the images of a cache."""
        unpacked = self.unpacked(asked)
        return tuple(sorted(name for name, snapshotter in self.snapshotters.items() if snapshotter not in unpacked))


def handlers_of(
    found: Mapping[str, str], loaded: Iterable[str], ours: str, setting: Iterable[str] = (AUTO,)
) -> Handlers:
    """What matters of ``found`` (``Containerd.handler_snapshotters``); ``ours`` is the snapshotter of our layers."""
    others = frozenset(loaded) - {ours}
    known = {name: snapshotter for name, snapshotter in found.items() if snapshotter in others}
    return Handlers(known, others, tuple(setting))


def snapshotters_in(config: str) -> dict[str, str]:
    """Runtime handlers with a snapshotter of their own, in ``config`` of CRI's verbose Status (JSON, 1.6 to 2.4).

    Raises ContainerdMisconfigured when it is not what containerd writes.
    """
    try:
        runtimes = json.loads(config)["containerd"]["runtimes"] or {}  # null without handlers
        named = {name: runtime.get("snapshotter", "") for name, runtime in runtimes.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ContainerdMisconfigured(
            "CRI's status does not have containerd's runtime handlers", hint="run: imagecache doctor"
        ) from error
    return {name: snapshotter for name, snapshotter in named.items() if snapshotter}
