"""The same images on two containerds of one version: on one imagecache serves them, on the other overlayfs has them.

Both have a runtime handler ``hooked``, whose containers run a hook of the host in their root, and containerd 2.4 a CDI
device. Tests ask both sides the same and compare.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import pytest

from imagecache._proto.cri import runtime_pb2 as pb
from testkit.images import EPOCH, MOST_LAYERS, busybox_image, busybox_tar, make_image, thin_layers
from testkit.oci_layout import Image, ImageConfig, LayerSpec, Layout
from testkit.peers.containerd import Containerd, Version
from testkit.peers.cri import Cri, Executed
from testkit.peers.node import CachingNode, Mode
from testkit.peers.programs import find
from testkit.peers.registry import Registry
from testkit.real_images import debian_image
from testkit.tars import CAPABILITY, DIRECTORY, LINK, SYMLINK, Entry, padded, tar

VARIANTS: tuple[tuple[Version, Mode], ...] = (("2.4", "proxy"), ("2.4", "native"), ("system", "proxy"))
FEW, MANY = 5, MOST_LAYERS
"""Layers of the images."""
USER = 1234
LOOK = "find /srv /etc/passwd -exec stat -c '%n %F %u %g %a %h' {} \\; ; cat /srv/folder/* /etc/group"
"""A script: the images' files, in any order (``listed``)."""
# from the first on: pytest shares a fixture among tests with the same number of its parameter
on_2_4 = pytest.mark.parametrize("both", VARIANTS[:2], indirect=True, ids=["-".join(each) for each in VARIANTS[:2]])
"""Both modes of containerd 2.4."""
depths = pytest.mark.parametrize("layers", [FEW, MANY])
DEVICE = "imagecache.dev/thing=one"
SLEEP = ("/bin/sleep", "1000000")
_ABLE = {b"SCHILY.xattr.security.capability": CAPABILITY}
Answer = TypeVar("Answer")

_HOOK = """\
#!/bin/sh -e
root=$(sed -n 's/.*"bundle":"\\([^"]*\\)".*/\\1/p')/rootfs
echo hooked >"$root/etc/hooked"
ldconfig -r "$root"
"""
"""As GPU toolkits do it: it finds the root by the state on its standard input, and makes the linker's cache anew."""
_HANDLERS_1 = """
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.hooked]
  runtime_type = "io.containerd.runc.v2"
  base_runtime_spec = "{directory}/spec.json"
"""
_HANDLERS_2 = """\
version = 3
[plugins."io.containerd.cri.v1.runtime"]
  cdi_spec_dirs = ["{directory}/cdi"]
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.hooked]
  runtime_type = "io.containerd.runc.v2"
  base_runtime_spec = "{directory}/spec.json"
"""


@dataclass(frozen=True, slots=True)
class Side:
    """One containerd, whose CRI has the images."""

    containerd: Containerd
    snapshotter: str

    def ctr(self, *words: str | Path) -> str:
        """Among CRI's images and containers."""
        return self.containerd.ctr("-n", "k8s.io", *words)

    def run(self, image: str, script: str, *flags: str) -> str:
        """What a shell prints in a container that ctr runs and removes."""
        name = f"run-{uuid4().hex[:12]}"
        return self.ctr("run", "--rm", "--snapshotter", self.snapshotter, *flags, image, name, "sh", "-c", script)

    @asynccontextmanager
    async def running(
        self,
        image: str,
        *,
        mounts: Sequence[pb.Mount] = (),
        security: pb.LinuxContainerSecurityContext | None = None,
        devices: Sequence[str] = (),
        handler: str = "",
    ) -> AsyncIterator[Running]:
        """A container in a pod of its own, gone afterwards."""
        async with Cri(self.containerd.address) as cri:
            privileged = security is not None and security.privileged
            pod = await cri.run_pod(f"test-{uuid4().hex[:12]}", handler=handler, privileged=privileged)
            try:
                container = await cri.create_container(
                    pod, image, SLEEP, mounts=mounts, security=security, devices=devices
                )
                await cri.start(container)
                yield Running(cri, container)
            finally:
                await cri.remove_pod(pod)


@dataclass(frozen=True, slots=True)
class Running:
    cri: Cri
    container: str

    async def sh(self, script: str) -> str:
        """What a shell prints there. Fails the test when the script does."""
        done = await self.ask(script)
        assert done.code == 0, f"{script} ended with {done.code}: {done.stdout}{done.stderr}"
        return done.stdout

    async def ask(self, script: str) -> Executed:
        return await self.cri.exec_sync(self.container, ["/bin/sh", "-c", script])


@dataclass(frozen=True, slots=True)
class Sides:
    version: Version
    mode: Mode
    node: CachingNode
    ours: Side
    theirs: Side
    registry: Registry

    def image(self, kind: str, layers: int = FEW) -> str:
        """What both have: ``plain``, ``declared`` (it has USER and VOLUME), ``single`` (of one layer), ``debian``."""
        return f"{self.registry.address}/field/{kind}:{layers}"

    @property
    def most(self) -> int:
        """Layers of an image that one test makes for itself: as many as can be in one variant, as 127 take seconds."""
        return MANY if (self.version, self.mode) == VARIANTS[0] else FEW

    @property
    def each(self) -> tuple[Side, Side]:
        return self.ours, self.theirs

    async def same(self, ask: Callable[[Side], Awaitable[Answer]]) -> Answer:
        """The answer of both. Fails the test when they differ."""
        ours, theirs = await ask(self.ours), await ask(self.theirs)
        assert ours == theirs, "imagecache, overlayfs"
        return ours


def listed(text: str) -> list[str]:
    """Lines whose order is the filesystem's own."""
    return sorted(text.splitlines())


def push_images(directory: Path, registry: Registry) -> None:
    """What ``Sides.image`` names; ``directory`` gets their layouts."""
    declared = ImageConfig(user="app", volumes=("/srv/volume",))
    for layers in (FEW, MANY):
        for kind, config in (("plain", ImageConfig()), ("declared", declared)):
            registry.push(f"field/{kind}:{layers}", _image(directory / f"{kind}-{layers}", layers, config))
        registry.push(f"field/debian:{layers}", deepened(directory / f"debian-{layers}", debian_image(), layers))
    registry.push("field/single:1", make_image(directory / "single", [_single()]))


def _image(directory: Path, layers: int, config: ImageConfig) -> Image:
    """Every layer lists the directories that it writes to, so that native mode serves it too."""
    between = thin_layers(layers - FEW)
    return busybox_image(directory, _lower(), _twin(b"a"), _twin(b"b"), *between, _upper(), config=config)


def deepened(directory: Path, below: Image, layers: int) -> Image:
    """The image with thin layers on top, so that it has that many."""
    layout = Layout(directory)
    for blob in below.layers:
        (directory / "blobs" / "sha256" / blob.digest.hex).symlink_to(below.blob(blob.digest))
    above = [layout.add_layer(LayerSpec(tar)) for tar in thin_layers(layers - len(below.layers))]
    blobs, diff_ids = [blob for blob, _ in above], [diff_id for _, diff_id in above]
    return layout.add_manifest([*below.layers, *blobs], [*below.diff_ids, *diff_ids], ImageConfig())


def _single() -> bytes:
    """busybox with a /run, which a root that nobody may write to needs."""
    files = padded(busybox_tar().rstrip(b"\0"))
    return tar(files, Entry(b"run/", DIRECTORY, mode=0o755, mtime=EPOCH))


def _lower() -> bytes:
    return tar(
        Entry(b"etc/", DIRECTORY, mode=0o755, mtime=EPOCH),
        Entry(b"etc/passwd", content=b"root:x:0:0:root:/root:/bin/sh\napp:x:1:1::/:/bin/sh\n", mtime=EPOCH),
        Entry(b"etc/group", content=b"root:x:0:\napp:x:1234:\nextra:x:4321:app\nother:x:77:\n", mtime=EPOCH),
        Entry(b"run/", DIRECTORY, mode=0o755, mtime=EPOCH),
        Entry(b"srv/", DIRECTORY, mode=0o755, mtime=EPOCH),
        Entry(b"srv/home/", DIRECTORY, mode=0o700, uid=USER, gid=USER, mtime=EPOCH),
        Entry(b"srv/volume/", DIRECTORY, mode=0o2775, uid=7, gid=8, mtime=EPOCH),
        Entry(b"srv/volume/file", content=b"in a volume\n" * 1000, mode=0o640, uid=USER, gid=8, mtime=EPOCH),
        Entry(b"srv/volume/link", LINK, target=b"srv/volume/file", mtime=EPOCH),
        Entry(b"srv/volume/symlink", SYMLINK, target=b"file", mode=0o777, mtime=EPOCH),
        Entry(b"srv/volume/empty/", DIRECTORY, mode=0o1777, mtime=EPOCH),
        Entry(b"srv/folder/", DIRECTORY, mode=0o755, mtime=EPOCH),
        Entry(b"srv/folder/inside", content=b"inside\n", mtime=EPOCH),
        Entry(b"srv/folder/hidden", content=b"hidden\n", mtime=EPOCH),
        Entry(b"srv/removed", content=b"removed\n", mtime=EPOCH),
        Entry(b"srv/changed", content=b"old\n" * 100_000, mtime=EPOCH),
        Entry(b"srv/tool", content=b"tool\n", mode=0o4755, uid=USER, gid=USER, mtime=EPOCH),
        Entry(b"srv/able", content=b"able\n", mode=0o755, mtime=EPOCH, pax=_ABLE),
    )


def _twin(name: bytes) -> bytes:
    """Two of them differ in nothing that decides about inode numbers, which are equal in two layer images then."""
    return tar(
        Entry(b"srv/", DIRECTORY, mode=0o755, mtime=EPOCH),
        Entry(b"srv/volume/", DIRECTORY, mode=0o2775, uid=7, gid=8, mtime=EPOCH),
        Entry(b"srv/volume/twin-" + name, content=b"twin " + name + b"\n", mtime=EPOCH),
        Entry(b"srv/volume/link-" + name, LINK, target=b"srv/volume/twin-" + name, mtime=EPOCH),
    )


def _upper() -> bytes:
    """Users as the container has them: the file of the layer below is hidden."""
    return tar(
        Entry(b"etc/", DIRECTORY, mode=0o755, mtime=EPOCH),
        Entry(b"etc/passwd", content=b"root:x:0:0:root:/root:/bin/sh\napp:x:1234:1234::/:/bin/sh\n", mtime=EPOCH),
        Entry(b"srv/", DIRECTORY, mode=0o755, mtime=EPOCH),
        Entry(b"srv/folder/", DIRECTORY, mode=0o755, mtime=EPOCH),
        Entry(b"srv/folder/.wh.hidden", mtime=EPOCH),
        Entry(b"srv/folder/above", content=b"above\n", mtime=EPOCH),
    )


@contextmanager
def sides(directory: Path, variant: tuple[Version, Mode], pause: str, registry: Registry) -> Iterator[Sides]:
    """Both, running, with the images of ``push_images``. The caller removes what is left of ``directory``."""
    version, mode = variant
    directory.mkdir(parents=True)
    node = CachingNode(directory / "ours", version, mode, sandbox_image=pause)
    peer = Containerd(directory / "theirs", version, sandbox_image=pause)
    _write_hooks(directory, peer)
    for containerd in (node.containerd, peer):
        _add_handlers(containerd, directory)
    snapshotter = "erofs" if mode == "native" else "imagecache"
    with node, peer:
        made = Sides(version, mode, node, Side(node.containerd, snapshotter), Side(peer, "overlayfs"), registry)
        images = [made.image(kind, layers) for kind in ("plain", "declared", "debian") for layers in (FEW, MANY)]
        images.append(made.image("single", 1))
        node.create("field", images)
        asyncio.run(_pull(node.address, [pause]))
        asyncio.run(_pull(peer.address, [pause, *images]))
        yield made


async def _pull(address: Path, images: Sequence[str]) -> None:
    async with Cri(address) as cri:
        for image in images:
            await cri.pull(image)


def _write_hooks(directory: Path, containerd: Containerd) -> None:
    """The hook, a spec that has it for every container of a handler, and a CDI device that has it too."""
    script = directory / "hook"
    script.write_text(_HOOK)
    script.chmod(0o755)
    path = f"PATH={find('sed').parent}:{find('ldconfig').parent}"
    spec = json.loads(containerd.ctr("oci", "spec"))
    spec["hooks"] = {"createContainer": [{"path": str(script), "args": [str(script)], "env": [path]}]}
    (directory / "spec.json").write_text(json.dumps(spec))
    thing = directory / "thing"
    thing.mkdir()
    (thing / "library").write_text("of the host\n")
    edits = {
        "env": ["THING=one"],
        "mounts": [{"hostPath": str(thing), "containerPath": "/opt/thing", "options": ["ro", "bind"]}],
        "hooks": [{"hookName": "createContainer", "path": str(script), "args": [str(script)], "env": [path]}],
    }
    kind, _, name = DEVICE.partition("=")
    device = {"cdiVersion": "0.5.0", "kind": kind, "devices": [{"name": name, "containerEdits": edits}]}
    (directory / "cdi").mkdir()
    (directory / "cdi" / "thing.json").write_text(json.dumps(device))


def _add_handlers(containerd: Containerd, directory: Path) -> None:
    if containerd.major > 1:
        containerd.add_drop_in("handlers", _HANDLERS_2.format(directory=directory))
        return
    with containerd.config.open("a") as config:  # a drop-in would replace the whole section
        config.write(_HANDLERS_1.format(directory=directory))
