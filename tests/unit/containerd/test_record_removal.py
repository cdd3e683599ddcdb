"""What a node has after a cache is gone is what it had before."""

from __future__ import annotations

from imagecache.containerd import image_records
from imagecache.containerd.api import Beside
from testkit.attachable import bundle
from tests.unit.containerd.test_attach import MANAGED, PINNED, Node

NAME = "docker.io/library/nginx:1.25"


async def test_an_image_that_the_node_had_before_stays() -> None:
    node = Node()
    image = node.documents.image("nginx:1.25", ["base"])
    node.serve(image)
    images = node.containerd.session("k8s.io").images
    for name in (NAME, image_records.image_id(image)):
        await images.put(name, image.target, MANAGED)
    before = dict(node.containerd.spaces["k8s.io"].images)

    attached = await node.attacher.attach(bundle(image))
    assert set(attached.had) == before.keys()
    assert await node.attacher.detach(bundle(image), had=attached.had) == (image_records.by_digest(image),)

    assert node.containerd.spaces["k8s.io"].images == before


async def test_an_image_that_was_pulled_since_goes() -> None:
    """A pull replaces the labels of the name that it is asked for; what holds its layers would never be free."""
    node = Node()
    image = node.documents.image("nginx:1.25", ["base"])
    node.serve(image)
    first = await node.attacher.attach(bundle(image))
    images = node.containerd.session("k8s.io").images
    await images.delete(NAME, image.target.digest)
    await images.put(NAME, image.target, MANAGED)

    again = await node.attacher.attach(bundle(image), beside=Beside(made=first.images))
    assert again.had == first.had == ()
    await node.attacher.detach(bundle(image), had=again.had)

    assert node.images == set()


async def test_a_name_of_the_nodes_own_keeps_the_image_and_nothing_is_pinned() -> None:
    node = Node()
    image = node.documents.image("nginx:1.25", ["base"])
    node.serve(image)
    await node.attacher.attach(bundle(image))
    await node.containerd.session("k8s.io").images.put("example.com/copy:1", image.target, MANAGED)

    await node.attacher.detach(bundle(image))

    records = node.containerd.spaces["k8s.io"].images
    assert records.keys() == {"example.com/copy:1", image_records.image_id(image)}
    assert all(record.labels == MANAGED for record in records.values()), "kubelet can collect it"


async def test_a_name_that_the_node_had_for_another_image_means_that_again() -> None:
    node = Node()
    old, new = (node.documents.image("nginx:1.25", [layer]) for layer in ("old", "new"))
    node.serve(new)
    images = node.containerd.session("k8s.io").images
    for name in (NAME, image_records.image_id(old)):
        await images.put(name, old.target, MANAGED)
    before = dict(node.containerd.spaces["k8s.io"].images)

    attached = await node.attacher.attach(bundle(new))
    assert attached.had == (NAME,)
    assert node.containerd.spaces["k8s.io"].images[NAME].target == new.target.digest
    await node.attacher.attach(bundle(new))
    await node.attacher.detach(bundle(new), had=attached.had)

    assert node.containerd.spaces["k8s.io"].images == before


async def test_a_name_whose_earlier_image_is_gone_goes() -> None:
    node = Node()
    old, new = (node.documents.image("nginx:1.25", [layer]) for layer in ("old", "new"))
    node.serve(new)
    await node.containerd.session("k8s.io").images.put(NAME, old.target, MANAGED)

    attached = await node.attacher.attach(bundle(new))
    await node.attacher.detach(bundle(new), had=attached.had)

    assert node.images == set()


async def test_what_the_node_has_pinned_is_never_touched() -> None:
    node = Node()
    own, other = (node.documents.image("nginx:1.25", [layer]) for layer in ("own", "other"))
    node.serve(own, other)
    images = node.containerd.session("k8s.io").images
    for name in (NAME, image_records.image_id(own)):
        await images.put(name, own.target, MANAGED | PINNED)
    before = dict(node.containerd.spaces["k8s.io"].images)

    attached = await node.attacher.attach(bundle(other))
    assert attached.pinned == (NAME,)
    assert NAME not in attached.images
    assert node.containerd.spaces["k8s.io"].images[NAME] == before[NAME]
    await node.attacher.detach(bundle(other))

    assert node.containerd.spaces["k8s.io"].images == before


async def test_a_name_that_another_cache_owns_stays_and_the_image_is_there_by_digest() -> None:
    node = Node()
    first, second = (node.documents.image("nginx:1.25", [layer]) for layer in ("first", "second"))
    node.serve(first, second)
    await node.attacher.attach(bundle(first))

    attached = await node.attacher.attach(
        bundle(second, number=1), beside=Beside(taken={NAME: "a", "docker.io/library/x:1": "a"})
    )

    assert attached.taken == {NAME: "a"}
    assert attached.images.keys() == {image_records.by_digest(second), image_records.image_id(second)}
    records = node.containerd.spaces["k8s.io"].images
    assert records[NAME].target == first.target.digest
    assert records[image_records.by_digest(second)].target == second.target.digest


async def test_the_next_owner_has_the_name_at_once() -> None:
    node = Node()
    first, second = (node.documents.image("nginx:1.25", [layer]) for layer in ("first", "second"))
    node.serve(first, second)
    await node.attacher.attach(bundle(first))
    await node.attacher.attach(bundle(second, number=1), beside=Beside(taken={NAME: "a"}))

    removed = await node.attacher.detach(bundle(first), keep=[bundle(second, number=1)])

    assert set(removed) == {image_records.by_digest(first), image_records.image_id(first)}
    assert node.containerd.spaces["k8s.io"].images[NAME].target == second.target.digest
    await node.attacher.detach(bundle(second, number=1))
    assert node.images == set()


async def test_an_heir_that_is_not_there_gets_no_name() -> None:
    """A record whose image is not there would tell kubelet that it need not pull."""
    node = Node()
    first, second = (node.documents.image("nginx:1.25", [layer]) for layer in ("first", "second"))
    node.serve(first)
    await node.attacher.attach(bundle(first))

    await node.attacher.detach(bundle(first), keep=[bundle(second, number=1)])

    assert node.images == set()
