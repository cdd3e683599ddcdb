"""Which integration a node uses, and why.

``proxy``: our snapshotter is a proxy plugin of this containerd. ``native``: containerd's own erofs snapshotter reads
our ``layers/`` directory. Proxy is preferred: containers share one mount per layer, and its pages. ``prepull``: images
are unpacked into the snapshotter that CRI itself uses. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath

from imagecache.containerd.api import SNAPSHOTTERS, Plugin
from imagecache.errors import ContainerdMisconfigured
from imagecache.settings.choices import Mode

NATIVE_SNAPSHOTTER = "erofs"
NATIVE_SINCE = (2, 4)
"""The first version with ``layer_content_caches``."""
_REMAPS_SINCE = (2, 3)
"""The first version whose idmapped clones have the mounts below (AT_RECURSIVE in core/mount/mount_idmapped_linux.go).
With an earlier one an image of ours would look empty."""
_VERSION = re.compile(r"v?(\d+)\.(\d+)")


@dataclass(frozen=True, slots=True)
class Choice:
    mode: Mode
    """PROXY, NATIVE or PREPULL."""
    snapshotter: str
    """Its name in containerd's configuration."""
    because: str
    """One sentence, for doctor."""


def version_of(text: str) -> tuple[int, int]:
    """Major and minor of ``1.6.20~ds1`` or ``v2.4.2``; (0, 0) when it is not a version."""
    match = _VERSION.match(text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def remaps_ids(version: str) -> bool:
    """Whether this containerd maps ids over mounts of ours; otherwise it copies the image for each user namespace."""
    return version_of(version) >= _REMAPS_SINCE


def loaded(plugins: Iterable[Plugin], snapshotter: str) -> bool:
    return any(p.kind == SNAPSHOTTERS and p.id == snapshotter and not p.error for p in plugins)


def choose(version: str, plugins: Iterable[Plugin], snapshotter: str, wanted: Mode = Mode.AUTO) -> Choice:
    """The integration of this containerd. Raises ContainerdMisconfigured when it has none, or not the wanted one.

    Args:
        version: containerd's, as it reports it.
        plugins: its snapshotter plugins.
        snapshotter: the name of our proxy plugin.
        wanted: PROXY or NATIVE; any other mode leaves the choice to what containerd has loaded.
    """
    plugins = tuple(plugins)
    proxy = loaded(plugins, snapshotter)  # true when it is configured, even while the agent is not running
    native = loaded(plugins, NATIVE_SNAPSHOTTER) and version_of(version) >= NATIVE_SINCE
    if wanted is not Mode.NATIVE and proxy:
        return Choice(
            Mode.PROXY, snapshotter, f"containerd {version} has our snapshotter as proxy plugin {snapshotter}"
        )
    if wanted is not Mode.PROXY and native:
        why = f"containerd {version} has the erofs snapshotter, which reads layer images itself"
        return Choice(Mode.NATIVE, NATIVE_SNAPSHOTTER, why)
    raise ContainerdMisconfigured(_why_not(version, snapshotter, wanted), hint=_REMEDY)


def default_snapshotter(image_filesystem: str, plugins: Iterable[Plugin]) -> Choice:
    """The snapshotter that CRI unpacks images into, for prepull mode. Raises ContainerdMisconfigured.

    Args:
        image_filesystem: its directory, according to CRI: the root that the plugin exports (2.x), or one that is named
            after the plugin.
        plugins: containerd's snapshotter plugins.
    """
    for plugin in plugins:
        named = PurePath(image_filesystem).name == f"{SNAPSHOTTERS}.{plugin.id}"
        if not plugin.error and (named or plugin.exports.get("root") == image_filesystem):
            return Choice(Mode.PREPULL, plugin.id, f"CRI keeps images in {image_filesystem}")
    raise ContainerdMisconfigured(
        f"containerd has no snapshotter that CRI would keep images of in {image_filesystem or 'a directory'}",
        hint="look at CRI's snapshotter in: containerd config dump",
    )


_REMEDY = "run: imagecache containerd-config install, then restart containerd"


def _why_not(version: str, snapshotter: str, wanted: Mode) -> str:
    if wanted is Mode.NATIVE and version_of(version) < NATIVE_SINCE:
        return f"native mode needs containerd 2.4 or later, this is {version}"
    if wanted is Mode.NATIVE:
        return f"containerd {version} has not loaded its erofs snapshotter"
    return f"containerd {version} has no proxy plugin named {snapshotter}"
