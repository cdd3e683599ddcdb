"""Images from real content, made by the tests and kept in ``.cache/images`` between runs.

Each is an OCI layout whose bytes depend only on its content: owners and times are fixed. Nothing is fetched here except
by ``debian_image`` and those built on it, once per machine (``./dev peers`` does it ahead).
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from testkit.oci_layout import Compression, Image, ImageConfig, LayerSpec, Layout
from testkit.peers.programs import find

EPOCH = 1_700_000_000
"""mtime of everything that a test makes, seconds."""
APPLETS = ("sh", "cat", "echo", "ls", "sleep", "touch", "true", "find", "sha256sum", "stat", "id", "mkdir", "rm", "dd")
MOST_LAYERS = 127
"""What builders make at most. overlayfs' options for so many are longer than a page."""
PAUSE_COMMAND = ("/bin/busybox", "sleep", "1000000000")


def tar_of(files: Mapping[str, bytes | str | None], *, modes: Mapping[str, int] | None = None) -> bytes:
    """A tar from path to content: bytes are a file, text a symlink's target, None a directory. In order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, content in files.items():
            info = tarfile.TarInfo(path)
            info.mtime = EPOCH
            info.mode = (modes or {}).get(path, 0o755 if content is None else 0o644)
            _add(tar, info, content)
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, info: tarfile.TarInfo, content: bytes | str | None) -> None:
    if content is None:
        info.type = tarfile.DIRTYPE
        tar.addfile(info)
    elif isinstance(content, str):
        info.type = tarfile.SYMTYPE
        info.linkname = content
        info.mode = 0o777
        tar.addfile(info)
    else:
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))


def thin_layers(count: int) -> list[bytes]:
    """Layers with a file of their own below /srv each, for images of many layers."""
    return [tar_of({"srv": None, f"srv/deep-{number}": b"deep\n"}) for number in range(count)]


def busybox_tar() -> bytes:
    """A root filesystem of Debian's static busybox with a few applets, /tmp with mode 1777 and an /etc."""
    files: dict[str, bytes | str | None] = dict.fromkeys(["bin", "etc", "tmp", "root", "proc", "sys", "dev"])
    files["bin/busybox"] = find("busybox").read_bytes()
    files |= {f"bin/{applet}": "busybox" for applet in APPLETS}
    files["etc/passwd"] = b"root:x:0:0:root:/root:/bin/sh\n"
    files["etc/group"] = b"root:x:0:\n"
    return tar_of(files, modes={"bin/busybox": 0o755, "tmp": 0o1777, "root": 0o700})


def make_image(
    directory: Path,
    layers: Sequence[LayerSpec | bytes | Path],
    *,
    config: ImageConfig | None = None,
    docker: bool = False,
) -> Image:
    """An image in a new layout at ``directory``. A layer given as bytes or path is a tar, packed with gzip."""
    specs = [layer if isinstance(layer, LayerSpec) else LayerSpec(layer) for layer in layers]
    return Layout(directory).add_image(specs, config or ImageConfig(), docker=docker)


def busybox_image(
    directory: Path,
    *extra: LayerSpec | bytes | Path,
    compression: Compression = "gzip",
    docker: bool = False,
    config: ImageConfig | None = None,
) -> Image:
    """An image with busybox as the bottom layer, ``extra`` layers above it."""
    bottom = LayerSpec(busybox_tar(), compression)
    return make_image(directory, [bottom, *extra], docker=docker, config=config)


def pause_image(directory: Path) -> Image:
    """The image of a pod's sandbox: a busybox that sleeps."""
    return busybox_image(directory, config=ImageConfig(cmd=PAUSE_COMMAND))
