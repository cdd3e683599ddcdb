"""Our own container image without any base image's registry: Debian's packages, wheels of the lock file, our wheel.

The same as ``packaging/Containerfile`` makes, without the authorities of public registries, which nothing here asks.
``./dev peers`` makes it ahead; tests and benches run everything in clusters from it. Wheels are held against the
lock's hashes.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from testkit.oci_layout import Image, ImageConfig, LayerSpec, Layout, load
from testkit.peers.programs import cache, checkout
from testkit.real_images import (
    LEVEL,
    compile_all,
    debian_image,
    fetch_wheels,
    locked,
    scratch_folder,
    share_layers,
    tree_tar,
    unpack,
    wheels_tar,
)

RECIPE = 1
"""Part of the cached name: raise it when this file makes something else."""
USER = "65532:65532"
COMMAND = "/usr/local/bin/imagecache"
_SCRIPT = """\
#!/usr/bin/python3 -I
from imagecache.cli.main import main

main()
"""
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)(?: ; (.*?))? \\$")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def own_image() -> Image:
    """From the cache, or made now. It is another one whenever the source or the lock has changed."""
    return _cached("own", _source_fingerprint(), build)


def build(directory: Path) -> Image:
    """Assemble the image as an OCI layout in ``directory``: Debian with Python, the requirements, ourselves."""
    config = ImageConfig(cmd=(), entrypoint=(COMMAND,), user=USER)
    below = _cached("requirements", _lock_fingerprint(), lambda place: _stacked(place, debian_image(), _requirements))
    return _stacked(directory, below, _ourselves, config)


def _cached(name: str, fingerprint: str, make: Callable[[Path], Image]) -> Image:
    """The newest of a kind is kept, older ones are of an older source."""
    final = cache() / "images" / f"{name}-{fingerprint}"
    with locked(name):
        if not final.exists():
            for stale in final.parent.glob(f"{name}-*"):
                shutil.rmtree(stale)
            partial = final.with_suffix(".partial")
            make(partial)
            partial.rename(final)
    return load(final)


def _stacked(
    directory: Path, below: Image, make: Callable[[Path], Iterable[Path]], config: ImageConfig | None = None
) -> Image:
    """``below`` with one more layer."""
    layout = Layout(directory)
    share_layers(layout, below)
    with scratch_folder() as folder:
        blob, diff_id = layout.add_layer(LayerSpec(_layer(folder, make), level=LEVEL))
    return layout.add_manifest([*below.layers, blob], [*below.diff_ids, diff_id], config or ImageConfig())


def _layer(folder: Path, make: Callable[[Path], Iterable[Path]]) -> Path:
    """A tar of wheels as pip would install them, compiled when this Python is the image's."""
    root = folder / "root"
    unpack(wheels_tar([*make(folder)], folder / "wheels.tar"), root)
    if make is _ourselves:
        script = root / COMMAND.lstrip("/")
        script.parent.mkdir(parents=True)
        script.write_text(_SCRIPT)
        script.chmod(0o755)
    compile_all(root)
    return tree_tar(root, sorted(path.relative_to(root) for path in root.rglob("*")), folder / "layer.tar")


def _requirements(_folder: Path) -> Iterable[Path]:
    pins = requirements()
    wheels = fetch_wheels(list(pins))
    for wheel, hashes in zip(wheels, pins.values(), strict=True):
        if hashlib.sha256(wheel.read_bytes()).hexdigest() not in hashes:
            raise AssertionError(f"{wheel} is not the one of requirements/runtime.lock")
    return wheels


def _ourselves(folder: Path) -> Iterable[Path]:
    words = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(words, cwd=checkout(), check=True, capture_output=True, timeout=120)
    return folder.glob("*.whl")


def requirements() -> Mapping[str, frozenset[str]]:
    """``name==version`` of the lock that are for Linux, each with the hashes of its files."""
    found: dict[str, frozenset[str]] = {}
    name = ""
    for line in (checkout() / "requirements" / "runtime.lock").read_text().splitlines():
        if pin := _PIN.match(line):
            name = f"{pin[1]}=={pin[2]}" if "win32" not in (pin[3] or "") else ""
        elif name and (digest := _HASH.search(line)):
            found[name] = found.get(name, frozenset()) | {digest[1]}
    return found


def _lock_fingerprint() -> str:
    lock = (checkout() / "requirements" / "runtime.lock").read_bytes()
    return hashlib.sha256(f"{RECIPE} {debian_image().descriptor.digest}".encode() + lock).hexdigest()[:16]


def _source_fingerprint() -> str:
    """Of everything that the image is made from."""
    root = checkout()
    found = hashlib.sha256(_lock_fingerprint().encode() + (root / "pyproject.toml").read_bytes())
    for path in sorted(path for path in (root / "src").rglob("*") if path.is_file() and path.suffix != ".pyc"):
        found.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()[:16]
