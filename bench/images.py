"""What the bench pulls: a web service, a Python stack of 1,000 MB in two compressions, 5 GB, and 127 layers.

They are made of Debian's packages and PyPI's wheels, once per machine, and kept in ``.cache/images``; the same packages
give the same digests. Invented content would compress and deduplicate like nothing that anybody runs. It must not
measure anything.
"""

from __future__ import annotations

import fnmatch
import gzip
import os
import shutil
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TypeVar

import zstandard

from imagecache.digest import DiffID
from imagecache.oci.descriptor import Descriptor
from testkit.images import tar_of
from testkit.oci_layout import Compression, Image, ImageConfig, LayerSpec, Layout
from testkit.real_images import (
    LEVEL,
    MORE_WHEELS,
    WHEELS,
    big_image,
    cached,
    compile_all,
    debian_image,
    fetch_wheels,
    python_image,
    scratch_folder,
    share_layers,
    tree_tar,
    unpack,
    wheels_tar,
)

RECIPE = 1
"""Part of every cached name: raise it when this file makes something else."""
ZSTD_LEVEL = 3
"""zstd's own default, and BuildKit's when ``compression=zstd`` has no level (docs/exporters of moby/buildkit)."""
COPIES = 6
"""Of all wheels, in ``huge``."""
LAYERS = 127
"""The most that Docker's graph drivers could mount, so images of more layers are hardly anywhere."""
_WHEEL_LAYER = 100_000_000
"""A layer of ``huge`` has wheels until they are so many bytes uncompressed."""
_BLOCK = 4096
_PIECE = 1 << 20
_CONFIG = ImageConfig(cmd=("/usr/bin/python3",))

_SERVICE: Sequence[Sequence[str]] = (
    (
        *("flask==3.1.2", "werkzeug==3.1.3", "jinja2==3.1.6", "markupsafe==3.0.3", "itsdangerous==2.2.0"),
        *("click==8.3.0", "blinker==1.9.0", "gunicorn==23.0.0", "packaging==25.0"),
    ),
    (
        *("pg8000==1.31.5", "scramp==1.4.6", "asn1crypto==1.5.1", "python-dateutil==2.9.0.post0", "six==1.17.0"),
        *("requests==2.32.5", "certifi==2025.10.5", "charset-normalizer==3.4.4", "idna==3.11", "urllib3==2.5.0"),
    ),
)
"""The two layers of wheels of ``small``."""
_LEFT_OUT_PACKAGES = (
    *("apt", "libapt-pkg*", "gpgv", "sqv", "debian-archive-keyring", "libgnutls*", "libp11-kit*", "libunistring*"),
    *("libidn2*", "libhogweed*", "libnettle*", "libtasn1*", "perl-base", "debconf", "adduser", "init-system-helpers"),
    *("e2fsprogs", "libext2fs*", "libss2*", "logsave", "mount", "util-linux-extra"),
)
"""What installs packages and makes filesystems: a service's base image (distroless, Chainguard) is without."""
_LEFT_OUT_FILES = (
    *("usr/share/doc/*", "usr/share/man/*", "usr/share/locale/*", "usr/share/info/*", "usr/share/lintian/*"),
    *("usr/lib/*/gconv/*", "var/lib/dpkg/info/*", "var/lib/dpkg/*-old", "var/cache/*"),
    *("usr/lib/python3*/test/*", "usr/lib/python3*/pydoc_data/*", "usr/lib/python3*/unittest/*"),
)
"""Most of it is what Debian's own slim images leave out (debuerreotype, .slimify-excludes)."""
_MERGED = {"bin", "sbin", "lib", "lib32", "lib64", "libx32"}
"""Links to directories of the same name below /usr; dpkg's lists have the old paths."""

Entry = tuple[tarfile.TarFile, tarfile.TarInfo]
Result = TypeVar("Result")
Work = TypeVar("Work")


@dataclass(frozen=True, slots=True)
class BenchImage:
    """One image, and the shortest program that says its container works."""

    key: str
    """For raw data and the command line."""
    title: str
    """For tables; the sizes are ``Sizes``'s."""
    make: Callable[[], Image]
    """From the cache, or made now."""
    hello: Sequence[str]

    def image(self) -> Image:
        """As ``make``, with a line on standard error when that took long."""
        started = time.monotonic()
        image = self.make()
        seconds = time.monotonic() - started
        if seconds > 1:
            size = image.size / 1e6
            sys.stderr.write(f"[bench] made the image '{self.key}' ({size:.0f} MB compressed) in {seconds:.0f} s\n")
        return image


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of an image, in bytes; ``tar`` is uncompressed."""

    layers: int
    compressed: int
    tar: int

    @classmethod
    def of(cls, image: Image) -> Sizes:
        return cls(len(image.layers), image.size, sum(_tar_size(image.blob(blob.digest)) for blob in image.layers))


def _tar_size(blob: Path) -> int:
    with blob.open("rb") as file:
        if file.read(2) == b"\x1f\x8b":
            file.seek(-4, os.SEEK_END)
            return int.from_bytes(file.read(4), "little")  # ISIZE of RFC 1952: one member, under 4 GiB
        file.seek(0)
        return sum(len(chunk) for chunk in zstandard.ZstdDecompressor().read_to_iter(file))


def small() -> Image:
    """A web service of ten layers on a Debian without documents and package tools: under 100 MB."""
    below = debian_image()
    return cached(_name("small", below), lambda layout: _packed(layout, below, _service_layers))


def big_zstd() -> Image:
    """The layers of ``big_image``, compressed with zstd: same diffIDs."""
    big = big_image()

    def recompressed(image: Image, scratch: Path) -> list[Path]:
        return _in_parallel(partial(_plain, image, scratch), range(len(image.layers)))

    return cached(_name("big-zstd", big), lambda layout: _packed(layout, big, recompressed, "zstd", ZSTD_LEVEL))


def layers127() -> Image:
    """The files of ``python_image``, a 127th of them in each layer, with the directories above as in any layer."""
    below = python_image()
    return cached(_name("layers127", below), lambda layout: _packed(layout, below, spread))


def huge() -> Image:
    """``python_image``, and six times all wheels of ``big_image`` in ``/opt``: over 5 GB in 40 layers.

    No file of a copy equals one of another, whole or in any 4 KiB: stores that know content by digest keep all of it.
    """
    below = python_image()
    return cached(_name("huge", below), lambda layout: _copies(layout, below))


_PYTHON_HELLO = ("python3", "-c", "import numpy; print('hello')")
IMAGES: Mapping[str, BenchImage] = {
    image.key: image
    for image in (
        BenchImage("small", "web service", small, ("python3", "-c", "import flask; print('hello')")),
        BenchImage("big", "Python stack", big_image, _PYTHON_HELLO),
        BenchImage("big-zstd", "Python stack, zstd", big_zstd, _PYTHON_HELLO),
        BenchImage("huge", "six Python stacks", huge, _PYTHON_HELLO),
        BenchImage("layers127", "numpy and pandas in 127 layers", layers127, _PYTHON_HELLO),
    )
}


def _name(key: str, below: Image) -> str:
    """In the cache: another one whenever the image below, or this file, is another."""
    return f"{key}-{RECIPE}-{below.descriptor.digest.short}"


def _in_parallel(work: Callable[[Work], Result], items: Sequence[Work]) -> list[Result]:
    """Threads are enough: zlib, zstd and SHA-256 work without Python's lock."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        return list(threads.map(work, items))


def _packed(
    layout: Layout,
    below: Image,
    make: Callable[[Image, Path], Sequence[Path]],
    compression: Compression = "gzip",
    level: int = LEVEL,
) -> Image:
    """An image of the tars that ``make`` puts into a scratch folder."""
    with scratch_folder() as scratch:
        tars = make(below, scratch)
        stored = _in_parallel(lambda tar: layout.add_layer(LayerSpec(tar, compression, level)), tars)
    return layout.add_manifest([blob for blob, _ in stored], [diff for _, diff in stored], _CONFIG)


def _plain(image: Image, folder: Path, number: int) -> Path:
    """The tar of a layer that is compressed with gzip."""
    target = folder / f"plain-{number}.tar"
    with gzip.open(image.blob(image.layers[number].digest)) as packed, target.open("wb") as file:
        shutil.copyfileobj(packed, file, _PIECE)
    return target


# small


def _service_layers(debian: Image, scratch: Path) -> list[Path]:
    """Ten tars, as a Dockerfile of ten steps would leave them."""
    base, python = (_plain(debian, scratch, number) for number in range(2))
    left_out = _files_of_packages(base)
    requirements = "".join(f"{requirement}\n" for group in _SERVICE for requirement in group)
    account = "{}app:x:1000:1000::/home/app:/usr/sbin/nologin\n"
    with tarfile.open(base) as tar:
        users = {name: _content(tar, name) for name in ("etc/passwd", "etc/group")}
    steps: Sequence[bytes | Path] = (
        _filtered(base, scratch / "base.tar", left_out),
        tar_of(
            {
                "etc": None,
                "etc/passwd": account.format(users["etc/passwd"]).encode(),
                "etc/group": f"{users['etc/group']}app:x:1000:\n".encode(),
                "home": None,
                "home/app": None,
            }
        ),
        _filtered(python, scratch / "python.tar", left_out),
        tar_of(_below("usr/local/bin", {"python": "/usr/bin/python3"})),
        tar_of(_below("srv/app", {})),
        tar_of(_below("srv/app", {"requirements.txt": requirements.encode()})),
        *(_wheels_layer(group, scratch / f"wheels-{number}") for number, group in enumerate(_SERVICE)),
        tar_of(_below("srv/app", {name: text.encode() for name, text in _APPLICATION.items()})),
        tar_of(
            _below("etc/app", {"gunicorn.conf.py": _GUNICORN.encode()})
            | _below("srv/app", {".wh.requirements.txt": b""})
        ),
    )
    return [_stored(step, scratch / f"step-{number}.tar") for number, step in enumerate(steps)]


def _stored(step: bytes | Path, target: Path) -> Path:
    if isinstance(step, Path):
        return step
    target.write_bytes(step)
    return target


def _below(folder: str, files: Mapping[str, bytes | str | None]) -> dict[str, bytes | str | None]:
    """The files in ``folder``, after an entry for it and each directory above."""
    path = PurePosixPath(folder)
    parents: dict[str, bytes | str | None] = {str(parent): None for parent in [path, *path.parents[:-1]][::-1]}
    named = {f"{folder}/{name}": content for name, content in files.items()}
    inner = {str(parent): None for name in named for parent in PurePosixPath(name).parents if parent.parts[:1]}
    return parents | dict(sorted((inner | named).items()))


def _content(tar: tarfile.TarFile, name: str) -> str:
    file = tar.extractfile(name)
    assert file is not None, f"{name} is no file"  # noqa: S101 - Debian's base has it
    return file.read().decode()


def _files_of_packages(base: Path) -> set[str]:
    """Files that the packages brought which are left out."""
    found = set()
    with tarfile.open(base) as tar:
        for info in tar:
            path = PurePosixPath(info.name)
            package = path.stem.partition(":")[0]
            if path.match("var/lib/dpkg/info/*.list") and _matches(package, _LEFT_OUT_PACKAGES):
                found |= {_merged(line.lstrip("/")) for line in _content(tar, info.name).splitlines()}
    return found


def _merged(path: str) -> str:
    return f"usr/{path}" if path.partition("/")[0] in _MERGED else path


def _matches(text: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(text, pattern) for pattern in patterns)


def _filtered(source: Path, target: Path, left_out: set[str]) -> Path:
    """The tar without these files and without what ``_LEFT_OUT_FILES`` has; directories of packages stay."""
    with tarfile.open(source) as reading, tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as writing:
        for info in reading:
            if not _matches(info.name, _LEFT_OUT_FILES) and (info.isdir() or info.name not in left_out):
                writing.addfile(info, reading.extractfile(info) if info.isreg() else None)
    return target


def _wheels_layer(group: Sequence[str], folder: Path) -> Path:
    """As pip leaves it, bytecode included."""
    folder.mkdir()
    root = folder / "root"
    unpack(wheels_tar(fetch_wheels(group), folder / "wheels.tar"), root)
    compile_all(root)
    return tree_tar(root, sorted(path.relative_to(root) for path in root.rglob("*")), folder / "layer.tar")


_APPLICATION = {
    "service/__init__.py": """\
from flask import Flask

from service import notes


def create() -> Flask:
    app = Flask(__name__)
    app.register_blueprint(notes.pages)
    return app
""",
    "service/notes.py": """\
from flask import Blueprint, render_template, request

from service.database import connection

pages = Blueprint("notes", __name__)


@pages.get("/")
def listed() -> str:
    with connection() as database:
        return render_template("notes.html", notes=database.run("SELECT text FROM notes ORDER BY id"))


@pages.post("/")
def added() -> tuple[str, int]:
    with connection() as database:
        database.run("INSERT INTO notes (text) VALUES (:text)", text=request.form["text"])
    return "", 204
""",
    "service/database.py": """\
import os

from pg8000.native import Connection


def connection() -> Connection:
    return Connection("app", host=os.environ["DATABASE"])
""",
    "service/templates/notes.html": """\
<!doctype html>
<title>Notes</title>
<ul>{% for note in notes %}<li>{{ note[0] }}{% endfor %}</ul>
<form method=post><input name=text><button>add</button></form>
""",
}
_GUNICORN = """\
bind = "0.0.0.0:8080"
chdir = "/srv/app"
workers = 2
wsgi_app = "service:create()"
"""


# layers127


def spread(image: Image, scratch: Path) -> list[Path]:
    """The files in their order, as many in one layer as in any other; a hard link goes with its file."""
    with ExitStack() as stack:
        tars = [stack.enter_context(tarfile.open(_plain(image, scratch, n))) for n in range(len(image.layers))]
        entries = [(tar, info) for tar in tars for info in tar]
        folders = {info.name: info for _, info in entries if info.isdir()}
        above = {str(parent) for _, info in entries for parent in PurePosixPath(info.name).parents}
        items = [(tar, info) for tar, info in entries if not info.isdir() or info.name not in above]
        layer_of = {info.name: number * LAYERS // len(items) for number, (_, info) in enumerate(items)}
        layers: list[list[Entry]] = [[] for _ in range(LAYERS)]
        for tar, info in items:
            layers[layer_of[info.linkname if info.islnk() else info.name]].append((tar, info))
        return [_slice(layer, folders, scratch / f"{number}.tar") for number, layer in enumerate(layers)]


def _slice(entries: Sequence[Entry], folders: Mapping[str, tarfile.TarInfo], target: Path) -> Path:
    made: set[str] = set()
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as writing:
        for tar, info in entries:
            for parent in [*PurePosixPath(info.name).parents][-2::-1]:
                if str(parent) not in made:
                    made.add(str(parent))
                    writing.addfile(folders[str(parent)])
            writing.addfile(info, tar.extractfile(info) if info.isreg() else None)
    return target


# huge


def _copies(layout: Layout, below: Image) -> Image:
    """One layer on the disk for each processor, and no more, until it is compressed."""
    share_layers(layout, below)
    groups = list(_wheel_layers())

    with scratch_folder() as scratch:

        def add(job: tuple[int, int]) -> tuple[Descriptor, DiffID]:
            copy, number = job
            folder = PurePosixPath(f"opt/copy-{copy}")
            target = scratch / f"{copy}-{number}.tar"
            tar = wheels_tar(groups[number], target, lambda path: folder / path, partial(changed, copy))
            stored = layout.add_layer(LayerSpec(tar, level=LEVEL))
            tar.unlink()
            return stored

        jobs = [(copy, number) for copy in range(1, COPIES + 1) for number in range(len(groups))]
        stored = _in_parallel(add, jobs)
    blobs, diff_ids = [blob for blob, _ in stored], [diff for _, diff in stored]
    return layout.add_manifest([*below.layers, *blobs], [*below.diff_ids, *diff_ids], _CONFIG)


def _wheel_layers() -> Iterator[list[Path]]:
    """All wheels of ``big_image`` in layers of some 100 MB and more."""
    layer: list[Path] = []
    size = 0
    for wheel in fetch_wheels([requirement for group in (*WHEELS, *MORE_WHEELS) for requirement in group]):
        layer.append(wheel)
        with zipfile.ZipFile(wheel) as archive:
            size += sum(item.file_size for item in archive.infolist())
        if size >= _WHEEL_LAYER:
            yield layer
            layer, size = [], 0
    if layer:
        yield layer


def changed(copy: int, content: bytes) -> bytes:
    """Another content for each copy that compresses alike: the first byte of each 4 KiB, by exclusive or."""
    changed = bytearray(content)
    changed[::_BLOCK] = content[::_BLOCK].translate(bytes(byte ^ copy for byte in range(256)))
    return bytes(changed)
