"""The containerd process behind a socket, and the configuration that it makes of all its files.

The kernel says who listens (SO_PEERCRED), /proc says with which program and arguments, and that program prints its own
effective configuration. Only ``doctor`` needs this; where it cannot be found out, nothing is claimed. It must not
change anything.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path

from imagecache.toml import Table

_SECONDS = 10
_DEFAULT_CONFIG = Path("/etc/containerd/config.toml")


@dataclass(frozen=True, slots=True)
class Daemon:
    pid: int
    config: Path
    """Main configuration file that it was started with."""


def listening_at(address: Path) -> Daemon | None:
    """Who listens at the socket; None when nobody does, or it is out of sight (another PID namespace)."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(address))
        credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid, _, _ = struct.unpack("3i", credentials)
        if pid > 0:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            return Daemon(pid, Path(f"/proc/{pid}/cwd").readlink() / config_argument(words))
    return None


def config_argument(words: list[str]) -> Path:
    """The configuration file in containerd's command line."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name in ("-c", "--config", "-config"):
            return Path(value if equals else following)
    return _DEFAULT_CONFIG


def effective_config(daemon: Daemon) -> Table | None:
    """What containerd makes of its files, defaults included; None when it does not say."""
    argv = [f"/proc/{daemon.pid}/exe", "--config", str(daemon.config), "config", "dump"]
    with contextlib.suppress(OSError, subprocess.SubprocessError, tomllib.TOMLDecodeError):
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_SECONDS, check=True)
        return tomllib.loads(done.stdout)
    return None
