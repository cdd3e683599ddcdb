"""Every edge where a text leaves us: a registry's words obey no terminal there, forge no line, and have an end."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator

import msgspec
import pytest
import yaml
from rich.console import Console

from imagecache.agent import report as node_report
from imagecache.agent.failures import Failures
from imagecache.agent.report import Facts
from imagecache.api import building, dump, events, phases
from imagecache.api.nodes import NodeStatus
from imagecache.api.types import API_VERSION, KIND, ImageCache, Metadata, Spec
from imagecache.api.yamltext import JSON
from imagecache.builder import notes, worker_messages
from imagecache.builder.build_events import ImageResolved
from imagecache.builder.worker_messages import Failed as WorkerFailed
from imagecache.cli.live import LiveDisplay
from imagecache.cli.progress import LineDisplay
from imagecache.cli.sections import line, section
from imagecache.cli.session import note, report, say
from imagecache.containerd.api import Attached
from imagecache.controller import event_recorder
from imagecache.controller.build_messages import Failed
from imagecache.controller.pods.decide import Tell
from imagecache.controller.pods.messages import Subject, Teller
from imagecache.digest import Digest
from imagecache.errors import RegistryUnavailable
from imagecache.kube import objects
from imagecache.kube.resources import EVENTS
from imagecache.match.views import Told
from imagecache.oci import mediatypes, platform
from imagecache.oci.descriptor import Descriptor, Platform
from imagecache.oci.manifest import Manifest
from imagecache.oci.resolved import Resolved
from imagecache.snapshotter.grpc_errors import message_of
from imagecache.telemetry import log
from imagecache.written import LONGEST
from testkit.clock import FakeClock
from testkit.kube import FakeKube

CONTROL = "\x1b]0;owned\x07\x1b[2K\x9b1A\u202egnol\u2066\r\nlevel=info \u2028\x00\ud800"
HOSTILE = CONTROL + "x" * 100_000
ERROR = RegistryUnavailable(HOSTILE, hint=HOSTILE, image=HOSTILE)
NOW = FakeClock().now()
STATUS = phases.begin("imc-" + "a" * 20, 1, NOW)
CACHE = ImageCache(api_version=API_VERSION, kind=KIND, metadata=Metadata(name="a", uid="u"), spec=Spec(images=("a:1",)))
DIGEST = Digest.sha256(b"")
ATTACHED = Attached({HOSTILE: ""}, withheld=(HOSTILE,), missed=(HOSTILE,), foreign=(HOSTILE,), unverified=(HOSTILE,))


def assert_harmless(text: str, longest: int = LONGEST) -> None:
    assert text.isprintable(), ascii(text[:200])
    assert 0 < len(text) <= longest


@pytest.mark.parametrize(
    "show",
    [
        lambda: say(CONTROL),
        lambda: note(HOSTILE),
        lambda: report(ERROR),
        lambda: say(line("Reason", HOSTILE)),
        lambda: say(section("Events", ("REASON", "MESSAGE"), [("A", HOSTILE)])[-1]),
        lambda: LineDisplay(FakeClock()).on(Attached({CONTROL: ""}, withheld=(CONTROL,))),
    ],
    ids=["say", "note", "report", "line", "section", "display"],
)
def test_terminal(show: Callable[[], None], capsys: pytest.CaptureFixture[str]) -> None:
    """A result that programs read is whole; what people read of others has an end."""
    show()
    shown = capsys.readouterr()

    lines = (shown.out + shown.err).split("\n")
    assert any("owned" in each for each in lines)
    for each in lines:
        assert each.isprintable(), ascii(each[:200])
        assert len(each) < LONGEST + 100


def test_terminal_live() -> None:
    out = io.StringIO()
    display = LiveDisplay(FakeClock(), Console(file=out, width=100, color_system=None))
    display.on(ATTACHED)
    display.on(ImageResolved(HOSTILE, DIGEST, 1, 5))
    Console(file=out, width=100, color_system=None).print(display.render())

    shown = out.getvalue()
    assert "owned" in shown
    assert shown.replace("\n", "").isprintable()
    assert len(shown) < 10 * LONGEST


@pytest.mark.parametrize(
    ("write", "read"), [(dump.to_yaml, yaml.safe_load), (dump.to_json, json.loads)], ids=["yaml", "json"]
)
def test_terminal_documents(write: Callable[[JSON], str], read: Callable[[str], object]) -> None:
    """Whole: programs read them. A lone surrogate is no text of JSON or YAML."""
    text = CONTROL.replace("\ud800", "\U000e0041")
    written = write({"a": text, "b": "é"})

    assert all(each.isprintable() for each in written.split("\n"))
    assert read(written) == {"a": text, "b": "é"}
    assert "é" in write({"b": "é"})


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    yield io.StringIO()
    log.configure()


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_log(log_format: str, stream: io.StringIO) -> None:
    log.configure(log_format=log_format, level="info", stream=stream)
    log.get_logger("registry").warning("no answer", problem=HOSTILE, also=[HOSTILE, ERROR], keys={HOSTILE: ERROR})

    (written,) = stream.getvalue().splitlines()
    assert written.isprintable()
    assert len(written) < 6 * 2 * LONGEST
    assert log_format == "console" or "owned" in json.loads(written)["problem"]


def test_log_of_an_exception(stream: io.StringIO) -> None:
    log.configure(log_format="console", level="info", stream=stream)
    try:
        raise ERROR
    except RegistryUnavailable:
        log.get_logger("registry").exception("unexpected")

    written = stream.getvalue().split("\n")
    assert all(each.isprintable() and len(each) <= LONGEST + 2 for each in written)
    assert [each for each in written if each and not each.startswith("  ")] == written[:1], "no line looks like ours"
    assert any(each.startswith("  Traceback") for each in written)


def test_status() -> None:
    failed = phases.failed(STATUS, 1, NOW, reason=ERROR.reason, message=building.explain(ERROR))
    waiting = phases.waiting(STATUS, 1, NOW, reason=ERROR.reason, message=HOSTILE)
    drifted = phases.tag_drifted(STATUS, 1, NOW, message=HOSTILE)

    for status in (failed, waiting, drifted):
        for message in filter(None, [status.reason, *(each.message for each in status.conditions)]):
            assert_harmless(message)
    assert "owned" in failed.reason
    assert phases.outcome(failed) == (ERROR.reason, building.explain(ERROR)), "what is compared is what is written"


def test_status_events() -> None:
    found = events.event("Noted", HOSTILE, about=HOSTILE, now=NOW)

    assert_harmless(found.message, events.MESSAGE)
    assert_harmless(found.name)
    assert_harmless(found.metadata.name)
    assert events.has((found,), "Noted", HOSTILE), "or it would be told at each look"


def test_status_of_a_node() -> None:
    failures = Failures()
    failures.note("imc-a", ERROR, 0)
    facts = Facts("proxy", failures=failures.all(), problem=ERROR)
    status = node_report.status(facts, NodeStatus(), NOW)
    words = node_report.not_attached(ATTACHED)

    assert "owned" in words
    for each in status.conditions:
        assert_harmless(each.message or "-")
    assert any("owned" in each.message for each in status.conditions)


async def test_events_of_a_cache() -> None:
    kube = FakeKube()
    raw = msgspec.structs.replace(events.event("Failed", "x", about="a", now=NOW), message=HOSTILE)
    await event_recorder.record(kube, CACHE, (raw,))
    (found,) = (await kube.list(EVENTS)).items

    assert_harmless(objects.text(found, "message"), events.MESSAGE)


async def test_events_of_a_pod() -> None:
    kube = FakeKube()
    teller = Teller(kube, FakeClock(), lambda: None)
    await teller.tell(Subject("default", "web", "u"), Tell(Told("Failed", "Warning", HOSTILE), "web.1"))
    (found,) = (await kube.list(EVENTS)).items

    assert_harmless(objects.text(found, "message"), events.MESSAGE)


def test_errors_of_a_build_process() -> None:
    failed = Failed.of(ERROR)

    for text in (failed.message, failed.hint, failed.image):
        assert_harmless(text)


def test_errors_to_containerd() -> None:
    assert_harmless(message_of(ERROR))


def test_words_of_documents() -> None:
    foreign = Platform(os="linux", architecture=HOSTILE)
    wanted = Platform(os="linux", architecture="amd64")
    descriptor = Descriptor(media_type=mediatypes.OCI_MANIFEST, digest=DIGEST, size=1)
    manifest = Manifest(media_type=mediatypes.OCI_MANIFEST, config=descriptor, layers=())
    (note_,) = notes.of_documents(Resolved(descriptor, b"", verified=True), manifest, foreign, wanted, [])

    assert_harmless(note_, 300)
    assert_harmless(mediatypes.shown(HOSTILE), 127)
    listed = [msgspec.structs.replace(foreign, architecture=f"{number}{HOSTILE}") for number in range(30)]
    assert_harmless(str(platform.no_match(wanted, listed)), 20 * 70)


def test_errors_of_a_worker() -> None:
    """It parses hostile bytes, and may have been taken over by them."""
    error = WorkerFailed(ERROR.reason, HOSTILE, HOSTILE).exception()

    assert_harmless(error.message)
    assert_harmless(error.hint)
    assert len(worker_messages.encode(WorkerFailed.of(ERROR))) < worker_messages.MAX_MESSAGE
