"""``imagecache detach``: take the records of a cache's images out of containerd again."""

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
    """Take images out of containerd.

    Running containers are untouched, and so is the cache.
    """
    for image in run(session.application().controller().detach(name)):
        say(f"{image} detached")
