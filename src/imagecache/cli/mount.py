"""``imagecache mount``: mount an image's root filesystem read-only, straight from the store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from imagecache.cli.options import settings_flags
from imagecache.cli.session import Session, say


@settings_flags("inode_numbers")
def mount(
    session: Session,
    image: Annotated[
        str, typer.Argument(metavar="IMAGE", help="A reference of any Ready cache, as written in it or in full.")
    ],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="An existing directory.")],
) -> None:
    """Mount an image read-only.

    The tree is the one that a container sees.
    """
    from imagecache.apps.mount import image_mounts

    bundle, mounted = image_mounts(session.settings, session.clock).mount(image, directory.absolute())
    say(f"{mounted.reference} mounted at {directory.absolute()} ({len(mounted.layers)} layers, {bundle.id})")
