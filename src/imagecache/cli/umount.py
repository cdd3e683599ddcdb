"""``imagecache umount``: undo ``imagecache mount``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from imagecache.cli.options import settings_flags
from imagecache.cli.session import Session, say


@settings_flags()
def umount(session: Session, directory: Annotated[Path, typer.Argument(metavar="DIR", help="The mountpoint.")]) -> None:
    """Undo a mount."""
    from imagecache.apps.mount import image_mounts

    image_mounts(session.settings, session.clock).unmount(directory.absolute())
    say(f"{directory} unmounted")
