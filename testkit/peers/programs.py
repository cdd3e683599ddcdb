"""Where the programs are that the tests run. A missing one is an error with the command that installs it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SYSTEM_PATHS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


class MissingPeer(Exception):
    """A program that tests need is not installed."""


class PeerFailed(Exception):
    """A real part ended, or did not get ready; the message has the end of its log."""


def checkout() -> Path:
    """The root of the checkout that this file is in."""
    return Path(__file__).resolve().parents[2]


def cache() -> Path:
    """Where built programs, wheels and images are kept between runs; ``IMAGECACHE_PEERS`` moves it."""
    return Path(os.environ.get("IMAGECACHE_PEERS", checkout() / ".cache"))


def containerd_24() -> Path:
    """The directory with containerd, ctr and the shim of containerd 2.4, made by ``./dev peers``."""
    return cache() / "peers" / "containerd-2.4" / "bin"


def nerdctl() -> Path:
    """Made by ``./dev peers``. Raises MissingPeer."""
    return find("nerdctl", before=[cache() / "peers" / "nerdctl" / "bin"])


def find(name: str, *, before: Sequence[Path] = ()) -> Path:
    """The program ``name``, looked for in ``before`` and then where Debian puts programs. Raises MissingPeer."""
    path = os.pathsep.join([*map(str, before), *SYSTEM_PATHS])
    found = shutil.which(name, path=path)
    if found is None:
        raise MissingPeer(f"{name} is not in {path}: run ./dev peers, which installs it")
    return Path(found)


def environment(*, before: Sequence[Path] = ()) -> dict[str, str]:
    """A small, fixed environment for real parts: nothing of the developer's own settings reaches them."""
    path = os.pathsep.join([*map(str, before), *SYSTEM_PATHS])
    return {"PATH": path, "HOME": "/nonexistent", "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def run(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    seconds: float = 120,
) -> str:
    """Run a program to its end and return what it printed. Raises PeerFailed with its messages."""
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(
            words,
            env=dict(env or environment()),
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise PeerFailed(f"{' '.join(words)} took more than {seconds:.0f} s") from error
    if done.returncode:
        raise PeerFailed(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout
