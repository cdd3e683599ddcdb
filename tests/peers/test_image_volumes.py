"""What CRI has since containerd 2: images as volumes, devices of CDI; on imagecache and on overlayfs."""

from __future__ import annotations

import pytest
from grpclib.exceptions import GRPCError

from imagecache._proto.cri import runtime_pb2 as pb
from testkit.peers.cri import Cri
from testkit.peers.processes import mounts_below
from tests.peers.sides import DEVICE, LOOK, SLEEP, USER, Running, Side, Sides, depths, listed, on_2_4

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(300), on_2_4]  # 1.6 has neither


def image_volume(image: str, sub_path: str = "", host_id: int = 0) -> pb.Mount:
    """An image at /volume. ``host_id``: as in a user namespace that has its ids from there."""
    maps = [pb.IDMapping(host_id=host_id, container_id=0, length=65536)] if host_id else []
    source = pb.ImageSpec(image=image)
    return pb.Mount(
        container_path="/volume",
        readonly=True,
        image=source,
        image_sub_path=sub_path,
        uidMappings=maps,
        gidMappings=maps,
    )


@depths
async def test_an_image_volume(both: Sides, layers: int) -> None:
    image = both.image("plain", layers)

    async def ask(side: Side) -> list[str]:
        async with side.running(both.image("plain"), mounts=[image_volume(image)]) as inside:
            assert (await inside.ask("touch /volume/new")).code != 0
            return listed(await inside.sh(LOOK.replace("/srv", "/volume/srv").replace("/etc", "/volume/etc")))

    assert "inside" in await both.same(ask)


@depths
async def test_a_directory_of_an_image_as_volume(both: Sides, layers: int) -> None:
    """``subPath`` of an image volume."""
    volume = image_volume(both.image("plain", layers), "srv/folder")

    async def ask(side: Side) -> list[str]:
        async with side.running(both.image("plain"), mounts=[volume]) as inside:
            return listed(await inside.sh("stat -c '%n %F %u %g %a' /volume/*; cat /volume/*"))

    assert await both.same(ask) == [
        *("/volume/above regular file 0 0 644", "/volume/inside regular file 0 0 644", "above", "inside")
    ]


@pytest.mark.parametrize("sub_path", ["srv/folder/inside", "srv/folder/hidden", "srv/none", "../../etc"])
async def test_what_is_no_directory_of_the_image_is_refused(both: Sides, sub_path: str) -> None:
    volume = image_volume(both.image("plain"), sub_path)

    async def ask(side: Side) -> str:
        with pytest.raises(GRPCError) as refused:
            async with side.running(both.image("plain"), mounts=[volume]):
                pass
        message = refused.value.message or ""
        return "ImageVolumeMountFailed" if "ImageVolumeMountFailed" in message else message

    assert await both.same(ask) == "ImageVolumeMountFailed"


@depths
async def test_an_image_volume_with_the_ids_of_a_user_namespace(both: Sides, layers: int) -> None:
    """As kubelet asks for a pod with ``hostUsers: false``. Seen from a container without: the ids of the host."""
    volume = image_volume(both.image("plain", layers), host_id=100_000)

    async def ask(side: Side) -> list[str]:
        async with side.running(both.image("plain"), mounts=[volume]) as inside:
            return listed(await inside.sh("cd /volume/srv && stat -c '%n %u %g %a' * && cat folder/*"))

    seen = await both.same(ask)
    assert f"tool {100_000 + USER} {100_000 + USER} 4755" in seen
    assert "changed 100000 100000 644" in seen


@depths
async def test_two_containers_of_a_pod_share_an_image_volume(both: Sides, layers: int) -> None:
    image = both.image("plain", layers)

    async def ask(side: Side) -> list[str]:
        async with Cri(side.containerd.address) as cri:
            pod = await cri.run_pod("shares")
            try:
                answers = []
                for name, sub_path in (("whole", ""), ("part", "srv/folder")):
                    volumes = [image_volume(image, sub_path)]
                    made = await cri.create_container(pod, image, SLEEP, name=name, mounts=volumes)
                    await cri.start(made)
                    answers += listed(await Running(cri, made).sh("ls /volume"))
                return answers
            finally:
                await cri.remove_pod(pod)

    assert {"srv", "above", "inside"} <= set(await both.same(ask))
    assert not [point for point in mounts_below(both.node.directory) if "image-volumes" in str(point)]


@depths
async def test_a_cdi_device(both: Sides, layers: int) -> None:
    """Mounts, environment and a hook of the Container Device Interface."""

    async def ask(side: Side) -> str:
        async with side.running(both.image("plain", layers), devices=[DEVICE]) as inside:
            return await inside.sh("cat /etc/hooked /opt/thing/library && echo $THING")

    assert await both.same(ask) == "hooked\nof the host\none\n"
