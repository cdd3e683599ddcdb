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
from imagecache.served.bounded_queue import BoundedQueue
from imagecache.served.partial_layers import PartialLayerSettings
from imagecache.served.routes import Answer, Request
from imagecache.served.store_reader import StoreReader
from imagecache.store.model import LayerName, Space
from imagecache.store.store import Store
from testkit.clock import FakeClock
from testkit.partial_layer import NO_HEAD, PartialLayerWriter
from testkit.served import AGENT, TableReviewer
from testkit.store import put_layer

WORDS = "agent-token"
CONTENT = bytes(range(250)) * 10
NAME = LayerName(space=Space.LAYERS, digest=Digest.sha256(CONTENT))


class Broken(StoreReader):
    """Has a bug."""

    def ready(self) -> None:
        raise ValueError(WORDS)


def admission() -> Admission:
    gate = Gate(TableReviewer({WORDS: AGENT}), FakeClock(), GateSettings(frozenset({AGENT})))
    return Admission(gate, asyncio.get_running_loop(), 60)


def turns() -> BoundedQueue:
    return BoundedQueue(1, waiting=0, patience=1, piece=1000)


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
    put_layer(store, NAME, CONTENT)
    told: list[int] = []
    answers = Answers(StoreReader(store.root), admission(), turns(), turns(), told.append)
    request = Request("GET", f"/v1/layers/{NAME}", {"authorization": f"Bearer {WORDS}", "range": "bytes=100-"})

    def read() -> bytes:
        with ExitStack() as held:
            return b"".join(bytes(piece) for piece in answers.answer(request, held).body)

    assert await asyncio.to_thread(read) == CONTENT[100:]
    assert told == [1000, 1000, 400]


async def test_nobody_is_let_in_any_more() -> None:
    door = admission()
    await asyncio.to_thread(door.admit, f"Bearer {WORDS}")

    door.close()

    with pytest.raises(StoreBusy, match="stops"):
        await asyncio.to_thread(door.admit, f"Bearer {WORDS}")


async def ask(answers: Answers, path: str, wanted: str) -> tuple[Answer, bytes]:
    def read() -> tuple[Answer, bytes]:
        with ExitStack() as held:
            answer = answers.answer(
                Request("GET", path, {"authorization": f"Bearer {WORDS}", "range": f"bytes={wanted}"}), held
            )
            return answer, b"".join(bytes(piece) for piece in answer.body)

    return await asyncio.to_thread(read)


def impatient(store: Store, early: BoundedQueue) -> Answers:
    """Waits for no layer image in the making."""
    settings = PartialLayerSettings(patience=0)
    return Answers(StoreReader(store.root), admission(), turns(), early, lambda _count: None, growth=settings)


def staged_files_open() -> int:
    return sum(path.resolve().suffix == ".tmp" for path in Path("/proc/self/fd").iterdir())


def reason(body: bytes) -> str:
    return str(json.loads(body)["reason"])


async def test_what_went_out_of_a_layer_in_the_making_is_told(store: Store) -> None:
    told: list[int] = []
    answers = Answers(StoreReader(store.root), admission(), turns(), turns(), told.append)

    with PartialLayerWriter(store, NAME) as making:
        making.write(NO_HEAD + CONTENT)
        answer, body = await ask(answers, f"/v1/partial/{NAME}", "4096-6595")

    assert (answer.status, body) == (206, CONTENT)
    assert told == [1000, 1000, 500]


async def test_layers_in_the_making_have_turns_of_their_own(store: Store) -> None:
    usual, early, other = turns(), turns(), LayerName(space=Space.LAYERS, digest=Digest.sha256(b"other"))
    answers = Answers(StoreReader(store.root), admission(), usual, early, lambda _count: None)
    put_layer(store, other, CONTENT)

    with PartialLayerWriter(store, NAME) as making:
        making.write(NO_HEAD + CONTENT)
        with early.turn():
            refused, problem = await ask(answers, f"/v1/partial/{NAME}", "4096-4195")
            finished, _ = await ask(answers, f"/v1/partial/{other}", "0-99")
            layer, _ = await ask(answers, f"/v1/layers/{other}", "0-99")
        with usual.turn():
            growing, body = await ask(answers, f"/v1/partial/{NAME}", "4096-4195")
            late, _ = await ask(answers, f"/v1/partial/{other}", "0-99")

    assert (refused.status, reason(problem), refused.headers["Retry-After"]) == (503, "StoreBusy", "1")
    assert (finished.status, layer.status) == (206, 206)
    assert (growing.status, body) == (206, CONTENT[:100])
    assert late.status == 503


async def test_nothing_of_the_range_is_made_yet(store: Store) -> None:
    early = turns()
    answers = impatient(store, early)

    with PartialLayerWriter(store, NAME) as making, early.turn():  # nobody needs a turn for nothing
        making.write(NO_HEAD)
        answer, body = await ask(answers, f"/v1/partial/{NAME}", "4096-4195")

    assert (answer.status, reason(body)) == (416, "InvalidInput")
    assert "Content-Range" not in answer.headers


async def test_as_much_of_the_range_as_is_made_when_patience_ends(store: Store) -> None:
    answers = impatient(store, turns())

    with PartialLayerWriter(store, NAME) as making:
        making.write(NO_HEAD + CONTENT[:10])
        answer, body = await ask(answers, f"/v1/partial/{NAME}", "4096-4195")

    assert (answer.status, body) == (206, CONTENT[:10])
    assert answer.headers["Content-Range"] == "bytes 4096-4105/*"


async def test_who_would_wait_is_told_that_the_server_stops(store: Store) -> None:
    answers = Answers(StoreReader(store.root), admission(), turns(), turns(), lambda _count: None)
    answers.close()

    with PartialLayerWriter(store, NAME) as making, capture_logs() as logs:
        making.write(NO_HEAD)
        answer, body = await ask(answers, f"/v1/partial/{NAME}", "4096-4195")

    assert (answer.status, reason(body), answer.headers["Retry-After"]) == (503, "StoreBusy", "1")
    assert logs == []


async def test_no_file_stays_open_whatever_is_answered(store: Store) -> None:
    early = turns()
    answers = impatient(store, early)

    with PartialLayerWriter(store, NAME) as making:
        making.write(NO_HEAD + CONTENT)
        with early.turn():
            busy, _ = await ask(answers, f"/v1/partial/{NAME}", "0-9")
        others = [await ask(answers, f"/v1/partial/{NAME}", wanted) for wanted in ("0-9", "9000-9001", "5-")]
        opened = await asyncio.to_thread(staged_files_open)

    assert [busy.status, *(answer.status for answer, _ in others)] == [503, 206, 416, 400]
    assert opened == 1  # its maker's
