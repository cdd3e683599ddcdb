"""Keep the agent's loop running: start it again when it could not start, when it has ended, and for new credentials.

On a host the agent starts before its kubeconfig exists: the first Pod on the node writes it, and later ones replace it.
It must not know what it starts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from imagecache.backoff import Backoff, Retries
from imagecache.errors import ImageCacheError
from imagecache.file_version import FileVersion, file_version
from imagecache.telemetry.log import get_logger

PAUSE = 5.0
"""Seconds until the loop is started again, and between two looks at the kubeconfig."""
_log = get_logger(__name__)


async def keep_running(run: Callable[[], Awaitable[None]], *, pause: float = PAUSE) -> None:
    """Call ``run`` again and again until cancelled; a failure is logged once, and a bug stops nothing."""
    retries = Retries(Backoff(pause, pause), _log, "not in the cluster yet")
    while True:
        try:
            await run()
            retries.succeeded()
        except ImageCacheError as error:
            retries.failed(error)
        except Exception as error:
            if asyncio.current_task().cancelling():  # type: ignore[union-attr]  # we are inside a task
                raise  # a failure while we clean up must not undo the cancellation
            _log.exception("the agent's loop ended unexpectedly and is started again", kind=type(error).__name__)
        await asyncio.sleep(pause)


async def until_replaced(kubeconfig: str, version: FileVersion | None, *, pause: float = PAUSE) -> None:
    """Return when the file is another version, or never for an empty path.

    Tokens and certificates in files of their own are read again by the connection, without a restart. A file that is
    missing is about to be written, so it counts as unchanged.
    """
    while not kubeconfig or file_version(kubeconfig) in {version, None}:  # noqa: ASYNC110 - a file has no event
        await asyncio.sleep(pause)
