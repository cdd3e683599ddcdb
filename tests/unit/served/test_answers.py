"""What a request is answered when something in the server itself goes wrong."""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from imagecache.digest import Digest
from imagecache.errors import StoreBusy
from imagecache.served.admission import Admission
from imagecache.served.answers import Answers
from imagecache.served.auth import Gate, GateSettings
from imagecache.served.directory import StoreReader
from imagecache.served.routes import Answer, Request
from imagecache.served.turns import Turns
from imagecache.store.model import LayerName, Space
from imagecache.store.store import Store
from imagecache.testing.clock import FakeClock
from imagecache.testing.served import AGENT, TableReviewer
from imagecache.testing.store import put_layer

WORDS = "agent-token"


class Broken(StoreReader):
    """Has a bug."""

    def ready(self) -> None:
        raise ValueError(WORDS)


def admission() -> Admission:
    gate = Gate(TableReviewer({WORDS: AGENT}), FakeClock(), GateSettings(frozenset({AGENT})))
    return Admission(gate, asyncio.get_running_loop(), 60)


def turns() -> Turns:
    return Turns(1, waiting=0, patience=1, piece=1000)


def body_of(answer: Answer) -> dict[str, str]:
    return dict(json.loads(b"".join(answer.body)))


async def test_a_bug_is_told_without_what_the_reader_sent(tmp_path: Path) -> None:
    answers = Answers(Broken(tmp_path), admission(), turns(), turns(), lambda _count: None)
    request = Request("GET", "/readyz", {"authorization": f"Bearer {WORDS}"})

    with capture_logs() as logs, ExitStack() as held:
        answer = answers.answer(request, held)
        body = body_of(answer)

    assert (answer.status, body["reason"]) == (500, "InternalError")
    (line,) = logs
    assert (line["path"], line["kind"]) == ("/readyz", "ValueError")
    assert "test_answers.py:" in line["at"]
    assert WORDS not in repr(logs) + repr(body)


async def test_what_went_out_is_told(store: Store) -> None:
    content = bytes(range(250)) * 10
    name = LayerName(space=Space.LAYERS, digest=Digest.sha256(content))
    put_layer(store, name, content)
    told: list[int] = []
    answers = Answers(StoreReader(store.root), admission(), turns(), turns(), told.append)
    request = Request("GET", f"/v1/layers/{name}", {"authorization": f"Bearer {WORDS}", "range": "bytes=100-"})

    def read() -> bytes:
        with ExitStack() as held:
            return b"".join(bytes(piece) for piece in answers.answer(request, held).body)

    assert await asyncio.to_thread(read) == content[100:]
    assert told == [1000, 1000, 400]


async def test_nobody_is_let_in_any_more() -> None:
    door = admission()
    await asyncio.to_thread(door.admit, f"Bearer {WORDS}")

    door.close()

    with pytest.raises(StoreBusy, match="stops"):
        await asyncio.to_thread(door.admit, f"Bearer {WORDS}")
