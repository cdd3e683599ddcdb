"""Run work of one cache so that its failure stops nothing else. It must not decide whether the work is tried again."""

from __future__ import annotations

from collections.abc import Awaitable

from imagecache.errors import ImageCacheError, InternalError
from imagecache.telemetry.log import get_logger

_log = get_logger(__name__)


async def failure_of(work: Awaitable[None]) -> ImageCacheError | None:
    """Wait for the work and return how it failed; a bug becomes an InternalError. Cancelling passes through."""
    try:
        await work
    except ImageCacheError as error:
        return error
    except Exception as error:  # noqa: BLE001 - a supervisor: a bug that one cache meets must not stop the others
        _log.exception("unexpected failure")
        return InternalError(f"{type(error).__name__}: {error}", hint="please report it, with the agent's log")
    return None
