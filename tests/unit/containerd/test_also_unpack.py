"""Images for runtime handlers with a snapshotter of their own, on a containerd in memory that collects what it can."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection

import pytest

from imagecache.containerd.also_unpack import AlsoUnpacker, Tars
from imagecache.containerd.api import Attached, Beside, SnapshotKey
from imagecache.containerd.attach import AttachSettings, NodeAttacher
from imagecache.errors import BlobNotFound, ContainerdMisconfigured, StoreCorrupt
from imagecache.store.bundle_document import Bundle, ImageRecord, LayerRecord
from testkit.attachable import MemoryDocuments, bundle
from testkit.clock import FakeClock
from testkit.containerd import FakeSnapshotter, MemoryContainerd

ROOT, MARK = "containerd.io/gc.ref.snapshot.overlayfs", "imagecache.dev/unpacked.overlayfs"


class Node:
    """Proxy mode, and a runtime handler with overlayfs."""

    def __init__(self, setting: tuple[str, ...] = ("auto",), namespace: str = "k8s.io") -> None:
        self.containerd = MemoryContainerd("2.4.2")
        self.containerd.handlers = {"two": "overlayfs"}
        self.documents = MemoryDocuments()
        self.tars: Tars = self.documents
        self.ours = self.containerd.snapshotters["imagecache"] = FakeSnapshotter()
        self.namespace = namespace
        self.session = self.containerd.session(namespace)
        self.space = self.containerd.spaces[namespace]
        self.configure(*setting)

    def configure(self, *setting: str) -> None:
        settings = AttachSettings(namespace=self.namespace, also_unpack=setting)
        unpacker = AlsoUnpacker(self.tars, FakeClock())
        self.attacher = NodeAttacher(self.containerd, self.documents, FakeClock(), settings, unpacker=unpacker)

    def image(self, *layers: str, name: str = "nginx:1.25", private: bool = False) -> ImageRecord:
        made = self.documents.image(name, layers, private=private)
        self.ours.chains |= {layer.chain_id for layer in made.layers}
        return made

    async def attach(
        self, made: Bundle, also: Collection[str] = (), others: tuple[tuple[Bundle, Collection[str]], ...] = ()
    ) -> Attached:
        attached = await self.attacher.attach(made, also, Beside(others))
        self.containerd.collect()
        return attached

    def chains(self, snapshotter: str = "overlayfs") -> dict[str, str]:
        """Parents by name."""
        return {name: info.parent for (owner, name), info in self.space.committed.items() if owner == snapshotter}

    def labels(self, image: ImageRecord) -> dict[str, str]:
        return self.space.content[image.config.digest]


async def test_every_layer_is_unpacked_on_the_one_below_and_no_tar_is_left() -> None:
    node = Node()
    image = node.image("base", "app")
    attached = await node.attach(bundle(image))
    assert (attached.unpacked, attached.left_out) == (frozenset({"overlayfs"}), ())
    assert node.chains() == node.chains("imagecache")
    assert node.chains() == {image.layers[0].chain_id: "", image.layers[1].chain_id: image.layers[0].chain_id}
    assert not {layer.diff_id for layer in image.layers} & node.space.content.keys()
    assert (node.labels(image)[ROOT], node.labels(image)[MARK]) == (image.layers[1].chain_id, "true")
    assert (node.space.active, node.space.leases) == ({}, {})


async def test_an_empty_layer_needs_no_tar() -> None:
    """containerd fetches no empty blob, so none is put into its content store either."""
    node = Node()
    image = node.image("base", "", "app")
    del node.documents.tars[image.layers[1].diff_id]
    await node.attach(bundle(image))
    assert node.chains() == node.chains("imagecache")
    assert len(node.chains()) == 3
    assert (node.space.active, node.space.leases) == ({}, {})


async def test_detach_takes_it_back() -> None:
    node = Node()
    image = node.image("base", "app")
    await node.attach(bundle(image))
    await node.attacher.detach(bundle(image))
    assert (node.space.images, node.space.content, node.space.committed) == ({}, {}, {})


async def test_one_tar_serves_several_snapshotters() -> None:
    node = Node(("auto", "native"))
    node.containerd.snapshotters["native"] = FakeSnapshotter()
    image = node.image("base", "app")
    assert (await node.attach(bundle(image))).unpacked == {"native", "overlayfs"}
    assert node.chains("native") == node.chains("overlayfs") == node.chains("imagecache")


async def test_attaching_again_reads_no_tar() -> None:
    node = Node()
    image = node.image("base", "app")
    first = await node.attach(bundle(image))
    node.documents.tars.clear()
    assert await node.attach(bundle(image)) == first
    assert len(node.chains()) == 2


async def test_an_image_without_layers() -> None:
    node = Node()
    assert (await node.attach(bundle(node.image()))).unpacked == {"overlayfs"}
    assert node.chains() == {}


async def test_after_a_failure_the_next_attach_goes_on_where_it_was() -> None:
    node = Node()
    image = node.image("base", "app")
    app = image.layers[1].diff_id
    tar = node.documents.tars.pop(app)
    with pytest.raises(BlobNotFound):
        await node.attach(bundle(image))
    node.containerd.collect()
    assert (node.space.images, node.space.active) == ({}, {})
    assert set(node.chains()) == {image.layers[0].chain_id}
    node.documents.tars = {app: tar}
    await node.attach(bundle(image))
    assert len(node.chains()) == 2
    assert node.space.leases == {}


async def test_detach_gives_up_what_a_failed_attach_has_unpacked() -> None:
    node = Node()
    image = node.image("base", "app")
    del node.documents.tars[image.layers[1].diff_id]
    with pytest.raises(BlobNotFound):
        await node.attach(bundle(image))
    await node.attacher.detach(bundle(image))
    space = node.space
    assert (space.images, space.content, space.committed, space.active, space.leases) == ({}, {}, {}, {}, {})


async def test_a_layer_that_is_damaged_is_refused() -> None:
    node = Node()
    image = node.image("base", "app")
    node.documents.tars[image.layers[1].diff_id] = b"something else"
    with pytest.raises(ContainerdMisconfigured):
        await node.attach(bundle(image))
    assert node.space.images == {}


async def test_what_containerd_unpacked_must_be_the_layer() -> None:
    node = Node()
    image = node.image("base")
    node.containerd.misapplies = True
    with pytest.raises(StoreCorrupt, match="unpacked sha256"):
        await node.attach(bundle(image))
    assert node.space.active == {}


class Slow:
    """Tars; ``meanwhile`` is awaited when a layer's last piece was read."""

    def __init__(self, tars: Tars, meanwhile: Callable[[LayerRecord], Awaitable[object]]) -> None:
        self._tars = tars
        self._meanwhile = meanwhile

    async def open(self, layer: LayerRecord) -> AsyncGenerator[bytes]:
        async for piece in self._tars.open(layer):
            yield piece
        await self._meanwhile(layer)


async def test_an_attach_that_is_cancelled_in_the_middle_of_a_layer_leaves_those_below() -> None:
    node = Node()
    image = node.image("base", "app")
    reached, never = asyncio.Event(), asyncio.Event()

    async def stop_at_the_second(layer: LayerRecord) -> None:
        if layer is image.layers[1]:
            reached.set()
            await never.wait()

    node.tars = Slow(node.documents, stop_at_the_second)
    node.configure("auto")
    attach = asyncio.create_task(node.attach(bundle(image)))
    await reached.wait()
    assert len(node.chains()) == 1
    attach.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attach
    node.containerd.collect()
    assert len(node.chains()) == 1
    space = node.space
    assert (space.images, space.active) == ({}, {})
    await node.attacher.detach(bundle(image))
    assert (space.images, space.content, space.committed, space.active, space.leases) == ({}, {}, {}, {}, {})


async def test_a_pull_that_is_faster_has_unpacked_the_layer() -> None:
    node = Node()
    image = node.image("base", "app")

    async def pull(layer: LayerRecord) -> None:
        parent = "" if layer is image.layers[0] else image.layers[0].chain_id
        key = SnapshotKey("overlayfs", f"pull {layer.chain_id}", parent)
        await node.session.snapshots.prepare(key)
        await node.session.snapshots.commit(key, layer.chain_id)

    node.tars = Slow(node.documents, pull)
    node.configure("auto")
    assert (await node.attach(bundle(image))).unpacked == {"overlayfs"}
    assert len(node.chains()) == 2
    assert node.space.active == {}
    await node.attacher.detach(bundle(image))
    assert node.chains() == {}


async def test_off_leaves_handlers_out_and_says_so() -> None:
    node = Node(("off",))
    attached = await node.attach(bundle(node.image("base", "app")))
    assert (attached.unpacked, attached.left_out) == (frozenset(), ("two",))
    assert node.chains() == {}


async def test_off_takes_back_what_was_unpacked_before() -> None:
    node = Node()
    image = node.image("base", "app")
    await node.attach(bundle(image))
    node.configure("off")
    await node.attach(bundle(image))
    assert node.chains() == {}
    assert not {ROOT, MARK} & node.labels(image).keys()
    assert node.space.images


async def test_what_a_pull_has_unpacked_stays_the_pulls() -> None:
    node = Node()
    image = node.image("base", "app")
    await node.attach(bundle(image))
    del node.labels(image)[MARK]
    await node.attach(bundle(image))
    assert MARK not in node.labels(image)
    node.configure("off")
    await node.attach(bundle(image))
    assert node.labels(image)[ROOT] == image.layers[1].chain_id
    assert len(node.chains()) == 2


async def test_a_cache_may_ask_for_something_else() -> None:
    node = Node(("off",))
    image = node.image("base")
    assert (await node.attach(bundle(image), ["overlayfs"])).unpacked == {"overlayfs"}
    assert len(node.chains()) == 1


async def test_an_image_of_two_caches_is_unpacked_as_either_asks() -> None:
    node = Node()
    image = node.image("base")
    wants, refuses = bundle(image), bundle(image, number=1)
    await node.attach(wants, ["auto"])
    await node.attach(refuses, ["off"], ((wants, ["auto"]),))
    assert len(node.chains()) == 1
    await node.attach(refuses, ["off"])
    assert node.chains() == {}


async def test_a_private_image_is_there_for_the_pull_of_its_pod() -> None:
    """It has no record, and the pull fetches no layer that the default snapshotter has."""
    node = Node()
    secret = node.image("base", "secret", name="team/secret:1", private=True)
    await node.attach(bundle(secret))
    assert node.space.images == {}
    assert set(node.chains()) == {layer.chain_id for layer in secret.layers}
    await node.attacher.detach(bundle(secret))
    assert node.chains() == {}


async def test_a_private_image_of_another_bundle_stays() -> None:
    node = Node()
    secret = node.image("base", "secret", name="team/secret:1", private=True)
    await node.attach(bundle(secret))
    await node.attacher.detach(bundle(secret), [bundle(secret, number=1)])
    assert len(node.chains()) == 2


async def test_off_releases_private_images_too() -> None:
    node = Node()
    secret = node.image("base", "secret", name="team/secret:1", private=True)
    await node.attach(bundle(secret))
    node.configure("off")
    await node.attach(bundle(secret))
    assert node.chains() == {}


async def test_handlers_of_cri_do_not_matter_in_other_namespaces() -> None:
    node = Node(namespace="default")
    attached = await node.attach(bundle(node.image("base")))
    assert (attached.unpacked, attached.left_out) == (frozenset(), ())
    node.configure("overlayfs")
    assert (await node.attach(bundle(node.image("base")))).unpacked == {"overlayfs"}
    assert len(node.chains()) == 1


async def test_a_handler_that_is_configured_later_is_served_by_the_next_attach() -> None:
    node = Node()
    node.containerd.handlers = {}
    image = node.image("base")
    assert (await node.attach(bundle(image))).unpacked == frozenset()
    node.containerd.handlers = {"two": "overlayfs"}
    assert (await node.attach(bundle(image))).unpacked == {"overlayfs"}
    assert len(node.chains()) == 1


async def test_a_private_image_that_was_allowed_meanwhile_is_released() -> None:
    node = Node()
    secret = node.image("base", "secret", name="team/secret:1", private=True)
    await node.attach(bundle(secret))
    settings = AttachSettings(allow_private_names=frozenset({"k8s.io"}))
    unpacker = AlsoUnpacker(node.tars, FakeClock())
    allowed = NodeAttacher(node.containerd, node.documents, FakeClock(), settings, unpacker=unpacker)
    await allowed.attach(bundle(secret))
    await allowed.detach(bundle(secret))
    assert node.chains() == {}
