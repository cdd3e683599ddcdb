"""The image that the probe looks at: Debian with its programs, and a layer with one file for each question.

Questions that write have a file of their own, since a file that was written once is another file to overlayfs.
"""

from __future__ import annotations

import struct
from pathlib import Path

from testkit.images import EPOCH
from testkit.oci_layout import Image, ImageConfig, LayerSpec, Layout
from testkit.peers.programs import find
from testkit.real_images import tools_image
from testkit.tars import CAPABILITY, DIRECTORY, LINK, Entry, tar

PROGRAM = ("env", "PYTHONPATH=/opt", "PYTHONDONTWRITEBYTECODE=1", "python3", "-m", "inside")
"""Prints the answers of the phase that is its argument. Bytecode would be written anew beside the files of the image,
by the programs that it starts too."""
_WRITTEN = ("mapped", "read", "remembered", "watched", "locked", "leased", "renamed", "linked", "attributes")
_LINKS = ("link", "written-link")
_FOLDERS = ("three", "three/a", "three/b", "three/c", "folder", "moved", "replaced", "watched-folder", "noted-folder")
_INSIDE = ("folder", "moved", "replaced")
_ACL_ENTRIES = ((1, 6, 2**32 - 1), (2, 4, 1000), (4, 4, 2**32 - 1), (16, 4, 2**32 - 1), (32, 4, 2**32 - 1))
_ACL = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in _ACL_ENTRIES)
"""``user::rw- user:1000:r-- group::r-- mask::r-- other::r--`` as the kernel stores it (posix_acl_xattr.h)."""


def probe_image(directory: Path) -> Image:
    """In a new layout at ``directory``."""
    below = tools_image()
    layout = Layout(directory)
    for blob in below.layers:
        (directory / "blobs" / "sha256" / blob.digest.hex).symlink_to(below.blob(blob.digest))
    blob, diff_id = layout.add_layer(LayerSpec(_layer()))
    return layout.add_manifest([*below.layers, blob], [*below.diff_ids, diff_id], ImageConfig())


def _layer() -> bytes:
    # busybox takes the next word for the applet where its own name begins with busybox
    program = find("busybox").read_bytes()
    inside = sorted((Path(__file__).parent / "inside").glob("*.py"))
    return tar(
        Entry(b"opt/", DIRECTORY, mode=0o755, mtime=EPOCH),
        Entry(b"opt/inside/", DIRECTORY, mode=0o755, mtime=EPOCH),
        *(Entry(f"opt/inside/{path.name}".encode(), content=path.read_bytes(), mtime=EPOCH) for path in inside),
        Entry(b"probe/", DIRECTORY, mode=0o755, mtime=EPOCH),
        *(Entry(f"probe/{name}/".encode(), DIRECTORY, mode=0o755, mtime=EPOCH) for name in _FOLDERS),
        *(Entry(f"probe/{name}/inside".encode(), content=b"inside\n", mtime=EPOCH) for name in _INSIDE),
        *(Entry(f"probe/{name}".encode(), content=b"old content\n" * 1000, mtime=EPOCH) for name in _WRITTEN),
        *(Entry(f"probe/{name}-1".encode(), content=b"old content\n", mtime=EPOCH) for name in _LINKS),
        *(Entry(f"probe/{name}-2".encode(), LINK, target=f"probe/{name}-1".encode(), mtime=EPOCH) for name in _LINKS),
        Entry(b"probe/tiny", content=b"tiny\n", mtime=EPOCH, pax={b"mtime": b"%d.123456789" % EPOCH}),
        Entry(b"probe/direct", content=b"0123456789abcdef" * 4096, mtime=EPOCH),
        Entry(b"probe/noted", content=b"noted\n", mtime=EPOCH, pax={b"SCHILY.xattr.user.note": b"value"}),
        Entry(b"probe/acl", content=b"acl\n", mtime=EPOCH, pax={b"SCHILY.xattr.system.posix_acl_access": _ACL}),
        Entry(b"probe/busybox-running", content=program, mode=0o755, mtime=EPOCH),
        Entry(
            b"probe/busybox-capable",
            content=program,
            mode=0o755,
            mtime=EPOCH,
            pax={b"SCHILY.xattr.security.capability": CAPABILITY},
        ),
    )
