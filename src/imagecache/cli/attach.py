"""``imagecache attach``: make a cache's images usable in this node's containerd, without a pull."""

from __future__ import annotations

from typing import Annotated

import typer

from imagecache.cli.names import complete
from imagecache.cli.options import settings_flags
from imagecache.cli.session import Session, run, say


@settings_flags("address", "namespace", "mode", "snapshotter", "allow_private_names", "reserved_names", "also_unpack")
def attach(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A Ready ImageCache.", autocompletion=complete)],
) -> None:
    """Make images usable in containerd."""
    from imagecache.cli.progress import not_attached, other_snapshotters

    attached = run(session.host().attach(name))
    for image in attached.images:
        say(f"{image} attached")
    for image in attached.withheld:
        say(f"{image} layers attached, name withheld (private: containers need their own credential)")
    for image in attached.unverified:
        say(f"{image} layers attached, name withheld (its registry is not verified: see insecure_registries)")
    for image in attached.reserved:
        say(f"{image} layers attached, name withheld (no cache may record it: see reserved_names)")
    for line in (*not_attached(attached), *other_snapshotters(attached)):
        say(line)
