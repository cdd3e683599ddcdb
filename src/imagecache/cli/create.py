"""``imagecache create``: validate, build, attach, with progress."""

from __future__ import annotations

from imagecache.cli import manifests
from imagecache.cli.manifests import AsJson, Files, NoAttach
from imagecache.cli.options import settings_flags
from imagecache.cli.session import Session


@settings_flags(*manifests.SETTINGS)
def create(session: Session, file: Files, no_attach: NoAttach = False, as_json: AsJson = False) -> None:
    """Build and attach ImageCaches.

    Pulls the images of each manifest once, makes every layer mountable, and records them in containerd.
    Ctrl-C keeps what was fetched; run the same command to resume.
    """
    manifests.for_each(
        session,
        file,
        lambda host, cache, show: host.create(cache, attach=not no_attach, show=show),
        as_json=as_json,
    )
