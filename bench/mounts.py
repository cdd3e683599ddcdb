"""The ways to mount a layer image, side by side: the table of ADR 21.

One layer image with all of the Python stack, then many small ones. Prints tables in Markdown; every value goes to a
file. As root, with nothing else running::

    .venv/bin/python bench/mounts.py                                    # the disk as it is
    .venv/bin/python bench/mounts.py --read-ahead 128
    .venv/bin/python bench/mounts.py --read-ahead 128 --filesystem xfs  # in a file on the disk; needs xfsprogs
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import machine
from bench.conversion import one_layer, timed
from bench.courses import BIG
from bench.figures import MB, Samples, two
from bench.fresh import drawn, forget_pages, settle
from bench.warm import cached_bytes
from imagecache.erofs.realign import realign
from imagecache.host import loop_devices, syscalls
from imagecache.host.probe_kernel import write_probe_image
from testkit.peers.agent import COMMAND
from testkit.peers.programs import find, run
from testkit.peers.workspace import workspace

_FLAGS = syscalls.MS_RDONLY | syscalls.MS_NOSUID | syscalls.MS_NODEV
_READS = 6000
_TEXTS = (".py", ".json", ".txt", ".csv", ".xml")
_LINE_ROUNDS = 5
_DISK = 8 << 30
"""Bytes of a filesystem in a file."""


def _from_file(image: Path, target: Path, options: str = "") -> None:
    syscalls.mount(str(image), str(target), "erofs", _FLAGS, options)


def _on_loop(image: Path, target: Path, *, direct: bool) -> None:
    with loop_devices.attached(image, direct=direct) as device:
        syscalls.mount(device, str(target), "erofs", _FLAGS)


def _from_copy(image: Path, target: Path) -> None:
    """With 4096-byte blocks, written first."""
    copy = image.with_suffix(".copy")
    with copy.open("w+b") as file:
        realign(image, file.fileno())
        os.fsync(file.fileno())
    _from_file(copy, target)


Mount = Callable[[Path, Path], None]
WAYS: Mapping[str, Mount] = {
    "file": _from_file,
    "file, `directio`": partial(_from_file, options="directio"),
    "file, copied to 4096-byte blocks": _from_copy,
    "loop": partial(_on_loop, direct=False),
    "loop, direct I/O": partial(_on_loop, direct=True),
}
ONE = {
    "mount": "mount, ms",
    "tree": "all files, cold, s",
    "cache": "page cache holds, MB",
    "random": "random 4 KiB, cold, 1/s",
    "direct": "O_DIRECT (1: works)",
    "lines": "CPU for lines of text, ms",
}
MANY = {
    "mount": "all mounted, s",
    "slowest": "slowest mount, ms",
    "threads": "more threads of the kernel",
    "memory": "memory, MB",
    "unmount": "all unmounted, s",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where layer images lie, and where they are mounted."""

    images: Path
    mounts: Path


def one(place: Place, rounds: int) -> dict[str, dict[str, Samples]]:
    """Of one large layer image."""
    image, target = place.images / "layer.erofs", place.mounts / "one"
    run([COMMAND, "layer", "build", one_layer(BIG.image()), "-o", image], seconds=600)
    target.mkdir()
    found = {way: {key: Samples() for key in ONE} for way in WAYS}
    for _, way in drawn(rounds, list(WAYS)):
        settle()
        forget_pages()
        seconds = timed(partial(WAYS[way], image, target))
        try:
            for key, value in {"mount": seconds * 1000, **_read(target)}.items():
                found[way][key].add(value)
        finally:
            syscalls.unmount(str(target))
    return found


def _read(target: Path) -> dict[str, float]:
    files = [Path(folder, name) for folder, _, names in os.walk(target) for name in names]
    sizes = {path: path.stat().st_size for path in sorted(files) if path.is_file() and not path.is_symlink()}
    found = {}
    settle()
    forget_pages()
    before = cached_bytes()
    found["tree"] = timed(partial(_read_all, list(sizes)))
    found["cache"] = (cached_bytes() - before) / MB
    forget_pages()
    found["random"] = _READS / _random_seconds(sizes)
    found["direct"] = float(_reads_direct(max(sizes, key=lambda path: sizes[path])))
    text = max((path for path in sizes if path.suffix in _TEXTS), key=lambda path: sizes[path])
    _read_all([text])
    begin = time.process_time()
    for _ in range(_LINE_ROUNDS):
        with text.open("rb") as file:  # the buffer has st_blksize bytes, as in C's stdio
            for _line in file:
                pass
    return found | {"lines": (time.process_time() - begin) * 1000}


def _read_all(files: Sequence[Path]) -> None:
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 20):
                pass


def _random_seconds(sizes: Mapping[Path, int]) -> float:
    source = random.Random(7)  # noqa: S311 - nothing secret
    large = [path for path, size in sizes.items() if size > 1 << 20]
    picks = [(path, source.randrange(sizes[path] // 4096) * 4096) for path in source.choices(large, k=_READS)]
    with contextlib.ExitStack() as stack:
        handles = {path: stack.enter_context(path.open("rb", buffering=0)).fileno() for path in large}
        begin = time.perf_counter()
        for path, offset in picks:
            os.pread(handles[path], 4096, offset)
        return time.perf_counter() - begin


def _reads_direct(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError:
        return False
    try:
        with mmap.mmap(-1, 4096) as page:
            return os.preadv(handle, [page], 0) == len(page)
    except OSError:
        return False
    finally:
        os.close(handle)


def many(place: Place, layers: int, rounds: int) -> dict[str, dict[str, Samples]]:
    """Of many small ones, all mounted at a time, as on a node with many images."""
    images = [place.images / f"{number}.erofs" for number in range(layers)]
    for number, image in enumerate(images):
        write_probe_image(image, b"%d" % number)
    targets = [place.mounts / str(number) for number in range(layers)]
    for target in targets:
        target.mkdir()
    found = {way: {key: Samples() for key in MANY} for way in WAYS}
    for _, way in drawn(rounds, list(WAYS)):
        settle()
        forget_pages()
        available, threads = _available(), _kernel_threads()
        with contextlib.ExitStack() as stack:
            seconds = []
            for image, target in zip(images, targets, strict=True):
                seconds.append(timed(partial(WAYS[way], image, target)))
                stack.callback(syscalls.unmount, str(target))
            for target in targets:
                (target / "probe").read_bytes()
            values = {
                "mount": sum(seconds),
                "slowest": max(seconds) * 1000,
                "threads": _kernel_threads() - threads,
                "memory": (available - _available()) / MB,
                "unmount": timed(stack.close),
            }
        for key, value in values.items():
            found[way][key].add(value)
    return found


def _available() -> int:
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024


def _kernel_threads() -> int:
    """Children of kthreadd (pid 2)."""
    found = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            found += stat.read_text(errors="replace").rpartition(")")[2].split()[1] == "2"
    return found


@contextlib.contextmanager
def filesystem(kind: str, directory: Path) -> Iterator[Path]:
    """A directory on a new filesystem in a file of ``directory``; that itself when ``kind`` is empty."""
    if not kind:
        yield directory
        return
    disk, mounted = directory / "disk", directory / "disk-mounted"
    with disk.open("wb") as file:
        file.truncate(_DISK)
    mounted.mkdir()
    device = run([find("losetup"), "--direct-io=on", "--find", "--show", disk]).strip()
    try:
        run([find(f"mkfs.{kind}"), "-q", device])
        run([find("mount"), device, mounted])
        try:
            yield mounted
        finally:
            run([find("umount"), mounted])
    finally:
        run([find("losetup"), "--detach", device])


def render(titles: Mapping[str, str], found: Mapping[str, Mapping[str, Samples]]) -> str:
    """Markdown: the median, and the least and greatest value."""
    lines = [f"| way | {' | '.join(titles.values())} |", "|---" * (len(titles) + 1) + "|"]
    for way, figures in found.items():
        lines.append(f"| {way} | {' | '.join(_cell(figures[key].values) for key in titles)} |")
    return "\n".join(lines)


def _cell(values: Sequence[float]) -> str:
    low, high = two(min(values)), two(max(values))
    return low if low == high else f"{two(statistics.median(values))} ({low}–{high})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--read-ahead", type=int, metavar="KIB", help="of the disk (as it is)")
    parser.add_argument("--filesystem", default="", metavar="KIND", help="for example xfs, in a file on the disk")
    parser.add_argument("--layers", type=int, default=500, help="small layer images (500); 0: none")
    parser.add_argument("--output", type=Path, help="raw data, JSON")
    arguments = parser.parse_args()
    machine.restore()
    with workspace() as directory, contextlib.ExitStack() as stack:
        images = stack.enter_context(filesystem(arguments.filesystem, directory))
        place = Place(images / "images", directory / "mounts")
        place.images.mkdir()
        place.mounts.mkdir()
        if arguments.read_ahead:
            stack.enter_context(machine.read_ahead(machine.Disk.of(images), arguments.read_ahead))
        tables = {"one": one(place, arguments.rounds)}
        sys.stdout.write(f"{render(ONE, tables['one'])}\n\n")
        if arguments.layers:
            tables["many"] = many(place, arguments.layers, arguments.rounds)
            sys.stdout.write(f"{render(MANY, tables['many'])}\n\n")
        facts = machine.facts(images)
    disk = facts["disk"]
    sys.stdout.write(f"kernel {facts['kernel']}, {disk}\n")
    if arguments.output:
        data = {
            "facts": facts,
            "layers": arguments.layers,
            "tables": {
                name: {way: {key: each.data() for key, each in figures.items()} for way, figures in table.items()}
                for name, table in tables.items()
            },
        }
        arguments.output.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
