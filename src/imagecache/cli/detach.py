"""``imagecache detach``: remove the records of a cache's images from containerd."""

from __future__ import annotations

from typing import Annotated

import typer

from imagecache.cli.names import complete
from imagecache.cli.options import settings_flags
from imagecache.cli.session import Session, run, say


@settings_flags("address", "namespace", "mode", "snapshotter")
def detach(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="An attached ImageCache.", autocompletion=complete)],
) -> None:
    """Remove images from containerd.

    Running containers are untouched, and so is the cache.
    """
    for image in run(session.host().detach(name)):
        say(f"{image} detached")
