"""What CRI, containerd and hooks do with a container's root, on imagecache and on overlayfs: real containerds.

``docs/field-log.md`` says which reports these come from, and what else was tried.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from imagecache._proto.cri import runtime_pb2 as pb
from testkit.images import busybox_image, tar_of, thin_layers
from testkit.peers.cri import Cri
from testkit.peers.registry import Registry
from tests.peers.sides import FEW, LOOK, MANY, SLEEP, Running, Side, Sides, depths, listed

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(300)]
READ_ONLY = pb.LinuxContainerSecurityContext(readonly_rootfs=True)
MAY_MOUNT = pb.LinuxContainerSecurityContext(capabilities=pb.Capability(add_capabilities=["SYS_ADMIN"]))
MB = 1 << 20


# another container of the pod looks into it


@depths
async def test_a_debugger_reads_and_writes_the_root_of_its_target(both: Sides, layers: int) -> None:
    """``kubectl debug --target``, as CRI gets it: the pid namespace of the target, whose root is /proc/1/root."""
    image = both.image("plain", layers)

    async def ask(side: Side) -> list[str]:
        async with Cri(side.containerd.address) as cri:
            pod = await cri.run_pod("debugged")
            try:
                target = await cri.create_container(pod, image, SLEEP)
                await cri.start(target)
                shared = pb.NamespaceOption(pid=pb.TARGET, target_id=target)
                security = pb.LinuxContainerSecurityContext(namespace_options=shared)
                made = await cri.create_container(pod, image, SLEEP, name="debugger", security=security)
                await cri.start(made)
                debugger = Running(cri, made)
                seen = await debugger.sh("cd /proc/1/root && find srv -exec stat -c '%n %F %u %g %a %h' {} \\;")
                await debugger.sh("echo debugged >/proc/1/root/srv/new && rm /proc/1/root/srv/removed")
                return [*listed(seen), *listed(await Running(cri, target).sh("cat /srv/new; ls /srv"))]
            finally:
                await cri.remove_pod(pod)

    seen = await both.same(ask)
    assert "debugged" in seen
    assert "removed" not in seen


# users and volumes that the image declares


@depths
async def test_users_are_looked_up_in_the_image(both: Sides, layers: int) -> None:
    """containerd mounts the root for a moment and reads its /etc/passwd and /etc/group."""

    async def ask(side: Side) -> str:
        async with side.running(both.image("declared", layers)) as inside:
            return await inside.sh("id")

    seen = await both.same(ask)
    assert seen.startswith("uid=1234(app) gid=1234(app)")
    assert ("4321(extra)" in seen) == (both.version == "2.4"), "1.6 adds no groups of a user that the image names"


@depths
async def test_a_volume_of_the_image_gets_its_files(both: Sides, layers: int) -> None:
    """containerd copies them out of the root, mounted for a moment; hard links by their inode numbers alone."""

    async def ask(side: Side) -> list[str]:
        async with side.running(both.image("declared", layers)) as inside:
            seen = await inside.sh("find /srv/volume -exec stat -c '%n %F %u %g %a %h' {} \\; ; cat /srv/volume/*-[ab]")
            await inside.sh("! touch /srv/new")
            return [*listed(seen), await inside.sh("grep -c ' /srv/volume ' /proc/self/mountinfo")]

    seen = await both.same(ask)
    assert "/srv/volume/file regular file 0 0 644 2" in seen, "its copy has neither owners nor modes of files"
    assert (seen.count("twin a"), seen.count("twin b")) == (2, 2)
    assert seen[-1] == "1\n"


# roots that are read only, or that hooks write to


@depths
async def test_a_read_only_root(both: Sides, layers: int) -> None:
    """``readOnlyRootFilesystem``, with a mount at a place that the image does not have."""
    place = pb.Mount(container_path="/srv/made/here", host_path=str(both.node.directory.parent / "thing"))

    async def ask(side: Side) -> list[str]:
        image = both.image("plain", layers)
        async with side.running(image, mounts=[place], security=READ_ONLY) as inside:
            refused = await inside.ask("touch /srv/new")
            assert refused.code != 0
            return [*listed(await inside.sh(LOOK)), refused.stderr]

    assert "Read-only file system" in (await both.same(ask))[-1]


@depths
def test_a_root_that_was_never_writable(both: Sides, layers: int) -> None:
    """``ctr run --read-only`` makes a view."""
    image = both.image("plain", layers)
    ours, theirs = (listed(side.run(image, f"{LOOK}; ! touch /srv/new", "--read-only")) for side in both.each)

    assert ours == theirs
    assert "above" in ours


def test_a_root_that_is_one_layer_and_was_never_writable(both: Sides) -> None:
    """A view of one layer is no overlay: the layer itself is mounted."""
    image = both.image("single", 1)
    ours, theirs = (listed(side.run(image, "ls /bin; ! touch /new", "--read-only")) for side in both.each)

    assert ours == theirs
    assert "busybox" in ours


@depths
async def test_a_hook_writes_to_the_root(both: Sides, layers: int) -> None:
    """A hook of the runtime, from the spec that a handler begins with (``base_runtime_spec``)."""

    async def ask(side: Side) -> str:
        async with side.running(both.image("plain", layers), handler="hooked") as inside:
            return await inside.sh("cat /etc/hooked")

    assert await both.same(ask) == "hooked\n"


@depths
async def test_a_hook_that_runs_ldconfig(both: Sides, layers: int) -> None:
    """What GPU toolkits do: the cache of the dynamic linker is made anew before the container starts."""

    async def ask(side: Side) -> tuple[str, bool]:
        async with side.running(both.image("debian", layers), handler="hooked") as inside:
            known = await inside.sh("ldconfig -p")
            return known, await inside.sh("stat -c %Y /etc/ld.so.cache") > await inside.sh("stat -c %Y /etc/os-release")

    known, is_new = await both.same(ask)
    assert "libc.so.6" in known
    assert is_new


# file systems in the container


@depths
async def test_an_overlay_over_a_directory_of_the_image(both: Sides, layers: int) -> None:
    """As build tools in containers do, with a volume for what is written. Overlays stand two high at most."""
    script = (
        "mount -t tmpfs none /tmp && mkdir /tmp/upper /tmp/work"
        " && mount -t overlay -o lowerdir=/srv,upperdir=/tmp/upper,workdir=/tmp/work none /srv"
        " && echo new >/srv/changed && rm /srv/removed && cat /srv/changed /srv/folder/* && ls /srv /tmp/upper"
    )

    async def ask(side: Side) -> list[str]:
        async with side.running(both.image("plain", layers), security=MAY_MOUNT) as inside:
            return listed(await inside.sh(script))

    assert "above" in await both.same(ask)


# what kubelet measures


async def test_kubelet_measures_the_filesystem_that_containers_write_to(both: Sides) -> None:
    """And no other one: containerd reports one filesystem, so kubelet never takes disks for split."""
    for side in both.each:
        async with Cri(side.containerd.address) as cri:
            found = (await cri.image_filesystems())[0]
        assert found == side.containerd.root / f"io.containerd.snapshotter.v1.{side.snapshotter}"
        assert found.stat().st_dev == (side.containerd.root / "io.containerd.content.v1.content").stat().st_dev


@depths
async def test_what_a_container_writes_is_counted(both: Sides, layers: int) -> None:
    """By which kubelet enforces limits of ephemeral storage: new files, and copies of changed ones."""
    deadline = asyncio.get_running_loop().time() + 60

    async def counted(side: Side) -> int:
        async with side.running(both.image("plain", layers)) as inside:
            await inside.sh("dd if=/dev/zero of=/srv/new bs=1M count=8 && echo new >>/srv/changed && sync")
            while (found := await inside.cri.written(inside.container)) < 8 * MB:
                assert asyncio.get_running_loop().time() < deadline
                await asyncio.sleep(0.2)
            return found

    ours, theirs = await asyncio.gather(counted(both.ours), counted(both.theirs))

    assert abs(ours - theirs) < MB // 10


# removal, restarts


@depths
async def test_crictl_rmi(both: Sides, layers: int, directory: Path, registry: Registry) -> None:
    """The image is gone, the container goes on, and attach brings the image back without a registry."""
    own = tar_of({"srv": None, "srv/file": directory.name.encode()})
    image = busybox_image(directory / "image", own, *thin_layers(layers - 2))
    reference = registry.push(f"{directory.name}/removed:1", image)
    both.node.create(directory.name, [reference])
    async with Cri(both.theirs.containerd.address) as cri:
        await cri.pull(reference)

    async def ask(side: Side) -> str:
        async with side.running(reference) as inside:
            await inside.cri.remove_image(reference)
            assert await inside.cri.image_status(reference) is None
            return await inside.sh("cat /srv/file && echo new >/srv/file && cat /srv/file")

    assert await both.same(ask) == f"{directory.name}new\n"
    registry.clear_requests()
    await asyncio.to_thread(both.node.command, "attach", directory.name)
    async with both.ours.running(reference) as inside:
        assert await inside.sh("cat /srv/file") == directory.name
    assert registry.requests() == []
    await asyncio.to_thread(both.node.command, "delete", directory.name)


async def test_a_restart_of_containerd_and_agent_with_many_containers(both: Sides) -> None:
    # containerd 2.4 may collect the mounts of its erofs snapshotter while it fills a volume: no lease keeps them
    kinds = ("plain",) if both.mode == "native" else ("plain", "declared")
    images = [both.image(kind, layers) for kind in kinds for layers in (FEW, MANY)]
    # and it takes seconds to unmount the 127 layers of one of them
    count = 8 if both.mode == "native" else 40

    async def started(stack: AsyncExitStack, which: Sequence[str]) -> list[str]:
        running = [await stack.enter_async_context(both.ours.running(image)) for image in which]
        return [inside.container for inside in running]

    async with AsyncExitStack() as stack:
        before = await started(stack, images * (count // len(images)))
        await asyncio.to_thread(both.node.stop_agent)
        await asyncio.to_thread(both.node.start_agent)
        await asyncio.to_thread(both.node.containerd.restart)
        async with Cri(both.node.address) as cri:
            for container in before:
                assert "inside" in await Running(cri, container).sh("cat /srv/folder/inside")
        after = await started(stack, images)
        assert len({*before, *after}) == count + len(images)
