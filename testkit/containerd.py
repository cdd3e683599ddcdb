"""containerd in memory: the fake ``containerd.api.Containerd``.

Content, image records and snapshots per namespace, leases, and a collector that follows the same labels as the real
one, so that a test sees what a wrong label would lose. Tests decide which layers a snapshotter serves. It passes the
same suite as the client of a real containerd (``testkit.suites.containerd``).
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import secrets
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from imagecache.containerd.api import (
    ContainerRecord,
    Plugin,
    SnapshotInfo,
    SnapshotKey,
    SnapshotMount,
    StoredImage,
    TaskStarted,
)
from imagecache.digest import Digest
from imagecache.errors import ContainerdMisconfigured, ContainerdUnavailable, NotFound, SnapshotNotFound
from imagecache.oci.descriptor import Descriptor, Platform
from imagecache.oci.platform import same_machine

_REF = "containerd.io/snapshot.ref"
_ROOT = "containerd.io/gc.root"
_DIFF_ID = "containerd.io/snapshot/diff-id"
_WRITABLE = SnapshotMount("bind", "/fake/fs", ("rw", "rbind"))


@dataclass
class FakeSnapshotter:
    """Serves ``chains`` as our proxy plugin does, and ``diff_ids`` as containerd's erofs snapshotter does."""

    chains: set[str] = field(default_factory=set)
    diff_ids: set[str] = field(default_factory=set)


@dataclass
class _Namespace:
    content: dict[Digest, dict[str, str]] = field(default_factory=dict)
    bodies: dict[Digest, bytes] = field(default_factory=dict)
    images: dict[str, StoredImage] = field(default_factory=dict)
    active: dict[tuple[str, str], SnapshotKey] = field(default_factory=dict)
    committed: dict[tuple[str, str], SnapshotInfo] = field(default_factory=dict)
    containers: dict[str, ContainerRecord] = field(default_factory=dict)
    leases: dict[str, set[object]] = field(default_factory=dict)


class MemoryContainerd:
    """Tests set ``snapshotters``, ``handlers``, ``extra_plugins``, ``cri``, ``running``; they look into ``spaces``."""

    def __init__(self, version: str = "1.6.20", *, cri: bool = True) -> None:
        self.running = True
        self.cri = cri
        self.snapshotters = {"overlayfs": FakeSnapshotter()}
        self.handlers: dict[str, str] = {}
        """Snapshotters of CRI's runtime handlers."""
        self.other = False
        """Whether it is another runtime, which knows CRI alone."""
        self.misapplies = False
        """Whether it unpacks something else than it was asked to."""
        self.platform = Platform(os="linux", architecture="amd64")
        self.answers: deque[Mapping[str, str]] = deque()
        """What CRI answers about images before it says what is true."""
        self.left_out: set[str] = set()
        """Names that CRI has left out when it started."""
        self.spaces: dict[str, _Namespace] = {}
        self.extra_plugins: list[Plugin] = []
        self.starts: asyncio.Queue[TaskStarted | None] = asyncio.Queue()
        self._version = version

    def check(self) -> None:
        if not self.running:
            raise ContainerdUnavailable("containerd has no socket at /fake.sock", hint="start containerd")

    def session(self, namespace: str) -> MemorySession:
        return MemorySession(self, self.spaces.setdefault(namespace, _Namespace()), namespace)

    async def version(self) -> str:
        self.check()
        if self.other:
            raise ContainerdMisconfigured("/fake.sock refused containerd.services.version.v1.Version: UNIMPLEMENTED")
        return self._version

    async def snapshotter_plugins(self) -> tuple[Plugin, ...]:
        self.check()
        loaded = [Plugin("io.containerd.snapshotter.v1", name) for name in self.snapshotters]
        return (*loaded, *self.extra_plugins)

    async def handler_snapshotters(self) -> dict[str, str]:
        self.check()
        return dict(self.handlers) if self.cri else {}

    async def cri_images(self, names: Collection[str]) -> Mapping[str, str] | None:
        self.check()
        if not self.cri:
            return None
        if self.answers:
            return self.answers.popleft()
        space = self.spaces.get("k8s.io", _Namespace())
        ids = {name: self._image_id(space, space.images[name]) for name in names if name in space.images}
        ids = {name: image_id for name, image_id in ids.items() if name not in self.left_out}
        return {name: image_id for name, image_id in ids.items() if image_id}

    async def image_filesystem(self) -> str:
        self.check()
        return "/fake/io.containerd.snapshotter.v1.overlayfs"

    async def namespaces(self) -> tuple[str, ...]:
        self.check()
        return tuple(sorted(self.spaces))

    async def task_starts(self) -> AsyncIterator[TaskStarted]:
        """The events that a test puts into ``starts``; None ends the stream."""
        while (event := await self.starts.get()) is not None:
            yield event
        raise ContainerdUnavailable("containerd ended its stream of events")

    def collect(self) -> None:
        """Collect garbage, as containerd does after a deletion."""
        for space in self.spaces.values():
            _collect(space)

    def handle_image_event(self, space: _Namespace, name: str) -> None:
        """CRI marks a record that is not marked, after making one named by the image's id."""
        self.left_out.discard(name)
        image = space.images.get(name)
        if (
            image is None
            or image.labels.get("io.cri-containerd.image") == "managed"
            or not self._image_id(space, image)
        ):
            return
        marked = {**image.labels, "io.cri-containerd.image": "managed"}
        space.images[name] = replace(image, labels=marked)

    def _image_id(self, space: _Namespace, image: StoredImage) -> str:
        """Digest of its config for the platform of this containerd; empty when it has none, as CRI sees it."""
        document = _document(space, image.target)
        while isinstance(entries := document.get("manifests"), list):
            own = [entry for entry in entries if self._is_own(entry.get("platform"))]
            document = _document(space, own[0]["digest"]) if own else {}
        config = document.get("config")
        return str(config["digest"]) if isinstance(config, dict) and config["digest"] in space.content else ""

    def _is_own(self, platform: Mapping[str, str] | None) -> bool:
        if platform is None:
            return True
        return same_machine(self.platform, Platform(os=platform["os"], architecture=platform["architecture"]))


class MemorySession:
    def __init__(
        self,
        containerd: MemoryContainerd,
        space: _Namespace,
        namespace: str,
        lease: set[object] | None = None,
        owner: str = "",
    ) -> None:
        self._owner = owner
        self._containerd = containerd
        self._space = space
        self._namespace = namespace
        self.content = _Content(containerd, space, lease)
        self.images = _Images(containerd, space, cri=containerd.cri and namespace == "k8s.io")
        self.snapshots = _Snapshots(containerd, space, lease)

    @contextlib.asynccontextmanager
    async def leased(self, seconds: int, *, sync: bool = False, owner: str = "") -> AsyncIterator[MemorySession]:
        del sync  # it collects at each end of a lease
        assert seconds > 0
        self._containerd.check()
        name = owner or self._owner + secrets.token_hex(8)
        lease = self._space.leases.setdefault(name, set())
        succeeded = False
        try:
            nested = f"{owner}-" if owner else ""
            yield MemorySession(self._containerd, self._space, self._namespace, lease, nested)
            succeeded = True
        finally:
            if succeeded or not owner:
                await self.end_leases(name)

    async def end_leases(self, owner: str = "") -> None:
        for name in list(self._space.leases):
            if not owner or name == owner or name.startswith(f"{owner}-"):
                del self._space.leases[name]
        _collect(self._space)

    async def apply(self, tar: Descriptor, mounts: Sequence[SnapshotMount]) -> Digest:
        """Nothing but the digest of what would be unpacked."""
        self._containerd.check()
        assert mounts
        if tar.digest not in self._space.bodies:
            raise NotFound(f"content digest {tar.digest}: not found")
        return Digest.sha256(b"" if self._containerd.misapplies else self._space.bodies[tar.digest])

    async def container(self, container_id: str) -> ContainerRecord | None:
        self._containerd.check()
        return self._space.containers.get(container_id)


class _Content:
    def __init__(self, containerd: MemoryContainerd, space: _Namespace, lease: set[object] | None) -> None:
        self._containerd = containerd
        self._space = space
        self._lease = lease

    async def write(self, data: bytes, labels: Mapping[str, str]) -> Digest:
        self._containerd.check()
        digest = Digest.sha256(data)
        self._space.bodies[digest] = data
        found = self._space.content.setdefault(digest, {})
        for key, value in labels.items():
            joined = {*found[key].split(","), value} if ".source." in key and key in found else {value}
            found[key] = ",".join(sorted(joined))
            if not found[key]:
                del found[key]
        if self._lease is not None:
            self._lease.add(digest)
        return digest

    async def write_from(self, pieces: AsyncIterator[bytes], content: Descriptor) -> None:
        self._containerd.check()
        if content.digest not in self._space.content:
            body = b"".join([piece async for piece in pieces])
            if Digest.sha256(body) != content.digest:
                raise ContainerdMisconfigured(f"unexpected commit digest, expected {content.digest}")
        else:
            body = self._space.bodies[content.digest]
        await self.write(body, {})

    async def labels(self, digest: Digest) -> dict[str, str] | None:
        self._containerd.check()
        found = self._space.content.get(digest)
        return None if found is None else dict(found)

    async def read(self, digest: Digest) -> bytes | None:
        self._containerd.check()
        return self._space.bodies.get(digest)


class _Images:
    def __init__(self, containerd: MemoryContainerd, space: _Namespace, *, cri: bool) -> None:
        self._containerd = containerd
        self._space = space
        self._cri = cri

    async def get(self, name: str) -> StoredImage | None:
        self._containerd.check()
        return self._space.images.get(name)

    async def with_target(self, target: Digest) -> list[StoredImage]:
        self._containerd.check()
        found = [image for image in self._space.images.values() if image.target == target]
        return sorted(found, key=lambda image: image.name)

    async def all(self) -> list[StoredImage]:
        self._containerd.check()
        return sorted(self._space.images.values(), key=lambda image: image.name)

    async def put(
        self, name: str, target: Descriptor, labels: Mapping[str, str], *, created: Mapping[str, str] = {}
    ) -> bool:
        self._containerd.check()
        found = self._space.images.get(name)
        merged = {**(found.labels if found else created), **labels}
        kept = {key: value for key, value in merged.items() if value}
        image = StoredImage(name, target.digest, kept, target.media_type, target.size)
        if image == found:
            return False
        self._space.images[name] = image
        if self._cri:
            self._containerd.handle_image_event(self._space, name)
        return True

    async def touch(self, name: str) -> None:
        self._containerd.check()
        if self._cri:
            self._containerd.handle_image_event(self._space, name)

    async def delete(self, name: str, target: Digest, *, sync: bool = False) -> bool:
        found = await self.get(name)
        if found is None or found.target != target:
            return False
        del self._space.images[name]
        if sync:
            _collect(self._space)
        return True


class _Snapshots:
    def __init__(self, containerd: MemoryContainerd, space: _Namespace, lease: set[object] | None) -> None:
        self._containerd = containerd
        self._space = space
        self._lease = lease

    def _snapshotter(self, name: str) -> FakeSnapshotter:
        self._containerd.check()
        if name not in self._containerd.snapshotters:
            raise ContainerdMisconfigured(f"snapshotter not loaded: {name}", hint="run: imagecache doctor")
        return self._containerd.snapshotters[name]

    async def prepare(self, snapshot: SnapshotKey) -> tuple[SnapshotMount, ...] | None:
        snapshotter = self._snapshotter(snapshot.snapshotter)
        place = (snapshot.snapshotter, snapshot.key)
        target = snapshot.labels.get(_REF, "")
        if place in self._space.active or place in self._space.committed:
            return None
        if snapshot.parent and (snapshot.snapshotter, snapshot.parent) not in self._space.committed:
            raise SnapshotNotFound(f"parent {snapshot.parent}: not found")
        if (snapshot.snapshotter, target) in self._space.committed:
            return None
        if target in snapshotter.chains:
            self._put(SnapshotInfo(target, snapshot.parent, snapshot.labels), snapshot.snapshotter)
            return None
        self._space.active[place] = snapshot
        if target and snapshot.labels.get(_DIFF_ID) in snapshotter.diff_ids:
            return (SnapshotMount("erofs", "/fake/layer.erofs", ("ro", "loop")),)
        return (_WRITABLE,)

    async def commit(self, snapshot: SnapshotKey, name: str) -> bool:
        self._snapshotter(snapshot.snapshotter)
        if (snapshot.snapshotter, name) in self._space.committed:
            return False
        if self._space.active.pop((snapshot.snapshotter, snapshot.key), None) is None:
            raise SnapshotNotFound(f"{snapshot.key}: not found")
        self._put(SnapshotInfo(name, snapshot.parent, snapshot.labels), snapshot.snapshotter)
        return True

    async def remove(self, snapshotter: str, key: str) -> None:
        self._snapshotter(snapshotter)
        self._space.active.pop((snapshotter, key), None)
        self._space.committed.pop((snapshotter, key), None)

    async def stat(self, snapshotter: str, name: str) -> SnapshotInfo | None:
        self._snapshotter(snapshotter)
        active = self._space.active.get((snapshotter, name))
        if active is not None:
            return SnapshotInfo(name, active.parent, active.labels, committed=False)
        return self._space.committed.get((snapshotter, name))

    async def keep(self, snapshotter: str, name: str) -> None:
        self._hold((snapshotter, name))
        if await self.stat(snapshotter, name) is None:
            raise SnapshotNotFound(f"snapshot {name}: not found")

    async def label(self, snapshotter: str, name: str, labels: Mapping[str, str]) -> None:
        info = await self.stat(snapshotter, name)
        if info is None:
            raise SnapshotNotFound(f"snapshot {name}: not found")
        merged = {key: value for key, value in {**info.labels, **labels}.items() if value}
        self._space.committed[snapshotter, name] = replace(info, labels=merged)

    async def list(self, snapshotter: str) -> AsyncIterator[SnapshotInfo]:
        self._snapshotter(snapshotter)
        for (owner, _), info in list(self._space.committed.items()):
            if owner == snapshotter:
                yield info
        for (owner, key), active in list(self._space.active.items()):
            if owner == snapshotter:
                yield SnapshotInfo(key, active.parent, active.labels, committed=False)

    def _put(self, info: SnapshotInfo, snapshotter: str) -> None:
        info = replace(info, created=dt.datetime.now(dt.UTC))
        self._space.committed.setdefault((snapshotter, info.name), info)
        self._hold((snapshotter, info.name))

    def _hold(self, place: tuple[str, str]) -> None:
        if self._lease is not None:
            self._lease.add(place)


def _document(space: _Namespace, digest: str) -> dict[str, Any]:
    """An index or manifest of the content store; empty when it is not there, or is none."""
    body = space.bodies.get(Digest(digest), b"")
    try:
        document = json.loads(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _collect(space: _Namespace) -> None:
    """Keep what image records, leases and active snapshots lead to, by labels and by parents."""
    reached: set[object] = set()
    edge: list[object] = [image.target for image in space.images.values()]
    edge += [thing for lease in space.leases.values() for thing in lease]
    edge += [place for place, info in space.committed.items() if _ROOT in info.labels]
    edge += [(active.snapshotter, active.parent) for active in space.active.values()]
    while edge:
        thing = edge.pop()
        if thing not in reached:
            reached.add(thing)
            edge += _references(space, thing)
    space.content = {digest: labels for digest, labels in space.content.items() if digest in reached}
    space.bodies = {digest: body for digest, body in space.bodies.items() if digest in reached}
    space.committed = {place: info for place, info in space.committed.items() if place in reached}


def _references(space: _Namespace, thing: object) -> Iterable[object]:
    if isinstance(thing, tuple):
        info = space.committed.get((thing[0], thing[1]))
        return [(thing[0], info.parent)] if info and info.parent else []
    assert isinstance(thing, Digest)
    found: list[object] = []
    for key, value in space.content.get(thing, {}).items():
        if key.startswith("containerd.io/gc.ref.content."):
            found.append(Digest(value))
        if key.startswith("containerd.io/gc.ref.snapshot."):
            found.append((key.removeprefix("containerd.io/gc.ref.snapshot."), value))
    return found
