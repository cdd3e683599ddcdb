"""``imagecache delete``: delete object and bundle; layers in use stay until they are released."""

from __future__ import annotations

from typing import Annotated

import typer

from imagecache.cli.names import complete
from imagecache.cli.options import settings_flags
from imagecache.cli.session import Session, note, run, say


@settings_flags("address", "namespace", "mode", "snapshotter")
def delete(
    session: Session,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="What to delete.", autocompletion=complete)],
    force: Annotated[bool, typer.Option("--force", help="Go on when containerd does not answer.")] = False,
) -> None:
    """Delete ImageCaches.

    Layers that another cache, a build or a container needs stay until released; running containers are untouched.
    """
    from imagecache.api.types import RESOURCE

    host = session.host()
    for name in names:
        deleted = run(host.delete(name, force=force))
        say(f'{RESOURCE} "{name}" deleted')
        for layer, reasons in deleted.kept:
            note(f"{layer} stays: {', '.join(reasons)}")
