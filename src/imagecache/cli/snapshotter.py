"""``imagecache snapshotter``: the proxy snapshotter alone."""

from __future__ import annotations

from contextlib import suppress

from imagecache.cli.options import settings_flags
from imagecache.cli.session import Session, run
from imagecache.errors import Interrupted


@settings_flags("agent_root", "agent_socket", renamed={"agent_root": "--root", "agent_socket": "--address"})
def snapshotter(session: Session) -> None:
    """Run the proxy snapshotter alone."""
    with suppress(Interrupted):
        run(session.application(service=True).services().snapshotter())
