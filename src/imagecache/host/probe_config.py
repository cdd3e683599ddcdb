"""Whether containerd's effective configuration uses our layers: one function per check of ``doctor``. Pure."""

from __future__ import annotations

from pathlib import Path

from imagecache.containerd.api import SNAPSHOTTERS, Plugin
from imagecache.containerd.modes import NATIVE_SNAPSHOTTER, Choice, version_of
from imagecache.host.checks import Check, ok, problem, warning
from imagecache.host.containerd_config import ConfigState, Found
from imagecache.host.user_config import UserConfig
from imagecache.settings.choices import Mode
from imagecache.toml import Table

_AREA = "containerd"
INSTALL = "run: imagecache containerd-config install, then restart containerd"
_CRI_1 = "io.containerd.grpc.v1.cri"
_CRI_IMAGES = "io.containerd.cri.v1.images"
_TRANSFER = "io.containerd.transfer.v1.local"


def sections(effective: Table) -> UserConfig:
    """The plugin sections of an effective configuration."""
    plugins = effective.get("plugins", {})
    found = plugins.items() if isinstance(plugins, dict) else ()
    return UserConfig(plugins={name: section for name, section in found if isinstance(section, dict)})


def check_default(config: UserConfig, choice: Choice) -> Check:
    """CRI must use our snapshotter by default: image records are the same for all snapshotters."""
    cri = config.section(_CRI_IMAGES) or config.section(_CRI_1, "containerd")
    found = cri.get("snapshotter", "")
    if found == choice.snapshotter:
        return ok(_AREA, "default snapshotter", f"CRI uses {found}")
    return problem(_AREA, "default snapshotter", f"CRI uses {found or 'none'}, not {choice.snapshotter}", INSTALL)


def check_unpack(config: UserConfig, choice: Choice, version: str) -> Check | None:
    """The transfer service, with which CRI pulls since 2.1, must know the snapshotter; None before that."""
    if version_of(version) < (2, 1):
        return None
    entries = config.section(_TRANSFER).get("unpack_config", [])
    listed = entries if isinstance(entries, list) else []
    if any(isinstance(entry, dict) and entry.get("snapshotter") == choice.snapshotter for entry in listed):
        return ok(_AREA, "unpack_config", f"has an entry for {choice.snapshotter}")
    return problem(_AREA, "unpack_config", f"has no entry for {choice.snapshotter}, pulls would fail", INSTALL)


def check_caches(config: UserConfig, choice: Choice, layers: Path) -> Check | None:
    """Native mode reads only the listed directories; None in proxy mode."""
    if choice.mode is not Mode.NATIVE:
        return None
    caches = config.section(f"{SNAPSHOTTERS}.{NATIVE_SNAPSHOTTER}").get("layer_content_caches", [])
    if isinstance(caches, list) and str(layers) in caches:
        return ok(_AREA, "layer_content_caches", f"has {layers}")
    return problem(_AREA, "layer_content_caches", f"lacks {layers}", INSTALL)


def check_root(plugins: tuple[Plugin, ...], choice: Choice, root: Path, version: str) -> Check | None:
    """Where kubelet measures the image filesystem; None in native mode.

    containerd 1.x measures in a fixed directory, later versions in the exported root (containerd issue 10095).
    """
    if choice.mode is not Mode.PROXY:
        return None
    roots = {plugin.id: plugin.exports.get("root", "") for plugin in plugins if plugin.kind == SNAPSHOTTERS}
    if version_of(version)[0] == 1:
        beside = next(
            (Path(other).parent for name, other in roots.items() if other and name != choice.snapshotter), None
        )
        expected = str(beside / f"{SNAPSHOTTERS}.{choice.snapshotter}") if beside else str(root)
    else:
        expected = roots.get(choice.snapshotter, "")
    if expected == str(root):
        return ok(_AREA, "image filesystem", f"measured at {root}")
    words = f"kubelet measures {expected or 'nothing'}, the snapshotter writes to {root}"
    return warning(_AREA, "image filesystem", words, f"set agent_root to {expected}" if expected else INSTALL)


def check_files(found: Found) -> Check | None:
    """Whether containerd would have our drop-in after its next start; None where there is no drop-in of ours."""
    if found.state is ConfigState.ABSENT:
        return None
    if found.state is ConfigState.OK:
        return ok(_AREA, "next start", found.state.value)
    remedy = "run: imagecache containerd-config install"
    return problem(_AREA, "next start", found.state.value, remedy)


def sandbox_image(config: UserConfig) -> str:
    """The pause image, which every pod needs; empty when the configuration names none."""
    found = config.section(_CRI_IMAGES, "pinned_images").get("sandbox") or config.section(_CRI_1).get("sandbox_image")
    return found if isinstance(found, str) else ""
