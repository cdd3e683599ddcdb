"""One check of ``doctor`` or of ``host status``, and its outcome. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from imagecache.errors import ImageCacheError


class Status(enum.IntEnum):
    """The worst of all checks decides the exit code of the command."""

    OK = 0
    WARNING = 1
    PROBLEM = 2


@dataclass(frozen=True, slots=True)
class Check:
    area: str
    """``kernel``, ``containerd``, ``store``, ``agent`` or ``host``."""
    name: str
    status: Status
    detail: str
    """What was found."""
    remedy: str = ""
    """What to do; empty when the check is ok."""


def ok(area: str, name: str, detail: str) -> Check:
    return Check(area, name, Status.OK, detail)


def warning(area: str, name: str, detail: str, remedy: str) -> Check:
    return Check(area, name, Status.WARNING, detail, remedy)


def problem(area: str, name: str, detail: str, remedy: str) -> Check:
    return Check(area, name, Status.PROBLEM, detail, remedy)


def failed(area: str, name: str, error: ImageCacheError) -> Check:
    return problem(area, name, str(error), error.hint)
