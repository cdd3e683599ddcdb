"""What the controller and a process that looks up tags send each other, as ``build_messages`` for builds."""

from __future__ import annotations

import msgspec

from imagecache.api.pull_secrets import PullSecret
from imagecache.api.tags import TagQuestion
from imagecache.controller.build_messages import Failed


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """The first and only line to the process; when its stdin ends, it stops."""

    settings: dict[str, str]
    """As flags would give them."""
    questions: tuple[TagQuestion, ...]
    secrets: tuple[PullSecret, ...] = ()
    """All that the questions name."""


class Answer(msgspec.Struct, frozen=True):
    """To one question; one line each, in any order."""

    number: int
    """Of the question, from 0 on."""
    digest: str = ""
    error: Failed | None = None
    """Why there is no digest."""


_answers = msgspec.json.Decoder(Answer)
_orders = msgspec.json.Decoder(Order)


def encode(message: Order | Answer) -> bytes:
    return msgspec.json.encode(message) + b"\n"


def decode_order(line: bytes) -> Order:
    return _orders.decode(line)


def decode_answer(line: bytes) -> Answer:
    """Raises msgspec.DecodeError."""
    return _answers.decode(line)
