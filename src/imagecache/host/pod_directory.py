"""The one directory of the host that the keeper may write, the Pod of the DaemonSet that stays: how root uses it.

The keeper is an unprivileged process in a container, and may be anybody's. Whatever is in the directory is untrusted:
a name that is not expected is ignored, and a file counts only when it is a regular one of the keeper's, of bounded
size, with a name that is no link. The directory itself is root's to make and to remove, below one that root alone can
enter. It must not know what the files mean.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from imagecache.errors import HostError, PrivilegeMissing
from imagecache.oserrors import from_os_error

STATE = Path("/run/imagecache")
POD = STATE / "pod"
LEAVE = "leave"
"""Name of the file with which the keeper asks the host to leave; the agent looks for it."""
KEEPER = 2104061283
"""User and group of the keeper: it sees the host's processes, and none may be its own. Above what FreeIPA, SSSD and
systemd-nspawn take by themselves."""
POD_FILE_BYTES = 1 << 20
"""What a Secret may have, and so a bundle of authorities in one."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class PodFileRefused(HostError):
    """A file of the keeper's directory is not what it may be. Its text is in no error."""


def refusal(name: str, why: str) -> PodFileRefused:
    return PodFileRefused(f"{POD / name} is {why}", hint="delete the Pod of the agents on this node")


@dataclass(frozen=True, slots=True)
class PodDirectory:
    """``root`` is where the host's filesystem is mounted for us. Raises HostError, PrivilegeMissing, StoreError."""

    root: Path = Path("/")
    owner: int = KEEPER

    @property
    def path(self) -> Path:
        return self.root / POD.relative_to("/")

    def make(self) -> None:
        """For its owner alone, whoever has made it, and empty: what asks us to leave was asked before.

        With a filesystem of its own there it is empty already.
        """
        with self._converted():
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.parent.chmod(0o700)  # kubelet makes what it is to mount, and all above, for everybody
            with self._opened() as directory:
                os.fchown(directory, 0, 0)  # nothing can be put beside what is being removed
                os.fchmod(directory, 0o700)
                for name in _names(directory):
                    _remove(name, directory)
                if _names(directory):
                    raise HostError(f"{POD} cannot be emptied", hint=f"rm -rf {POD}, or the next boot, does it")
                os.fchown(directory, self.owner, self.owner)

    def asks(self) -> bool:
        """Whether the keeper asks us to leave: by anything of that name."""
        try:
            with self._opened() as directory:
                os.stat(LEAVE, dir_fd=directory, follow_symlinks=False)
        except OSError:
            return False
        return True

    def forget_request(self) -> None:
        """Remove the file that asks us to leave, by which the keeper sees that it was heard."""
        with contextlib.suppress(OSError), self._opened() as directory:
            os.unlink(LEAVE, dir_fd=directory)

    def read(self, name: str) -> str | None:
        """Text of a file; None when it does not exist. Raises PodFileRefused for what is no such file.

        A device or a FIFO is not even opened: a path of its own kind (O_PATH) is looked at first. Nothing waits for a
        lease that the keeper may have on a file (fcntl(2), F_SETLEASE): that file is refused.
        """
        with self._converted():
            try:
                with self._opened() as directory:
                    looked = os.open(name, _LOOK, dir_fd=directory)
            except FileNotFoundError:
                return None
            try:
                found = os.fstat(looked)
                why = self._why_not(found)
                if why:
                    raise refusal(name, why)
                data = _content(f"/proc/self/fd/{looked}")  # of the inode that was looked at
            except BlockingIOError:
                raise refusal(name, "held by a lease") from None
            finally:
                os.close(looked)
        if len(data) > POD_FILE_BYTES or not data.isascii():
            raise refusal(name, "too large, or no text")
        return data.decode("ascii")

    def _why_not(self, found: os.stat_result) -> str:
        if not stat.S_ISREG(found.st_mode):
            return "no regular file"
        if found.st_uid != self.owner or found.st_nlink > 1:
            return "not the keeper's own"
        return f"larger than {POD_FILE_BYTES} bytes" if found.st_size > POD_FILE_BYTES else ""

    def remove(self) -> None:
        """Take it from its owner, then remove it, as far as that is possible: it is in memory."""
        with contextlib.suppress(OSError, RecursionError):
            with self._opened() as directory:
                os.fchown(directory, 0, 0)
            shutil.rmtree(self.path, ignore_errors=True)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        descriptor = os.open(self.path, _DIRECTORY)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _converted(self) -> Iterator[None]:
        try:
            yield
        except PermissionError as error:
            raise PrivilegeMissing(f"no permission to use {error.filename}", hint="run as root") from error
        except OSError as error:
            raise from_os_error(error, error.filename or self.path) from error


def _names(directory: int) -> list[str]:
    with os.scandir(directory) as entries:
        return [entry.name for entry in entries]


def _remove(name: str, directory: int) -> None:
    """As far as that is possible: a link, and not what it leads to. ``directory`` is a descriptor."""
    try:
        os.unlink(name, dir_fd=directory)
    except IsADirectoryError:
        with contextlib.suppress(RecursionError):  # a tree may be as deep as there is memory
            shutil.rmtree(name, ignore_errors=True, dir_fd=directory)


def _content(path: str) -> bytes:
    """Of a regular file, one byte more than may be taken at most. Raises BlockingIOError."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123 - a descriptor
        return file.read(POD_FILE_BYTES + 1)
