"""Tags are looked up by a process of their own, as images are built: the controller itself speaks to no registry.

The process is ours (``apps.tag_process``), and lives for one batch of questions. It must not decide what is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress

import msgspec

from imagecache.api.pull_secrets import PullSecret
from imagecache.api.tags import TagQuestion
from imagecache.controller import child, tag_messages
from imagecache.controller.tag_messages import Answer, Order
from imagecache.errors import ImageCacheError, InternalError, RegistryUnavailable

PROGRAM = child.Command.of_module("imagecache.apps.tag_process")
LONGEST = 300.0
"""Seconds for a batch; what is not answered by then was not looked up."""


class ProcessTagReader:
    """``controller.dependencies.TagReader``.

    Args:
        settings: those of the program, as flags would give them.
        starter: of the processes.
        longest: seconds until it is stopped.
    """

    def __init__(self, settings: dict[str, str], *, starter: child.Starter = PROGRAM, longest: float = LONGEST) -> None:
        self._settings = settings
        self._starter = starter
        self._longest = longest

    async def read(
        self, questions: Sequence[TagQuestion], secrets: Sequence[PullSecret]
    ) -> Mapping[TagQuestion, str | ImageCacheError]:
        if not questions:
            return {}
        order = Order(settings=self._settings, questions=tuple(questions), secrets=tuple(secrets))
        late = RegistryUnavailable("the registries have not answered in time", hint="they are asked again")
        found: dict[TagQuestion, str | ImageCacheError] = dict.fromkeys(questions, late)
        with suppress(TimeoutError):  # what was answered is known
            async with asyncio.timeout(self._longest):
                await self._run(order, found)
        return found

    async def _run(self, order: Order, found: dict[TagQuestion, str | ImageCacheError]) -> None:
        left = len(order.questions)
        async with child.ordered(self._starter, tag_messages.encode(order), "tag") as lines:
            while left:
                answer = _decode(await anext(lines), len(order.questions))
                error = answer.error.exception() if answer.error is not None else None
                found[order.questions[answer.number]] = answer.digest if error is None else error
                left -= 1


def _decode(line: bytes, count: int) -> Answer:
    try:
        answer = tag_messages.decode_answer(line)
    except msgspec.DecodeError as error:
        raise InternalError("the tag process wrote a line that is not an answer") from error
    if not 0 <= answer.number < count:
        raise InternalError("the tag process answered what it was not asked")
    return answer
