"""Make the images of tests and benches ahead, so that those need no network.

``./dev peers`` and ``./dev demo`` call it.
"""

from __future__ import annotations

import sys
import time

from bench.images import IMAGES
from testkit import own_image, real_images

MAKERS = {
    **{image.key: image.make for image in IMAGES.values()},
    "builders": real_images.builders_image,
    "debian": real_images.debian_image,
    "python": real_images.python_image,
    "big": real_images.big_image,
    "tools": real_images.tools_image,
    "own": own_image.own_image,
}


def main(names: list[str]) -> None:
    for name in names:
        started = time.monotonic()
        image = MAKERS[name]()
        seconds = time.monotonic() - started
        if seconds > 1:
            size = image.size / 1e6
            print(f"[dev] made the image '{name}' ({size:.0f} MB compressed) in {seconds:.0f} s", file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
