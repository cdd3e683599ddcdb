"""Look-ups of tags as a program: an order on stdin, one line of JSON for each answer on stdout.

``python -I -m imagecache.apps.tag_process``; ``controller.tag_process`` starts it. As a build's process it gets no new
privileges, no core dumps, a bound on memory, and ends when stdin does. One registry is asked for one tag at a time, and
one that is away or asks to wait is left alone for the rest of the order.
"""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence

import msgspec

from imagecache.api.pull_secrets import PullSecret
from imagecache.api.tags import TagQuestion
from imagecache.apps.build import host_credentials, registry_config
from imagecache.apps.child import until_stdin_ends
from imagecache.concurrency import run_all
from imagecache.controller import tag_messages
from imagecache.controller.build_messages import Failed
from imagecache.controller.tag_messages import Answer, Order
from imagecache.errors import ImageCacheError, RateLimited, RegistryUnavailable
from imagecache.oci.reference import Reference
from imagecache.privileges import restrict_process
from imagecache.registry.client import RegistryClient
from imagecache.registry.credentials import CredentialChain
from imagecache.settings.load import load
from imagecache.settings.table import Settings
from imagecache.telemetry import log

MEMORY = 512 << 20
"""Bytes of data (RLIMIT_DATA)."""
REGISTRIES = 4
"""Asked at the same time."""

Send = Callable[[Answer], None]
_Asked = tuple[int, Reference]
"""Number of the question, and its image."""


class TagReader:
    """The questions of one order."""

    def __init__(self, settings: Settings, secrets: Mapping[str, PullSecret], send: Send) -> None:
        self._settings = settings
        self._secrets = secrets
        self._send = send
        self._slots = asyncio.Semaphore(REGISTRIES)
        self._away: dict[str, ImageCacheError] = {}
        """Why a registry is not asked any more, by its host."""

    async def read(self, questions: Sequence[TagQuestion]) -> None:
        """Answers every one."""
        hosts: dict[str, dict[TagQuestion, list[_Asked]]] = {}
        for number, question in enumerate(questions):
            reference = Reference.parse(question.image)
            who = msgspec.structs.replace(question, image="")
            hosts.setdefault(reference.host, {}).setdefault(who, []).append((number, reference))
        await run_all(*map(self._ask, hosts.values()))

    async def _ask(self, asked: Mapping[TagQuestion, Sequence[_Asked]]) -> None:
        """One registry, with one connection for those who ask in the same way."""
        async with self._slots:
            for who, own in asked.items():
                try:
                    async with self._client(who) as client:
                        for number, reference in own:
                            self._send(await self._answer(client, number, reference))
                except ImageCacheError as error:  # a secret that cannot be read
                    for number, _reference in own:
                        self._send(Answer(number, error=Failed.of(error)))

    def _client(self, who: TagQuestion) -> RegistryClient:
        config = registry_config(self._settings, who.plain_http, who.insecure)
        secrets = [self._secrets[name] for name in who.secrets]
        # not tried again: that is what the next look-up is for
        config = dataclasses.replace(config, attempts=1)
        return RegistryClient(config, CredentialChain(host_credentials(secrets, None)))

    async def _answer(self, client: RegistryClient, number: int, reference: Reference) -> Answer:
        error = self._away.get(reference.host)
        if error is None:
            try:
                return Answer(number, str(await client.digest(reference)))
            except ImageCacheError as found:
                error = found
                if isinstance(error, RegistryUnavailable | RateLimited):
                    self._away[reference.host] = error
        return Answer(number, error=Failed.of(error))


async def run(order: Order, send: Send) -> None:
    settings = load(dict(order.settings), {})
    log.configure(log_format=settings.log_format.value, level="warning")
    await TagReader(settings, {secret.name: secret for secret in order.secrets}, send).read(order.questions)


async def supervise(order: Order, send: Send) -> None:
    """``run`` until it ends or the controller is gone; what then has no answer has none."""
    error = await until_stdin_ends(run(order, send))
    if error is not None:
        log.get_logger(__name__).error("looking up tags failed for a reason that is ours", exc_info=error)


def write(answer: Answer) -> None:
    sys.stdout.buffer.write(tag_messages.encode(answer))
    sys.stdout.buffer.flush()


def main() -> None:
    restrict_process(MEMORY)
    asyncio.run(supervise(tag_messages.decode_order(sys.stdin.buffer.readline()), write))


if __name__ == "__main__":
    main()
