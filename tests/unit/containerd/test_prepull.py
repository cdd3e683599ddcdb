"""Prepull mode: what is unpacked or pulled, what is left out, what is removed."""

from __future__ import annotations

import msgspec
import pytest

from imagecache.containerd.also_unpack import AlsoUnpacker
from imagecache.containerd.api import Beside, UnpackedChain
from imagecache.containerd.attach import AttachSettings, NodeAttacher
from imagecache.containerd.handlers import Handlers
from imagecache.containerd.prepull import Prepuller
from imagecache.containerd.reserved import ReservedNames
from imagecache.errors import BlobNotFound, ContainerdUnavailable, ImageNotListed, ImageWithheld, NoSpace, PullFailed
from imagecache.settings.choices import Mode
from testkit.agent_dependencies import FakeRuntime
from testkit.attachable import MemoryDocuments, bundle
from testkit.clock import FakeClock
from testkit.containerd import FakeSnapshotter, MemoryContainerd

_DOCUMENTS = MemoryDocuments()
APP, TOOL = _DOCUMENTS.image("app:1", ["base", "app"]), _DOCUMENTS.image("tool", ["base", "tool"])
ALIAS = _DOCUMENTS.image("quay.io/mirror/app:1", ["base", "app"])
PRIVATE = _DOCUMENTS.image("corp/secret:1", ["base", "secret"], private=True)
REGISTRY = {
    "docker.io/library/app:1": "sha256:app",
    "quay.io/mirror/app:1": "sha256:app",
    "docker.io/library/tool:latest": "sha256:tool",
    "docker.io/corp/secret:1": "sha256:secret",
}


@pytest.fixture
def runtime() -> FakeRuntime:
    return FakeRuntime(dict(REGISTRY))


async def test_what_is_missing_is_pulled_once(runtime: FakeRuntime) -> None:
    runtime.images["docker.io/library/app:1"] = "sha256:app"
    names = (await Prepuller(runtime).attach(bundle(APP, TOOL, TOOL))).images
    assert list(names) == ["docker.io/library/app:1", "docker.io/library/tool:latest"]
    assert runtime.pulls == ["docker.io/library/tool:latest"]
    assert await Prepuller(runtime).missing(names) == frozenset()
    await runtime.remove("docker.io/library/app:1")
    assert await Prepuller(runtime).missing(names) == {"docker.io/library/app:1"}


async def test_what_the_runtime_does_not_have_after_a_pull_is_said(runtime: FakeRuntime) -> None:
    runtime.lost = frozenset({"docker.io/library/app:1"})
    with pytest.raises(ImageNotListed, match=r"has pulled docker\.io/library/app:1 and does not have it"):
        await Prepuller(runtime).attach(bundle(APP))


async def test_a_private_image_is_left_out_and_said_so(runtime: FakeRuntime) -> None:
    with pytest.raises(ImageWithheld, match=r"^corp/secret:1: private") as caught:
        await Prepuller(runtime).attach(bundle(PRIVATE, APP))
    assert "allow_private_names" in caught.value.hint
    assert runtime.pulls == ["docker.io/library/app:1"]


async def test_a_private_image_is_pulled_where_that_is_allowed(runtime: FakeRuntime) -> None:
    with pytest.raises(ImageWithheld):
        await Prepuller(runtime, ["moby"]).attach(bundle(PRIVATE))
    attached = await Prepuller(runtime, ["k8s.io"]).attach(bundle(PRIVATE))
    assert list(attached.images) == ["docker.io/corp/secret:1"]


async def test_an_unverified_image_is_left_out_and_said_so(runtime: FakeRuntime) -> None:
    unverified = msgspec.structs.replace(APP, verified=False)
    for allowed in ([], ["k8s.io"]):
        with pytest.raises(ImageWithheld, match=r"^app:1: from a registry that nobody has verified") as caught:
            await Prepuller(runtime, allowed).attach(bundle(unverified, TOOL))
        assert "insecure_registries" in caught.value.hint
    assert runtime.pulls == ["docker.io/library/tool:latest"]


async def test_a_reserved_name_is_left_out_and_said_so(runtime: FakeRuntime) -> None:
    prepuller = Prepuller(runtime, reserved=ReservedNames.parse(["docker.io/library/app"]))

    with pytest.raises(ImageWithheld, match=r"^app:1: a name that no cache may record") as caught:
        await prepuller.attach(bundle(APP, TOOL))

    assert "reserved_names" in caught.value.hint
    assert runtime.pulls == ["docker.io/library/tool:latest"]


async def test_a_reserved_name_that_the_node_has_is_not_removed(runtime: FakeRuntime) -> None:
    runtime.images["docker.io/library/app:1"] = "sha256:app"
    prepuller = Prepuller(runtime, reserved=ReservedNames.parse(["docker.io/library/app"]))

    await prepuller.detach(bundle(APP), [])

    assert list(runtime.images) == ["docker.io/library/app:1"]


async def test_a_pull_that_fails(runtime: FakeRuntime) -> None:
    runtime.registry.clear()
    with pytest.raises(PullFailed):
        await Prepuller(runtime).attach(bundle(APP))


async def test_only_what_nobody_needs_is_removed(runtime: FakeRuntime) -> None:
    prepuller = Prepuller(runtime)
    for image in (APP, TOOL):
        await prepuller.attach(bundle(image))

    await prepuller.detach(bundle(APP, TOOL), [bundle(TOOL)])
    assert list(runtime.images) == ["docker.io/library/tool:latest"]

    runtime.used.add("sha256:tool")
    await prepuller.detach(bundle(APP, TOOL), [])
    assert list(runtime.images) == ["docker.io/library/tool:latest"]

    runtime.used = {"docker.io/library/tool:latest"}  # some runtimes name images instead
    await prepuller.detach(bundle(TOOL), [])
    assert list(runtime.images) == ["docker.io/library/tool:latest"]

    runtime.used.clear()
    await prepuller.detach(bundle(TOOL), [])
    assert not runtime.images


async def test_one_image_under_two_names(runtime: FakeRuntime) -> None:
    """Runtimes remove an image with all its names, so it stays as long as one of them is needed."""
    prepuller = Prepuller(runtime)
    await prepuller.attach(bundle(APP, ALIAS))
    await prepuller.detach(bundle(APP), [bundle(ALIAS)])
    assert runtime.images["quay.io/mirror/app:1"] == "sha256:app"


async def test_a_runtime_that_is_away(runtime: FakeRuntime) -> None:
    runtime.running = False
    with pytest.raises(ContainerdUnavailable):
        await Prepuller(runtime).attach(bundle(APP))


# a runtime that is containerd: the layers come from the store


@pytest.fixture
def containerd() -> MemoryContainerd:
    made = MemoryContainerd()
    made.snapshotters["devmapper"] = FakeSnapshotter()
    return made


@pytest.fixture
def local(runtime: FakeRuntime, containerd: MemoryContainerd) -> Prepuller:
    return prepuller(runtime, containerd, AlsoUnpacker(_DOCUMENTS, FakeClock()))


def prepuller(runtime: FakeRuntime, containerd: MemoryContainerd, unpacker: AlsoUnpacker) -> Prepuller:
    settings = AttachSettings(mode=Mode.PREPULL)
    attacher = NodeAttacher(containerd, _DOCUMENTS, FakeClock(), settings, unpacker=unpacker)
    return Prepuller(runtime, (), attacher)


def chains(containerd: MemoryContainerd, snapshotter: str) -> set[str]:
    containerd.collect()
    return {name for owner, name in containerd.spaces["k8s.io"].committed if owner == snapshotter}


async def test_containerd_unpacks_what_the_store_has(
    runtime: FakeRuntime, containerd: MemoryContainerd, local: Prepuller
) -> None:
    attached = await local.attach(bundle(APP, TOOL))
    assert runtime.pulls == []
    assert list(attached.images) == ["docker.io/library/app:1", "docker.io/library/tool:latest"]
    records = containerd.spaces["k8s.io"].images
    assert {*attached.images, str(APP.config.digest), str(TOOL.config.digest)} <= records.keys()
    assert chains(containerd, "overlayfs") == {layer.chain_id for image in (APP, TOOL) for layer in image.layers}
    assert chains(containerd, "devmapper") == set()
    assert attached.unpacked == frozenset()
    # their disk is kubelet's to free
    assert not any("io.cri-containerd.pinned" in record.labels for record in records.values())


async def test_other_runtime_handlers_get_them_too(containerd: MemoryContainerd, local: Prepuller) -> None:
    containerd.handlers = {"kata": "devmapper", "same": "overlayfs"}
    attached = await local.attach(bundle(APP))
    assert attached.unpacked == {"devmapper"}
    assert attached.handlers == await local.handlers()
    assert chains(containerd, "devmapper") == chains(containerd, "overlayfs") != set()
    top = UnpackedChain("devmapper", APP.layers[-1].chain_id)
    assert await local.lost({top}) == frozenset()
    await containerd.session("k8s.io").snapshots.remove("devmapper", top.chain_id)
    assert await local.lost({top}) == {top}


async def test_what_a_failed_attach_has_unpacked_stays_until_detach(
    runtime: FakeRuntime, containerd: MemoryContainerd
) -> None:
    base = APP.layers[0].diff_id
    lacking = MemoryDocuments(_DOCUMENTS.bodies, {base: _DOCUMENTS.tars[base]})
    local = prepuller(runtime, containerd, AlsoUnpacker(lacking, FakeClock()))
    with pytest.raises(BlobNotFound):
        await local.attach(bundle(APP))
    assert chains(containerd, "overlayfs") == {layer.chain_id for layer in APP.layers[:-1]} != set()
    await local.detach(bundle(APP), [])
    assert chains(containerd, "overlayfs") == set()


@pytest.mark.parametrize("short", [0, 1])
async def test_an_image_for_which_the_disk_has_no_room_is_not_begun(
    runtime: FakeRuntime, containerd: MemoryContainerd, short: int
) -> None:
    """It needs what it unpacks, and the largest of its tars a second time."""
    sizes = [layer.tar_size for layer in APP.layers]
    room = sum(sizes) + max(sizes) - short

    async def spare() -> int:
        return room

    local = prepuller(runtime, containerd, AlsoUnpacker(_DOCUMENTS, FakeClock(), spare))
    if not short:
        await local.attach(bundle(APP))
        room = 0
        await local.attach(bundle(APP))  # there is nothing to unpack
        return
    with pytest.raises(NoSpace, match="app:1"):
        await local.attach(bundle(APP))
    assert chains(containerd, "overlayfs") == set()


async def test_no_layer_of_a_private_image_is_unpacked(
    runtime: FakeRuntime, containerd: MemoryContainerd, local: Prepuller
) -> None:
    with pytest.raises(ImageWithheld, match=r"^corp/secret:1: private"):
        await local.attach(bundle(PRIVATE, APP))
    assert chains(containerd, "overlayfs") == {layer.chain_id for layer in APP.layers}
    assert runtime.pulls == []


async def test_another_runtime_pulls(runtime: FakeRuntime, containerd: MemoryContainerd, local: Prepuller) -> None:
    containerd.other = True
    assert list((await local.attach(bundle(APP))).images) == ["docker.io/library/app:1"]
    assert runtime.pulls == ["docker.io/library/app:1"]
    assert await local.handlers() == Handlers()
    assert await local.lost(()) == frozenset()


async def test_a_containerd_that_is_away_is_not_another_runtime(
    runtime: FakeRuntime, containerd: MemoryContainerd, local: Prepuller
) -> None:
    containerd.running = False
    with pytest.raises(ContainerdUnavailable):
        await local.attach(bundle(APP))
    assert runtime.pulls == []


async def test_what_the_runtime_had_before_or_has_pinned_stays(runtime: FakeRuntime) -> None:
    runtime.images["docker.io/library/app:1"] = "sha256:app"
    prepuller = Prepuller(runtime)
    attached = await prepuller.attach(bundle(APP, TOOL))
    assert attached.had == ("docker.io/library/app:1",)
    runtime.pinned.add("sha256:tool")

    await prepuller.detach(bundle(APP, TOOL), [], attached.had)
    assert runtime.images.keys() == {"docker.io/library/app:1", "docker.io/library/tool:latest"}

    runtime.pinned.clear()
    again = await prepuller.attach(bundle(APP, TOOL), beside=Beside(made=("docker.io/library/tool:latest",)))
    assert again.had == attached.had
    await prepuller.detach(bundle(APP, TOOL), [], again.had)
    assert runtime.images.keys() == {"docker.io/library/app:1"}
