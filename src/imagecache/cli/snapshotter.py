"""``imagecache snapshotter``: the proxy snapshotter alone."""

from __future__ import annotations

from contextlib import suppress

from imagecache.cli.options import settings_flags
from imagecache.cli.session import Session, run
from imagecache.errors import Interrupted


@settings_flags(
    "agent_root",
    "agent_socket",
    "inode_numbers",
    renamed={"agent_root": "--root", "agent_socket": "--address"},
    service=True,
)
def snapshotter(session: Session) -> None:
    """Run the proxy snapshotter alone, without the agent's other duties."""
    from imagecache.apps import snapshotter as process

    with suppress(Interrupted):
        run(process.run(session.settings, session.clock))
