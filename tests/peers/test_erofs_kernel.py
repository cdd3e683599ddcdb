"""The kernel's EROFS shows exactly the tree that was written, from 512-byte and from realigned 4096-byte blocks."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import random
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from imagecache.builder import layer_file
from imagecache.erofs.reader import LayerImage
from imagecache.erofs.realign import realign
from imagecache.tree import Inode, directory
from testkit.peers.programs import find, run
from testkit.trees import (
    Facts,
    TarStandIn,
    count_links,
    describe,
    device,
    put,
    random_tree,
    symlink,
    write_layer,
    zoo,
)

pytestmark = pytest.mark.peers

_LIBC = ctypes.CDLL(None, use_errno=True)
_READ_ONLY = 1


@contextmanager
def mounted(source: bytes, target: Path, kind: bytes = b"erofs", options: bytes | None = None) -> Iterator[Path]:
    """mount(2), not mount(8): straight from the file, without a loop device."""
    target.mkdir()
    if _LIBC.mount(source, bytes(target), kind, _READ_ONLY, options):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))
    try:
        yield target
    finally:
        _LIBC.umount2(bytes(target), 0)


def seen(mountpoint: Path) -> dict[tuple[bytes, ...], Facts]:
    """What the mounted filesystem says of every path."""
    found: dict[tuple[bytes, ...], Facts] = {}
    first: dict[int, tuple[bytes, ...]] = {}
    pending: list[tuple[bytes, ...]] = [()]
    while pending:
        path = pending.pop()
        full = mountpoint.joinpath(*map(os.fsdecode, path))
        status = os.lstat(full)
        kind = stat.S_IFMT(status.st_mode)
        found[path] = Facts(
            mode=status.st_mode,
            owner=(status.st_uid, status.st_gid),
            mtime_ns=status.st_mtime_ns,
            nlink=status.st_nlink,
            first=first.setdefault(status.st_ino, path),
            size=0 if kind == stat.S_IFDIR else status.st_size,
            target=os.readlink(bytes(full)) if kind == stat.S_IFLNK else b"",  # noqa: PTH115 - Path alters targets
            device=(os.major(status.st_rdev), os.minor(status.st_rdev)),
            xattrs={
                os.fsencode(name): os.getxattr(full, name, follow_symlinks=False)
                for name in os.listxattr(full, follow_symlinks=False)
            },
            content=full.read_bytes() if kind == stat.S_IFREG else b"",
        )
        if kind == stat.S_IFDIR:
            pending += sorted(((*path, name) for name in listed(full)), reverse=True)
    return found


def listed(path: Path) -> list[bytes]:
    """Names of a directory; types and numbers in its entries must be those of the inodes."""
    with os.scandir(path) as entries:
        found = list(entries)
    for entry in found:
        status = entry.stat(follow_symlinks=False)
        assert entry.inode() == status.st_ino != 0
        assert entry.is_dir(follow_symlinks=False) == stat.S_ISDIR(status.st_mode)
        assert entry.is_symlink() == stat.S_ISLNK(status.st_mode)
    return [os.fsencode(entry.name) for entry in found]


@pytest.fixture(params=[512, 4096])
def block_size(request: pytest.FixtureRequest) -> int:
    size: int = request.param
    return size


def image_of(folder: Path, root: Inode, tar: TarStandIn, block_size: int) -> Path:
    image = folder / "layer.erofs"
    with image.open("w+b") as file:
        write_layer(file.fileno(), root, tar)
    if block_size == 512:
        return image
    copy = folder / "realigned.erofs"
    with copy.open("w+b") as file:
        realign(image, file.fileno())
    return copy


def check(folder: Path, root: Inode, tar: TarStandIn, block_size: int) -> Path:
    """Kernel, our reader and the tree agree; returns the image."""
    image = image_of(folder, root, tar, block_size)
    expected = describe(root, tar.content)
    with LayerImage.open(image) as layer:
        assert describe(layer.tree(), lambda inode: b"".join(layer.read(inode))) == expected
    with mounted(bytes(image), folder / "mounted") as mountpoint:
        assert seen(mountpoint) == expected
    return image


def test_one_of_everything(tmp_path: Path, block_size: int) -> None:
    check(tmp_path, *zoo(), block_size)


def test_an_empty_layer(tmp_path: Path, block_size: int) -> None:
    check(tmp_path, directory(), TarStandIn(), block_size)


def test_a_directory_of_many_blocks(tmp_path: Path, block_size: int) -> None:
    root, tar = directory(), TarStandIn()
    for number in range(5000):
        put(root, f"large/{'x' * (number % 37)}{number}", tar.file(b"%d" % number))
    image = check(tmp_path, root, tar, block_size)
    with mounted(bytes(image), tmp_path / "lookups") as mountpoint:
        for name in root.children[b"large"].children:
            assert (mountpoint / "large" / name.decode()).exists()
            assert not (mountpoint / "large" / f"{name.decode()}~").exists()


def test_names_of_all_bytes_and_lengths(tmp_path: Path, block_size: int) -> None:
    root, tar = directory(), TarStandIn()
    for byte in set(range(1, 256)) - set(b"./"):
        root.children[bytes([byte])] = tar.file(bytes([byte]))
        root.children[b"." + bytes([byte])] = symlink(bytes([byte]))
        root.children[bytes([byte]) * 255] = directory()
    for length in range(3, 255):
        root.children[b"..." + b"n" * (length - 3)] = device(stat.S_IFIFO | 0o600, 0, 0)
    check(tmp_path, root, tar, block_size)


def test_symlinks_of_all_lengths(tmp_path: Path, block_size: int) -> None:
    root = directory()
    for length in range(1, 4096):
        link = put(root, f"{length}", symlink(b"/" + b"t" * (length - 1)))
        link.xattrs = {b"trusted.n": b"v" * (length % 90)} if length % 3 == 0 else {}
    check(tmp_path, root, TarStandIn(), block_size)


@pytest.mark.parametrize("offset", [300 * 2**20, 5 * 2**30], ids=["300MiB", "5GiB"])
def test_files_far_into_the_tar(tmp_path: Path, block_size: int, offset: int) -> None:
    root, tar = directory(), TarStandIn()
    put(root, "near", tar.file(b"near" * 1000))
    tar.skip(offset)
    put(root, "far", tar.file(b"far" * 1000))
    check(tmp_path, root, tar, block_size)


def test_sparse_files_stay_sparse(tmp_path: Path, block_size: int) -> None:
    root, tar = directory(), TarStandIn()
    size = 64 * 2**20
    put(root, "disk", tar.sparse_file(size, {4096: b"a" * 4096, 30_000_001: b"b" * 100, size - 1: b"z"}))
    put(root, "after", tar.file(b"after"))
    image = check(tmp_path, root, tar, block_size)
    assert image.stat().st_blocks * 512 < 2**20
    assert (image.stat().st_size < 2**20) == (block_size == 512)


@pytest.mark.parametrize("seed", range(12))
def test_sparse_files_of_many_pieces(tmp_path: Path, block_size: int, seed: int) -> None:
    """Sizes and places off every grid, beside attributes, which lie before the table."""
    rng = random.Random(seed)
    root, tar = directory(), TarStandIn()
    for number in range(30):
        size = rng.choice([1, 511, 512, 513, 4096, 70_000, 3_000_001])
        cuts = sorted(rng.sample(range(size + 1), min(size + 1, 2 * rng.randrange(12)) // 2 * 2))
        data = {start: rng.randbytes(end - start) for start, end in zip(cuts[::2], cuts[1::2], strict=True)}
        file = put(root, f"{number:02}", tar.sparse_file(size, data))
        file.xattrs = {b"user.x": b"v" * number} if number % 2 else {}
    check(tmp_path, root, tar, block_size)


GIB = 2**30
HOLES = {
    "a piece on each side of a hole": (8 * GIB + 1000, {0: b"start" * 3000, 8 * GIB - 7: b"end" * 300}),
    "pieces off every grid": (8 * GIB, {77: b"a", 5 * GIB + 4095: b"b" * 4098, 8 * GIB - 3: b"c"}),
    "a hole at the end": (8 * GIB + 5, {4096: b"a" * 10_000}),
    "nothing but a hole": (1024 * GIB, {}),
    "a piece at the end": (1024 * GIB, {1024 * GIB - 1: b"z"}),
}


@pytest.mark.parametrize("name", HOLES)
def test_holes_of_gigabytes(tmp_path: Path, block_size: int, name: str) -> None:
    size, data = HOLES[name]
    root, tar = directory(), TarStandIn()
    put(root, "disk", tar.sparse_file(size, data))
    put(root, "after", tar.file(b"after"))
    image = image_of(tmp_path, root, tar, block_size)
    assert image.stat().st_blocks * 512 < 5 * 2**20
    with mounted(bytes(image), tmp_path / "mounted") as mountpoint, (mountpoint / "disk").open("rb") as file:
        assert os.fstat(file.fileno()).st_size == size
        assert file.read(1 << 16) == _read(data, 0, 1 << 16)
        for offset, content in data.items():
            for start in (max(offset - 5000, 0), offset + len(content) - 1):
                length = min(len(content) + 10_000, size - start)
                assert os.pread(file.fileno(), length, start) == _read(data, start, length)
        if block_size == 512:  # a realigned file is one piece
            assert sum(end - start for start, end in _spans(file.fileno(), size)) < 5 * 2**20


def _sparse(path: Path, size: int, data: dict[int, bytes]) -> None:
    with path.open("wb") as file:
        file.truncate(size)
        for offset, content in data.items():
            os.pwrite(file.fileno(), content, offset)


def _digest(path: Path) -> tuple[int, str]:
    """Size, and a digest of all 512-byte blocks that have anything but zeros, with their places."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        for start, end in _spans(file.fileno(), size):
            for at in range(start - start % 512, end, 512):
                block = os.pread(file.fileno(), 512, at)
                if any(block):
                    digest.update(b"%d:%b" % (at, block))
    return size, digest.hexdigest()


@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0"])
def test_what_gnu_tar_unpacks(tmp_path: Path, version: str) -> None:
    """Its own sparse files, of gigabytes, packed, built, mounted, and unpacked again."""
    source, unpacked = tmp_path / "source", tmp_path / "unpacked"
    source.mkdir()
    unpacked.mkdir()
    for number, (size, data) in enumerate(HOLES.values()):
        _sparse(source / f"{number}", min(size, 100 * GIB), {at: each for at, each in data.items() if at < 100 * GIB})
    options = ["--format=posix", "--sparse", f"--sparse-version={version}"]
    run(["tar", *options, "-cf", str(tmp_path / "tar"), "-C", str(source), "."])
    run(["tar", "-xSf", str(tmp_path / "tar"), "-C", str(unpacked)])
    with (tmp_path / "tar").open("rb") as file:
        layer_file.build(file, tmp_path / "layer")
    assert (tmp_path / "layer").stat().st_size < 5 * 2**20
    with mounted(bytes(tmp_path / "layer"), tmp_path / "mounted") as mountpoint:
        names = sorted(path.name for path in unpacked.iterdir())
        assert sorted(path.name for path in mountpoint.iterdir()) == names == [f"{number}" for number in range(5)]
        for name in names:
            assert _digest(mountpoint / name) == _digest(unpacked / name) == _digest(source / name)


def _read(data: dict[int, bytes], start: int, length: int) -> bytes:
    """What a file with these pieces has there."""
    found = bytearray(length)
    for offset, content in data.items():
        low, high = max(start, offset), min(start + length, offset + len(content))
        if low < high:
            found[low - start : high - start] = content[low - offset : high - offset]
    return bytes(found)


def _spans(file: int, size: int) -> Iterator[tuple[int, int]]:
    """What the kernel does not call a hole; a hole reads as zeros."""
    at = 0
    while at < size:
        try:
            at = os.lseek(file, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # a hole up to the end
                raise
            break
        end = os.lseek(file, at, os.SEEK_HOLE)
        yield at, end
        at = end


def test_xattrs_to_their_limits(tmp_path: Path, block_size: int) -> None:
    root, tar = directory(), TarStandIn()
    put(root, "one", tar.file(b"1")).xattrs = {b"user.large": bytes(range(256)) * 238}
    put(root, "many", tar.file(b"2")).xattrs = {b"user.%d" % n: b"v" * (n % 60) for n in range(1200)}
    put(root, "long names", directory()).xattrs = {b"trusted." + bytes([n]) * 240: b"" for n in range(65, 91)}
    for number in range(200):
        put(root, f"odd{number}", tar.file(b"3")).xattrs = {b"user.x": b"v" * number, b"user.yz": b"w" * (number // 2)}
    check(tmp_path, root, tar, block_size)


def test_five_hundred_levels(tmp_path: Path, block_size: int) -> None:
    root, tar = directory(), TarStandIn()
    put(root, "d/" * 499 + "file", tar.file(b"deep"))
    check(tmp_path, root, tar, block_size)


def test_forty_thousand_inodes(tmp_path: Path, block_size: int) -> None:
    root, tar = directory(), TarStandIn()
    for number in range(40_000):
        file = put(root, f"usr/lib/{number % 400}/{number % 7}/module-{number}.py", tar.file(b"%d\n" % number))
        file.mtime = number
    check(tmp_path, root, tar, block_size)


@pytest.mark.parametrize("seed", range(25))
def test_random_trees(tmp_path: Path, seed: int) -> None:
    root, tar = random_tree(random.Random(seed))
    check(tmp_path, root, tar, 512 if seed % 2 else 4096)


def test_overlayfs_understands_whiteouts_and_opaque_directories(tmp_path: Path) -> None:
    lower, tar = directory(), TarStandIn()
    for path in ("d/gone", "d/kept", "o/gone"):
        put(lower, path, tar.file(path.encode()))
    upper = directory()
    put(upper, "d/gone", device(stat.S_IFCHR, 0, 0))
    upper.children[b"d"].xattrs = {b"trusted.overlay.origin": b""}
    put(upper, "o/new", tar.file(b"new"))
    upper.children[b"o"].xattrs = {b"trusted.overlay.opaque": b"y"}
    for name, root in (("lower", lower), ("upper", upper)):
        (tmp_path / name).mkdir()
        count_links(root)
        image_of(tmp_path / name, root, tar, 512)
    with (
        mounted(bytes(tmp_path / "lower/layer.erofs"), tmp_path / "l"),
        mounted(bytes(tmp_path / "upper/layer.erofs"), tmp_path / "u"),
        mounted(
            b"overlay", tmp_path / "m", b"overlay", b"lowerdir=%b:%b" % (bytes(tmp_path / "u"), bytes(tmp_path / "l"))
        ),
    ):
        assert [path.relative_to(tmp_path / "m") for path in sorted((tmp_path / "m").rglob("*"))] == [
            *map(Path, ("d", "d/kept", "o", "o/new"))
        ]
        assert (tmp_path / "m/d/kept").read_bytes() == b"d/kept"


def test_erofs_utils_agree(tmp_path: Path) -> None:
    """Debian 12's version knows blocks of 4096 bytes only."""
    run([find("fsck.erofs"), "--extract", str(image_of(tmp_path, *zoo(), 4096))])


def test_a_cut_image_is_refused(tmp_path: Path) -> None:
    """What a crash leaves behind has no superblock yet."""
    image = image_of(tmp_path, *zoo(), 512)
    with image.open("r+b") as file:
        file.write(bytes(4096))
    with pytest.raises(OSError, match=r"Invalid argument"), mounted(bytes(image), tmp_path / "mounted"):
        pass
