"""When the same images are built anew: a new value of one annotation, or a schedule in another.

A tag is resolved when a cache is built, and stays until the next build. The value becomes part of what is asked for
(``building.wanted``) and of the bundle, so that a bundle says itself which refresh it is of. Of a schedule nothing is
remembered: a bundle that is older than the schedule's last time is overdue (``building.overdue``). It must not read a
clock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from imagecache.api import annotations as known
from imagecache.api import schedule as cron
from imagecache.api.nodes import REFRESH, REFRESH_SCHEDULE
from imagecache.api.schedule import Schedule
from imagecache.errors import InvalidInput
from imagecache.written import refusal


def revision(annotations: Mapping[str, str]) -> str:
    """Of the content that is asked for: another one for each value; empty without one.

    A fingerprint: the text is anybody's, and is stored where it is not expected.
    """
    value = known.value(annotations, REFRESH)
    return hashlib.sha256(value.encode()).hexdigest()[:16] if value else ""


def schedule(annotations: Mapping[str, str]) -> tuple[Schedule | None, str]:
    """The schedule if there is one that can be read, and what is wrong if it cannot.

    A mistake in it is a mistake in nothing else: the cache is built, serves and can be refreshed by hand.
    """
    text = known.value(annotations, REFRESH_SCHEDULE)
    if not text:
        return None, ""
    try:
        return cron.parse(text), ""
    except InvalidInput as error:
        message = f"{known.field(REFRESH_SCHEDULE)}: {text[:80]!r} is no schedule: {error}"
        return None, f"{refusal(message, text, blanks=True)}; {error.hint}"
