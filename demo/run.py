"""The README's first command: what imagecache does, on real parts, in about half a minute.

A private registry and two containerds in a temporary directory: one pulls the image as usual, the other gets an
ImageCache. Then the registry is switched off and a container starts from the cache. Everything is gone afterwards.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testkit.images import pause_image
from testkit.peers.containerd import Containerd
from testkit.peers.cri import Cri
from testkit.peers.node import CachingNode
from testkit.peers.registry import Registry
from testkit.peers.workspace import workspace
from testkit.real_images import python_image

_PROGRAM = ["python3", "-c", "import numpy, sys; print('python', sys.version.split()[0], 'numpy', numpy.__version__)"]


def say(text: str) -> None:
    sys.stdout.write(f"\n\033[1m{text}\033[0m\n" if sys.stdout.isatty() else f"\n{text}\n")
    sys.stdout.flush()


class Times:
    """What took how long, in seconds."""

    def __init__(self) -> None:
        self.taken: dict[str, float] = {}

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.taken[name] = time.perf_counter() - start

    def row(self, text: str, name: str) -> str:
        return f"  {text:<58}{self.taken[name]:>9.3f} s\n"


async def start(address: Path, image: str, times: Times, name: str) -> str:
    """A container of ``image`` that is there already; until its program has answered."""
    async with Cri(address) as cri:
        with times.measure(name):
            return await cri.run(image, _PROGRAM)


async def pull(address: Path, image: str) -> None:
    async with Cri(address) as cri:
        await cri.pull(image)


def main() -> None:
    times = Times()
    with workspace() as directory, Registry(directory / "registry") as registry:
        say("A private registry with a real image (Debian, Python, numpy, pandas):")
        image = python_image()
        reference = registry.push("team/app:1.4", image)
        pause = registry.push("pause:1", pause_image(directory / "pause"))
        sys.stdout.write(f"  {reference}  {image.size / 1e6:.0f} MB compressed, {len(image.layers)} layers\n")

        say("An ordinary node pulls it and starts a container:")
        with Containerd(directory / "ordinary", sandbox_image=pause) as ordinary:
            asyncio.run(pull(ordinary.address, pause))
            with times.measure("pull"):
                asyncio.run(pull(ordinary.address, reference))
            answer = asyncio.run(start(ordinary.address, reference, times, "ordinary start"))
        sys.stdout.write(times.row("pull", "pull") + f"  the container says: {answer}")

        with CachingNode(directory / "node", sandbox_image=pause) as node:
            asyncio.run(pull(node.address, pause))
            manifest = node.manifest("imagecache-sample", [reference], imageCacheSize=25, retentionDays=7)
            say(f"A node with imagecache: imagecache create -f {manifest.name}")
            with times.measure("create"):
                node.show("create", "-f", manifest)
            node.show("get")

            say("The registry is switched off. A container from the cache:")
            registry.stop()
            answer = asyncio.run(start(node.address, reference, times, "cached start"))
            sys.stdout.write(f"  the container says: {answer}")
            with times.measure("detach"):
                node.command("detach", "imagecache-sample")
            with times.measure("attach"):
                node.command("attach", "imagecache-sample")
            say("imagecache delete imagecache-sample")
            node.show("delete", "imagecache-sample")
        report(times)


def report(times: Times) -> None:
    say("Side by side:")
    sys.stdout.write(times.row("ordinary pull and unpack, once on every node", "pull"))
    sys.stdout.write(times.row("building the cache, once", "create"))
    sys.stdout.write(times.row("attach on a node, any image size (the whole command)", "attach"))
    sys.stdout.write(times.row("start and answer, after the pull", "ordinary start"))
    sys.stdout.write(times.row("start and answer, from the cache, registry off", "cached start"))


if __name__ == "__main__":
    main()
