"""The service manager's side: an inherited listening socket (sd_listen_fds(3)) and readiness (sd_notify(3)).

A socket that systemd holds outlives us: while the agent restarts, containerd waits instead of failing.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

_FIRST_FD = 3


def inherited_socket(environ: MutableMapping[str, str]) -> socket.socket | None:
    """The one listening socket that was handed to this process, if any; forgotten in ``environ`` for our children."""
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit() or int(count) < 1:
        return None
    listener = socket.socket(fileno=_FIRST_FD)
    listener.set_inheritable(False)
    return listener


def notify(environ: MutableMapping[str, str], state: str) -> None:
    """Tell the service manager, if there is one. Abstract addresses begin with ``@``."""
    address = environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
