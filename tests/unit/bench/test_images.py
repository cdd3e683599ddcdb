"""How the bench's images are put together, on small ones."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zlib
from pathlib import Path, PurePosixPath

import pytest

from bench.images import IMAGES, LAYERS, Sizes, changed, spread
from testkit.images import make_image, tar_of
from testkit.oci_layout import Compression, LayerSpec


def _linked() -> bytes:
    """A tar whose last member is a hard link to its first file."""
    buffer = io.BytesIO(tar_of({"bin": None, "bin/first": b"program", "bin/zero": None}))
    with tarfile.open(fileobj=buffer, mode="a") as tar:
        for number in range(300):
            info = tarfile.TarInfo(f"bin/file-{number}")
            tar.addfile(info)
        link = tarfile.TarInfo("bin/last")
        link.type, link.linkname = tarfile.LNKTYPE, "bin/first"
        tar.addfile(link)
    return buffer.getvalue()


def _members(layer: Path) -> list[tarfile.TarInfo]:
    with tarfile.open(layer) as tar:
        return tar.getmembers()


def test_the_files_of_an_image_are_spread_over_layers(tmp_path: Path) -> None:
    upper = tar_of({"bin": None, "deep": None, "deep/er": None, "deep/er/file": b"x", "deep/link": "er"})
    image = make_image(tmp_path / "image", [_linked(), upper])

    layers = spread(image, tmp_path)

    members = [_members(layer) for layer in layers]
    files = [info.name for layer in members for info in layer if not info.isdir()]
    assert len(members) == LAYERS
    assert all(any(not info.isdir() or info.name == "bin/zero" for info in layer) for layer in members)
    assert sorted(files) == sorted(
        ["bin/first", "bin/last", "deep/er/file", "deep/link", *(f"bin/file-{number}" for number in range(300))]
    )
    for layer in members:
        seen = {"."}
        for info in layer:
            assert str(PurePosixPath(info.name).parent) in seen, "every directory has an entry before what is in it"
            seen.add(info.name)
    assert [{"bin/first", "bin/last"} <= {info.name for info in layer} for layer in members].count(True) == 1


@pytest.mark.parametrize("size", [0, 1, 4096, 1_000_001])
def test_a_copy_is_another_content_that_compresses_alike(size: int) -> None:
    content = (hashlib.shake_128(b"0").digest(3000) + b"text " * 2000) * (size // 13000 + 1)
    content = content[:size]

    copies = [content, *(changed(number, content) for number in (1, 2))]

    for offset in range(0, size, 4096):
        assert len({copy[offset : offset + 4096] for copy in copies}) == 3
    assert [len(copy) for copy in copies] == [size] * 3
    packed = [len(zlib.compress(copy)) for copy in copies]
    assert max(packed) - min(packed) <= max(4, size // 4096 * 8)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_sizes_are_those_of_the_tars(compression: Compression, tmp_path: Path) -> None:
    tars = [tar_of({f"file-{number}": bytes(number)}) for number in (1, 100_000)]
    image = make_image(tmp_path / "image", [LayerSpec(tar, compression) for tar in tars])

    assert Sizes.of(image) == Sizes(2, image.size, sum(map(len, tars)))


def test_a_key_is_the_image_that_it_names() -> None:
    assert all(key == image.key for key, image in IMAGES.items())
