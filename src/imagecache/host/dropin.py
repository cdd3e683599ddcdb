"""Our drop-in for containerd's configuration, for each mode and version.

It adds a proxy plugin (or a layer cache for containerd's own erofs snapshotter), makes it the default snapshotter of
CRI, and registers it with the transfer service of 2.x. Two things are omitted on purpose: the capability ``rebase``,
with which containerd loses the parents of layers that we serve (containerd issue 13264), and
``disable_snapshot_annotations``, which in 2.x would make CRI pull the old way. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from imagecache.containerd.api import SNAPSHOTTERS
from imagecache.containerd.modes import NATIVE_SINCE, NATIVE_SNAPSHOTTER, remaps_ids, version_of
from imagecache.errors import ContainerdMisconfigured
from imagecache.host.user_config import UserConfig, merged
from imagecache.settings.choices import Mode
from imagecache.snapshotter.mounts import SHORT_INODES, STABLE_INODES
from imagecache.toml import Table, dumps

_CRI_1 = "io.containerd.grpc.v1.cri"
_CRI_IMAGES = "io.containerd.cri.v1.images"
_TRANSFER = "io.containerd.transfer.v1.local"
_EROFS = f"{SNAPSHOTTERS}.{NATIVE_SNAPSHOTTER}"
_UNPACKS = 3
"""Layers that containerd unpacks concurrently in native mode; with 1 it serves no layer that has a parent."""


@dataclass(frozen=True, slots=True)
class DropInSettings:
    mode: Mode
    """NATIVE; any other means proxy."""
    containerd: str
    """Its version, as it reports it."""
    platform: str
    """``linux/amd64``."""
    snapshotter: str
    """Name of our proxy plugin."""
    socket: Path
    """Where our snapshotter listens."""
    root: Path
    """Directory of its writable layers; kubelet measures the space of the image filesystem there."""
    layers: Path
    """The store's ``layers`` directory."""
    maps_ids: bool = False
    """The kernel maps ids of mounts below ``root``."""
    stable_inodes: bool = True
    """Containers of native mode get inode numbers of 64 bits that stay; in proxy mode our snapshotter does it."""
    serve_only: bool = False
    """Existing containers keep our snapshots, new ones get none: the state between uninstall and the last container."""


def drop_in(settings: DropInSettings, user: UserConfig) -> str:
    """The file's text. Raises ContainerdMisconfigured when this containerd cannot do it."""
    major, minor = version_of(settings.containerd)
    if settings.mode is Mode.NATIVE and (major, minor) < NATIVE_SINCE:
        raise ContainerdMisconfigured(
            f"native mode needs containerd 2.4 or later, this is {settings.containerd}", hint="use --mode proxy"
        )
    if settings.mode is Mode.NATIVE:
        document = _native(settings, user)
    elif settings.serve_only:
        document = {"version": 2 if major == 1 else 3, "proxy_plugins": _plugin(settings)}
    elif major == 1:
        document = _proxy_1(settings, user)
    else:
        document = _proxy_2(settings, user)
    return _heading(major) + dumps(document)


def default_snapshotter(user: UserConfig) -> str:
    """The snapshotter that CRI uses without our drop-in."""
    cri = user.section(_CRI_IMAGES) or user.section(_CRI_1, "containerd")
    return str(cri.get("snapshotter") or "overlayfs")


def _heading(major: int) -> str:
    copied = (
        "the cri section of your own files"
        if major == 1
        else "the lists of your own files that containerd would replace"
    )
    return (
        "# Written by `imagecache containerd-config install`; `imagecache containerd-config undo` removes it.\n"
        f"# It copies {copied}.\n# After a change of those files, install it again.\n"
    )


def _plugin(settings: DropInSettings) -> Table:
    plugin: Table = {
        "type": "snapshot",
        "address": str(settings.socket),
        "exports": {"root": str(settings.root)},
    }
    if settings.maps_ids and remaps_ids(settings.containerd):
        plugin["capabilities"] = ["remap-ids"]
    return {settings.snapshotter: plugin}


def _proxy_1(settings: DropInSettings, user: UserConfig) -> Table:
    """Containerd 1.x replaces whole plugin sections, so ours repeats the administrator's."""
    ours: Table = {"containerd": {"snapshotter": settings.snapshotter}}
    return {
        "version": 2,
        "proxy_plugins": _plugin(settings),
        "plugins": {_CRI_1: merged(user.section(_CRI_1), ours)},
    }


def _proxy_2(settings: DropInSettings, user: UserConfig) -> Table:
    """Version 3 always: containerd 2.x loses the snapshotter of a version 2 file when it converts it."""
    return {
        "version": 3,
        "proxy_plugins": _plugin(settings),
        "plugins": {
            _CRI_IMAGES: {"snapshotter": settings.snapshotter},
            _TRANSFER: {"unpack_config": _unpack(settings, user, settings.snapshotter)},
        },
    }


def _native(settings: DropInSettings, user: UserConfig) -> Table:
    erofs = user.section(_EROFS)
    for option in ("enable_fsverity", "set_immutable"):
        if erofs.get(option):
            raise ContainerdMisconfigured(
                f"containerd's erofs snapshotter has {option} set, with which it reads no layer images but its own",
                hint=f"remove {option} from plugins.{_EROFS}, or use --mode proxy",
            )
    caches = [cache for cache in _texts(erofs, "layer_content_caches") if cache != str(settings.layers)]
    section: Table = {"layer_content_caches": [*caches, str(settings.layers)]}
    options = _texts(erofs, "ovl_mount_options")
    if not any(option.startswith("xino=") for option in options):
        section["ovl_mount_options"] = [*options, STABLE_INODES if settings.stable_inodes else SHORT_INODES]
    return {
        "version": 3,
        "plugins": {
            _EROFS: section,
            _CRI_IMAGES: {"snapshotter": NATIVE_SNAPSHOTTER},
            _TRANSFER: {
                "max_concurrent_unpacks": _UNPACKS,
                "unpack_config": _unpack(settings, user, NATIVE_SNAPSHOTTER),
            },
        },
    }


def _texts(section: Table, key: str) -> list[str]:
    """A list of the administrator's, which containerd would replace by ours."""
    found = section.get(key)
    return [str(item) for item in found] if isinstance(found, list) else []


def _unpack(settings: DropInSettings, user: UserConfig, snapshotter: str) -> list[Table]:
    """The administrator's entries, else containerd's default, and ours: a pull looks one up by the snapshotter."""
    default: Table = {"platform": settings.platform, "snapshotter": "overlayfs", "differ": "walking"}
    listed = user.section(_TRANSFER).get("unpack_config")
    theirs = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else [default]
    ours: Table = {"platform": settings.platform, "snapshotter": snapshotter, "differ": "walking"}
    return [*(entry for entry in theirs if entry.get("snapshotter") != snapshotter), ours]
