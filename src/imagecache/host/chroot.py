"""Work done inside the filesystem of the host, seen from a container: configuration files name paths of the host."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

from imagecache.errors import InternalError, PrivilegeMissing

_T = TypeVar("_T")


def in_root(root: Path, work: Callable[[], _T]) -> _T:
    """The result of ``work``, done in a process whose / is ``root``, where absolute paths and links of the host work.

    ``work`` must not import modules: they do not exist below ``root``. Raises what it raises, and PrivilegeMissing.
    """
    if root == Path("/"):
        return work()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        with open(writer, "wb") as out:  # noqa: PTH123 - a descriptor
            out.write(pickle.dumps(_outcome(root, work)))
        os._exit(0)  # no cleanup: it is the parent's
    os.close(writer)
    with open(reader, "rb") as source:  # noqa: PTH123 - a descriptor
        data = source.read()
    os.waitpid(child, 0)
    if not data:
        raise InternalError(f"the process inside {root} ended without a result")
    outcome: tuple[bool, object] = pickle.loads(data)  # noqa: S301 - our own child's
    succeeded, value = outcome
    if not succeeded:
        raise cast("BaseException", value)
    return cast("_T", value)


def _outcome(root: Path, work: Callable[[], object]) -> tuple[bool, object]:
    try:
        os.chroot(root)
        os.chdir("/")  # chroot(2) leaves the working directory outside
    except PermissionError:
        return False, PrivilegeMissing(f"no permission to enter {root}", hint="run as root")
    try:
        return True, work()
    except Exception as error:  # noqa: BLE001 - raised again by the parent
        return False, error
