"""Attach and detach on a containerd in memory, whose collector takes whatever is not held by the right labels."""

from dataclasses import replace

import msgspec
import pytest

from imagecache.containerd.attach import AttachSettings, NodeAttacher
from imagecache.containerd.image_records import SERVED
from imagecache.containerd.reserved import ReservedNames
from imagecache.errors import BlobNotFound, ContainerdMisconfigured, ContainerdUnavailable, ImageNotListed
from imagecache.oci.descriptor import Descriptor, Platform
from imagecache.store.bundle_document import ImageRecord
from testkit.attachable import AMD64, MemoryDocuments, bundle
from testkit.clock import FakeClock
from testkit.containerd import FakeSnapshotter, MemoryContainerd

MANAGED = {"io.cri-containerd.image": "managed"}
PINNED = {"io.cri-containerd.pinned": "pinned"}
OURS = PINNED | SERVED


class Node:
    def __init__(self, *, native: bool = False, settings: AttachSettings | None = None, cri: bool = True) -> None:
        self.containerd = MemoryContainerd("2.4.2" if native else "1.6.20", cri=cri)
        self.documents = MemoryDocuments()
        self.ours = self.containerd.snapshotters["erofs" if native else "imagecache"] = FakeSnapshotter()
        self.attacher = NodeAttacher(self.containerd, self.documents, FakeClock(), settings)
        self.namespace = (settings or AttachSettings()).namespace

    def serve(self, *images: ImageRecord) -> None:
        for image in images:
            self.ours.chains |= {layer.chain_id for layer in image.layers}

    def serve_native(self, *images: ImageRecord) -> None:
        for image in images:
            self.ours.diff_ids |= {layer.diff_id for layer in image.layers}

    @property
    def images(self) -> set[str]:
        return set(self.containerd.spaces[self.namespace].images)

    @property
    def snapshots(self) -> set[str]:
        return {name for _, name in self.containerd.spaces[self.namespace].committed}

    @property
    def empty(self) -> bool:
        space = self.containerd.spaces[self.namespace]
        return not (space.images or space.content or space.committed or space.active or space.leases)


async def test_an_image_is_there_with_all_its_parts_and_stays() -> None:
    node = Node()
    image = node.documents.image("nginx:1.25", ["base", "app"], index=True)
    node.serve(image)
    result = await node.attacher.attach(bundle(image))

    node.containerd.collect()
    assert (
        set(result.images)
        == node.images
        == {
            "docker.io/library/nginx:1.25",
            f"docker.io/library/nginx@{image.target.digest}",
            image.config.digest,
        }
    )
    space = node.containerd.spaces["k8s.io"]
    assert set(space.content) == {image.target.digest, image.manifest.digest, image.config.digest}
    assert all(space.bodies[digest] == node.documents.read(digest) for digest in space.content)
    assert node.snapshots == {layer.chain_id for layer in image.layers}
    assert all(record.labels == MANAGED | OURS for record in space.images.values())
    assert space.leases == {}


async def test_an_index_in_an_index_is_there_whole_and_stays() -> None:
    node = Node()
    image = node.documents.image("nginx:1.25", ["base", "app"], index=3)
    node.serve(image)
    await node.attacher.attach(bundle(image))

    node.containerd.collect()
    space = node.containerd.spaces["k8s.io"]
    assert len(image.indexes) == 3
    assert set(space.content) == {document.digest for document in image.documents}
    assert {str(record.target) for record in space.images.values()} == {str(image.indexes[0].digest)}
    await node.attacher.detach(bundle(image))
    node.containerd.collect()
    assert node.empty


async def test_attaching_again_changes_nothing() -> None:
    node = Node()
    image = node.documents.image("nginx:1.25", ["base", "app"])
    node.serve(image)
    first = await node.attacher.attach(bundle(image))
    before = dict(node.containerd.spaces["k8s.io"].images)
    assert await node.attacher.attach(bundle(image)) == first
    assert node.containerd.spaces["k8s.io"].images == before


async def test_a_tag_that_moved_is_moved() -> None:
    node = Node()
    old, new = (node.documents.image("nginx:1.25", [layer]) for layer in ("old", "new"))
    node.serve(old, new)
    await node.attacher.attach(bundle(old))
    await node.attacher.attach(bundle(new))
    assert node.containerd.spaces["k8s.io"].images["docker.io/library/nginx:1.25"].target == new.manifest.digest


async def test_without_cri_the_records_are_marked_by_us() -> None:
    node = Node(cri=False, settings=AttachSettings(visible=0))
    image = node.documents.image("nginx:1.25", ["base"])
    node.serve(image)
    await node.attacher.attach(bundle(image))
    record = node.containerd.spaces["k8s.io"].images[image.config.digest]
    assert record.labels == MANAGED | OURS


async def test_an_image_that_the_node_had_stays_as_collectable_as_it_was() -> None:
    node = Node()
    image = node.documents.image("nginx:1.25", ["base"])
    node.serve(image)
    pulled = node.containerd.session("k8s.io").images
    for name in ("docker.io/library/nginx:1.25", image.config.digest):
        await pulled.put(name, image.target, MANAGED)
    await node.attacher.attach(bundle(image))
    records = node.containerd.spaces["k8s.io"].images
    assert len(records) == 3
    assert not any(PINNED.items() <= record.labels.items() for record in records.values())
    ours = {name for name, record in records.items() if record.labels == MANAGED | SERVED}
    assert ours == {f"docker.io/library/nginx@{image.target.digest}"}


async def test_another_name_of_an_attached_image_is_pinned_too() -> None:
    node = Node()
    image, other = (node.documents.image(name, ["base"]) for name in ("nginx:1.25", "nginx:stable"))
    node.serve(image)
    await node.attacher.attach(bundle(image))
    await node.attacher.attach(bundle(other, number=1))
    assert node.containerd.spaces["k8s.io"].images["docker.io/library/nginx:stable"].labels == MANAGED | OURS


async def test_other_namespaces_get_the_two_names_only() -> None:
    node = Node(settings=AttachSettings(namespace="default"))
    image = node.documents.image("nginx:1.25", ["base"], private=True)
    node.serve(image)
    result = await node.attacher.attach(bundle(image))
    assert node.images == {"docker.io/library/nginx:1.25", f"docker.io/library/nginx@{image.manifest.digest}"}
    assert all(record.labels == SERVED for record in node.containerd.spaces["default"].images.values())
    assert result.withheld == ()


async def test_a_private_image_is_withheld_from_cri() -> None:
    node = Node()
    secret = node.documents.image("team/secret:1", ["base", "secret"], private=True)
    public = node.documents.image("nginx:1.25", ["base"])
    node.serve(secret, public)
    result = await node.attacher.attach(bundle(secret, public))
    assert result.withheld == ("team/secret:1",)
    assert not any("secret" in name for name in node.images)
    assert secret.config.digest not in node.containerd.spaces["k8s.io"].content


async def test_an_unverified_image_is_withheld_from_cri() -> None:
    """Its name would mean on every node what somebody on the way to its registry says."""
    for allowed in (frozenset[str](), frozenset({"k8s.io"})):
        node = Node(settings=AttachSettings(allow_private_names=allowed))
        poisoned = msgspec.structs.replace(node.documents.image("registry.k8s.io/pause:3.9", ["base"]), verified=False)
        public = node.documents.image("nginx:1.25", ["base"])
        node.serve(poisoned, public)
        result = await node.attacher.attach(bundle(poisoned, public))
        assert (result.unverified, result.withheld) == (("registry.k8s.io/pause:3.9",), ())
        assert not any("pause" in name for name in node.images)
        assert "docker.io/library/nginx:1.25" in node.images


async def test_a_reserved_name_is_withheld_from_cri() -> None:
    """Verified and public, and all the same nobody's to say who may create ImageCaches: it is every pod's sandbox."""
    node = Node(settings=AttachSettings(reserved=ReservedNames.parse(["registry.k8s.io/"])))
    pause = node.documents.image("registry.k8s.io/pause:3.9", ["base"])
    nginx = node.documents.image("nginx:1.25", ["base"])
    node.serve(pause, nginx)

    result = await node.attacher.attach(bundle(pause, nginx))

    assert (result.reserved, result.withheld, result.unverified) == (("registry.k8s.io/pause:3.9",), (), ())
    assert not any("pause" in name for name in (*node.images, *result.images))
    assert "docker.io/library/nginx:1.25" in node.images


async def test_a_reserved_name_that_the_node_has_stays() -> None:
    """kubelet has pulled it; the end of a cache that has it too is no reason to take it away."""
    node = Node()
    pause = node.documents.image("registry.k8s.io/pause:3.9", ["base"])
    node.serve(pause)
    settings = AttachSettings(reserved=ReservedNames.parse(["registry.k8s.io/pause"]))
    attacher = NodeAttacher(node.containerd, node.documents, FakeClock(), settings)
    names = (await node.attacher.attach(bundle(pause))).images

    assert set(await attacher.detach(bundle(pause))) == set(names), "ours, from before it was reserved"

    await node.attacher.attach(bundle(pause))
    records = node.containerd.spaces["k8s.io"].images
    for name in names:  # as a pull leaves them
        records[name] = replace(records[name], labels=MANAGED)

    assert await attacher.detach(bundle(pause)) == ()
    assert node.images == set(names)


async def test_names_are_reserved_for_cri_alone() -> None:
    node = Node(settings=AttachSettings(namespace="default", reserved=ReservedNames.parse(["registry.k8s.io/"])))
    pause = node.documents.image("registry.k8s.io/pause:3.9", ["base"])
    node.serve(pause)

    assert (await node.attacher.attach(bundle(pause))).reserved == ()
    assert "registry.k8s.io/pause:3.9" in node.images


async def test_an_administrator_may_allow_private_names() -> None:
    node = Node(settings=AttachSettings(allow_private_names=frozenset({"k8s.io"})))
    secret = node.documents.image("team/secret:1", ["base"], private=True)
    node.serve(secret)
    assert (await node.attacher.attach(bundle(secret))).withheld == ()
    assert "docker.io/team/secret:1" in node.images


async def test_a_layer_that_is_not_served_leaves_nothing_behind() -> None:
    node = Node()
    image = node.documents.image("nginx:1.25", ["base", "app"])
    node.ours.chains = {image.layers[0].chain_id}
    with pytest.raises(BlobNotFound, match=f"does not have layer image {image.layers[1].name}") as caught:
        await node.attacher.attach(bundle(image))
    assert caught.value.image == "nginx:1.25"
    assert node.empty


async def test_a_document_that_the_store_lost_leaves_nothing_behind() -> None:
    node = Node()
    image = node.documents.image("nginx:1.25", ["base"])
    node.serve(image)
    del node.documents.bodies[image.config.digest]
    with pytest.raises(BlobNotFound):
        await node.attacher.attach(bundle(image))
    assert node.empty


async def test_no_containerd() -> None:
    node = Node()
    node.containerd.running = False
    with pytest.raises(ContainerdUnavailable):
        await node.attacher.attach(bundle())


async def test_an_image_without_layers() -> None:
    node = Node()
    await node.attacher.attach(bundle(node.documents.image("scratch:1", [])))
    assert "docker.io/library/scratch:1" in node.images


async def test_native_mode_commits_what_containerd_finds() -> None:
    node = Node(native=True)
    image = node.documents.image("nginx:1.25", ["base", "app"])
    node.serve_native(image)
    await node.attacher.attach(bundle(image))
    node.containerd.collect()
    assert node.snapshots == {layer.chain_id for layer in image.layers}
    assert node.containerd.spaces["k8s.io"].active == {}


async def test_native_mode_never_offers_a_layer_that_depends_on_those_below() -> None:
    node = Node(native=True)
    bound = node.documents.image("bound:1", ["base", "app"], chains=["app"])
    free = node.documents.image("free:1", ["base"])
    node.serve_native(bound, free)
    result = await node.attacher.attach(bundle(bound, free))
    assert result.missed == ("bound:1",)
    assert not any("bound" in name for name in node.images)
    assert node.snapshots == {bound.layers[0].chain_id}


async def test_native_mode_uses_such_a_layer_when_a_pull_has_unpacked_it() -> None:
    node = Node(native=True)
    image = node.documents.image("bound:1", ["base", "app"], chains=["app"])
    node.serve_native(image)
    free = node.documents.image("free:1", ["base", "app"])
    await node.attacher.attach(bundle(free))
    assert (await node.attacher.attach(bundle(image))).missed == ()


async def test_native_mode_that_reads_another_directory() -> None:
    node = Node(native=True)
    image = node.documents.image("nginx:1.25", ["base"])
    with pytest.raises(ContainerdMisconfigured, match="did not find layer image") as caught:
        await node.attacher.attach(bundle(image))
    assert "layer_content_caches" in caught.value.hint
    assert node.empty


async def test_detach_leaves_nothing() -> None:
    node = Node()
    image = node.documents.image("nginx:1.25", ["base", "app"], index=True)
    node.serve(image)
    attached = await node.attacher.attach(bundle(image))
    assert set(await node.attacher.detach(bundle(image))) == set(attached.images)
    assert node.empty
    assert await node.attacher.detach(bundle(image)) == ()


async def test_detach_keeps_what_another_snapshot_needs() -> None:
    node = Node()
    shared, mine = node.documents.image("nginx:1.25", ["base"]), node.documents.image("mine:1", ["base", "mine"])
    node.serve(shared, mine)
    await node.attacher.attach(bundle(shared, mine))
    removed = await node.attacher.detach(bundle(shared, mine), keep=[bundle(shared, number=1)])
    assert "docker.io/library/nginx:1.25" not in removed
    assert node.images == {
        "docker.io/library/nginx:1.25",
        f"docker.io/library/nginx@{shared.manifest.digest}",
        shared.config.digest,
    }
    assert node.snapshots == {shared.layers[0].chain_id}


async def test_detach_keeps_a_tag_that_now_points_elsewhere() -> None:
    node = Node()
    old, new = (node.documents.image("nginx:1.25", [layer]) for layer in ("old", "new"))
    node.serve(old, new)
    await node.attacher.attach(bundle(old))
    await node.attacher.attach(bundle(new))
    removed = await node.attacher.detach(bundle(old))
    assert set(removed) == {f"docker.io/library/nginx@{old.manifest.digest}", old.config.digest}
    assert "docker.io/library/nginx:1.25" in node.images


async def test_detach_keeps_the_id_while_somebody_elses_name_needs_it() -> None:
    node = Node()
    image = node.documents.image("nginx:1.25", ["base"])
    node.serve(image)
    await node.attacher.attach(bundle(image))
    target: Descriptor = image.target
    await node.containerd.session("k8s.io").images.put("example.com/copy:1", target, {})
    removed = await node.attacher.detach(bundle(image))
    assert image.config.digest not in removed
    assert node.images == {"example.com/copy:1", image.config.digest}


async def test_two_snapshots_with_the_same_image_under_two_names() -> None:
    node = Node()
    image = node.documents.image("nginx:1.25", ["base"])
    other = node.documents.image("nginx:stable", ["base"])
    node.serve(image)
    await node.attacher.attach(bundle(image))
    await node.attacher.attach(bundle(other, number=1))
    await node.attacher.detach(bundle(image), keep=[bundle(other, number=1)])
    assert "docker.io/library/nginx:stable" in node.images
    assert "docker.io/library/nginx:1.25" not in node.images
    assert image.config.digest in node.images


# what CRI answers

ARM64 = Platform(os="linux", architecture="arm64")
AT_ONCE = AttachSettings(visible=0)


async def test_an_image_that_cri_does_not_have_is_not_attached() -> None:
    """CRI resolves a record by the platform of its node, whatever was written."""
    node = Node(settings=AT_ONCE)
    image = node.documents.image("nginx:1.25", ["base"], index=True, platform=ARM64)
    node.serve(image)

    with pytest.raises(ImageNotListed, match="CRI does not have it") as caught:
        await node.attacher.attach(bundle(image))

    assert caught.value.image == "nginx:1.25"
    assert "linux/arm64" in str(caught.value)


async def test_another_image_under_the_name_is_not_ours() -> None:
    node = Node(settings=AT_ONCE)
    ours, other = (node.documents.image("nginx:1.25", [layer], index=True) for layer in ("ours", "other"))
    node.serve(ours, other)
    await node.attacher.attach(bundle(other))
    node.containerd.answers.append({"docker.io/library/nginx:1.25": other.config.digest})

    with pytest.raises(ImageNotListed, match=f"CRI has the image {other.config.digest} under this name"):
        await node.attacher.attach(bundle(ours, number=1))


async def test_cri_is_asked_until_it_has_heard() -> None:
    node = Node()
    image = node.documents.image("nginx:1.25", ["base"])
    node.serve(image)
    node.containerd.answers.extend([{}, {}])

    assert (await node.attacher.attach(bundle(image))).images
    assert not node.containerd.answers


async def test_other_namespaces_are_none_of_cris() -> None:
    node = Node(settings=AttachSettings(namespace="default", visible=0))
    image = node.documents.image("nginx:1.25", ["base"], index=True, platform=ARM64)
    node.serve(image)
    assert (await node.attacher.attach(bundle(image))).images


async def test_two_architectures_of_one_image_on_a_node_of_one() -> None:
    """Each node has its own of a bundle, so neither is in the other's way."""
    node = Node(settings=AT_ONCE)
    own, other = (
        node.documents.image("nginx:1.25", ["base", name], index=True, platform=platform)
        for name, platform in (("own", AMD64), ("other", ARM64))
    )
    node.serve(own, other)
    mixed = bundle(other, own)

    await node.attacher.attach(mixed.on(AMD64))

    answers = await node.containerd.cri_images(["docker.io/library/nginx:1.25"])
    assert answers == {"docker.io/library/nginx:1.25": own.config.digest}
    assert other.config.digest not in node.images
    await node.attacher.detach(mixed.on(AMD64))
    assert node.empty
