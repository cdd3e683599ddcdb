"""``doctor``'s checks that ask containerd: version, integration, configuration, pause image."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagecache.containerd.api import Containerd, Plugin, Session
from imagecache.containerd.handlers import AUTO, OFF, handlers_of
from imagecache.containerd.image_records import CRI_NAMESPACE
from imagecache.containerd.modes import Choice, choose, remaps_ids, version_of
from imagecache.digest import Digest
from imagecache.errors import ContainerdMisconfigured, ImageCacheError
from imagecache.host import probe_config
from imagecache.host.checks import Check, failed, ok, problem, warning
from imagecache.host.containerd_process import effective_config, listening_at
from imagecache.host.probe_id_maps import why_ids_are_not_mapped
from imagecache.oci.manifest import Index, detect_media_type, parse_document
from imagecache.oci.reference import Reference
from imagecache.settings.choices import Mode
from imagecache.toml import Table

_AREA = "containerd"
_OLDEST = (1, 6)


@dataclass(frozen=True, slots=True)
class ContainerdExpectations:
    """What the settings expect of containerd."""

    address: Path
    snapshotter: str
    mode: Mode
    root: Path
    """Of the proxy snapshotter."""
    layers: Path
    """The store's ``layers`` directory."""
    also_unpack: tuple[str, ...] = (AUTO,)
    """Snapshotters that get images too, as ``containerd.handlers.Handlers`` has it."""


async def check_containerd(containerd: Containerd, expected: ContainerdExpectations) -> tuple[list[Check], Mode | None]:
    """The checks, and the mode that works on this node (PROXY or NATIVE). Never raises for what it finds."""
    try:
        version, plugins = await containerd.version(), await containerd.snapshotter_plugins()
    except ImageCacheError as error:
        return [failed(_AREA, "connection", error)], None
    checks = [ok(_AREA, "connection", f"containerd {version} at {expected.address}")]
    if version_of(version) < _OLDEST:
        checks.append(problem(_AREA, "version", f"{version} is too old", "use containerd 1.6 or later"))
    try:
        choice = choose(version, plugins, expected.snapshotter, expected.mode)
    except ContainerdMisconfigured as error:
        return [*checks, failed(_AREA, "integration", error)], None
    checks.append(ok(_AREA, "integration", f"{choice.mode.value}: {choice.because}"))
    checks += await asyncio.to_thread(check_user_namespaces, version, plugins, choice, expected.root)
    daemon = await asyncio.to_thread(listening_at, expected.address)
    effective = await asyncio.to_thread(effective_config, daemon) if daemon is not None else None
    checks += _configured(effective, plugins, choice, version, expected)
    if choice.mode is Mode.NATIVE:
        checks.append(_mkfs())
    checks += await check_handlers(containerd, plugins, choice, expected.also_unpack)
    if effective is not None:
        session = containerd.session(CRI_NAMESPACE)
        checks.append(
            await check_sandbox(session, probe_config.sandbox_image(probe_config.sections(effective)), choice)
        )
    return checks, choice.mode


async def check_handlers(
    containerd: Containerd, plugins: Sequence[Plugin], choice: Choice, setting: Sequence[str]
) -> list[Check]:
    """Pods of a runtime handler with another snapshotter start cached images when they are unpacked there too."""
    try:
        found = await containerd.handler_snapshotters()
    except ImageCacheError as error:
        return [failed(_AREA, "runtime handlers", error)]
    handlers = handlers_of(found, [each.id for each in plugins if not each.error], choice.snapshotter, setting)
    left_out = handlers.left_out()
    checks: list[Check] = []
    for name, snapshotter in sorted(handlers.snapshotters.items()):
        title = f"runtime handler {name}"
        if name in left_out:
            words = f"its snapshotter {snapshotter} does not get cached images, unless their cache asks for it"
            checks.append(warning(_AREA, title, words, "set also_unpack to auto, or leave its nodes out"))
        else:
            words = (
                f"cached images are unpacked into its snapshotter {snapshotter} too, unless their cache says otherwise"
            )
            checks.append(ok(_AREA, title, words))
    for name in sorted({*setting} - {AUTO, OFF, choice.snapshotter} - handlers.loaded):
        words = f"this containerd has no snapshotter {name}"
        checks.append(warning(_AREA, "also_unpack", words, "correct the setting, if another node does not have it"))
    return checks


def _configured(
    effective: Table | None, plugins: tuple[Plugin, ...], choice: Choice, version: str, expected: ContainerdExpectations
) -> list[Check]:
    if effective is None:
        unknown = "containerd's effective configuration cannot be read from here"
        return [warning(_AREA, "configuration", unknown, "run doctor on the host itself, as root")]
    config = probe_config.sections(effective)
    found = (
        probe_config.check_default(config, choice),
        probe_config.check_unpack(config, choice, version),
        probe_config.check_caches(config, choice, expected.layers),
        probe_config.check_root(plugins, choice, expected.root, version),
    )
    return [check for check in found if check is not None]


def check_user_namespaces(version: str, plugins: tuple[Plugin, ...], choice: Choice, root: Path) -> list[Check]:
    """How a pod with ``hostUsers: false`` gets its image.

    Nothing for containerd 1.x, whose pods cannot, and in native mode, where containerd's own snapshotter maps.
    """
    if choice.mode is not Mode.PROXY or version_of(version)[0] < 2:
        return []
    name = "user namespaces"
    copies = "containerd copies an image for each user namespace (hostUsers: false)"
    if not remaps_ids(version):
        return [warning(_AREA, name, f"{version}: {copies}", "use containerd 2.3 or later")]
    if reason := why_ids_are_not_mapped(root):
        return [warning(_AREA, name, f"{copies}: {reason}", f"kernel 5.19, and a disk filesystem at {root}")]
    if not any(plugin.id == choice.snapshotter and "remap-ids" in plugin.capabilities for plugin in plugins):
        return [warning(_AREA, name, f"{copies}: its configuration is older", probe_config.INSTALL)]
    return [ok(_AREA, name, "images are mapped, not copied")]


def _mkfs() -> Check:
    """Containerd's erofs snapshotter makes images of the layers that we do not have, with this program."""
    if shutil.which("mkfs.erofs"):
        return ok(_AREA, "mkfs.erofs", "installed, for layers that are not cached")
    return problem(
        _AREA, "mkfs.erofs", "not installed: images that are not cached cannot be pulled", "apt install erofs-utils"
    )


async def check_sandbox(session: Session, name: str, choice: Choice) -> Check:
    """The pause image must be unpacked in the default snapshotter, or new pods wait for a registry."""
    if not name:
        return warning(_AREA, "pause image", "containerd's configuration names none", "set its sandbox image")
    try:
        image = await session.images.get(Reference.parse(name).cri_name)
        if image is None:
            return warning(_AREA, "pause image", f"{name} is not on this node yet", f"crictl pull {name}")
        label = f"containerd.io/gc.ref.snapshot.{choice.snapshotter}"
        async for config in _configs(session, image.target):
            if label in (await session.content.labels(config) or {}):
                return ok(_AREA, "pause image", f"{name} is unpacked in {choice.snapshotter}")
    except ImageCacheError as error:
        return failed(_AREA, "pause image", error)
    return warning(_AREA, "pause image", f"{name} is not unpacked in {choice.snapshotter}", f"crictl pull {name}")


async def _configs(session: Session, target: Digest) -> AsyncIterator[Digest]:
    """Configs of the manifests that exist, of any platform."""
    body = await session.content.read(target)
    if body is None:
        return
    document = parse_document(body, detect_media_type(body, ""))
    if not isinstance(document, Index):
        yield document.config.digest
        return
    for digest in document.digests:
        async for config in _configs(session, digest):
            yield config
