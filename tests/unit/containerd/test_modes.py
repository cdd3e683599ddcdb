import pytest

from imagecache.containerd.api import Plugin
from imagecache.containerd.modes import choose, default_snapshotter, version_of
from imagecache.errors import ContainerdMisconfigured
from imagecache.settings.choices import Mode

OURS = Plugin("io.containerd.snapshotter.v1", "imagecache")
EROFS = Plugin("io.containerd.snapshotter.v1", "erofs")
BROKEN = Plugin("io.containerd.snapshotter.v1", "imagecache", error="dial unix: no such file")


@pytest.mark.parametrize(
    ("text", "version"), [("1.6.20~ds1", (1, 6)), ("v2.4.2", (2, 4)), ("2.10.0-rc.1", (2, 10)), ("main", (0, 0))]
)
def test_versions(text: str, version: tuple[int, int]) -> None:
    assert version_of(text) == version


@pytest.mark.parametrize(
    ("version", "plugins", "wanted", "mode", "snapshotter"),
    [
        ("1.6.20", [OURS], Mode.AUTO, Mode.PROXY, "imagecache"),
        ("2.4.2", [EROFS, OURS], Mode.AUTO, Mode.PROXY, "imagecache"),
        ("2.4.2", [EROFS], Mode.AUTO, Mode.NATIVE, "erofs"),
        ("2.4.2", [EROFS, BROKEN], Mode.PREPULL, Mode.NATIVE, "erofs"),
        ("2.4.2", [EROFS, OURS], Mode.NATIVE, Mode.NATIVE, "erofs"),
    ],
)
def test_choice(version: str, plugins: list[Plugin], wanted: Mode, mode: Mode, snapshotter: str) -> None:
    choice = choose(version, plugins, "imagecache", wanted)
    assert (choice.mode, choice.snapshotter) == (mode, snapshotter)
    assert version in choice.because


@pytest.mark.parametrize(
    ("version", "plugins", "wanted", "message"),
    [
        ("2.3.4", [EROFS], Mode.AUTO, "no proxy plugin named imagecache"),
        ("2.3.4", [EROFS], Mode.NATIVE, "needs containerd 2.4 or later, this is 2.3.4"),
        ("2.4.2", [OURS], Mode.NATIVE, "not loaded its erofs snapshotter"),
        ("2.4.2", [EROFS], Mode.PROXY, "no proxy plugin named imagecache"),
        ("1.6.20", [Plugin("io.containerd.content.v1", "imagecache")], Mode.AUTO, "no proxy plugin"),
    ],
)
def test_no_integration(version: str, plugins: list[Plugin], wanted: Mode, message: str) -> None:
    with pytest.raises(ContainerdMisconfigured, match=message) as caught:
        choose(version, plugins, "imagecache", wanted)
    assert "imagecache containerd-config install" in caught.value.hint


@pytest.mark.parametrize(
    ("image_filesystem", "snapshotter"),
    [
        ("/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs", "overlayfs"),
        ("/data/nydus", "nydus"),
        ("/var/lib/containerd/io.containerd.snapshotter.v1.erofs", "erofs"),
    ],
)
def test_where_cri_unpacks(image_filesystem: str, snapshotter: str) -> None:
    kind = OURS.kind
    nydus = Plugin(kind, "nydus", exports={"root": "/data/nydus"})
    choice = default_snapshotter(image_filesystem, [OURS, nydus, Plugin(kind, "overlayfs"), EROFS])
    assert (choice.mode, choice.snapshotter) == (Mode.PREPULL, snapshotter)


@pytest.mark.parametrize("image_filesystem", ["", "/other", "/x/io.containerd.snapshotter.v1.imagecache"])
def test_a_directory_of_no_snapshotter(image_filesystem: str) -> None:
    with pytest.raises(ContainerdMisconfigured, match="no snapshotter"):
        default_snapshotter(image_filesystem, [EROFS, BROKEN])
