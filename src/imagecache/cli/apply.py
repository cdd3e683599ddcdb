"""``imagecache apply``: create, or change what exists, with progress."""

from __future__ import annotations

from imagecache.cli import manifests
from imagecache.cli.manifests import AsJson, Files, NoAttach
from imagecache.cli.options import settings_flags
from imagecache.cli.session import Session


@settings_flags(*manifests.SETTINGS)
def apply(session: Session, file: Files, no_attach: NoAttach = False, as_json: AsJson = False) -> None:
    """Create ImageCaches, or change existing ones.

    A cache that does not exist is created. One whose manifest asks for something else is built again: its old content
    serves until the new content is complete and attached, and goes on serving when the update fails.
    Ctrl-C keeps what was fetched; run the same command to resume.
    """
    manifests.for_each(
        session,
        file,
        lambda host, cache, show: host.apply(cache, attach=not no_attach, show=show),
        as_json=as_json,
    )
