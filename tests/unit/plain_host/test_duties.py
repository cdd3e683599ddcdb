"""What the agent of a host does with the objects there, and what it leaves to a person's command."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from imagecache.api import building, phases
from imagecache.api.effective_spec import effective_spec
from imagecache.api.ids import derived_cache_id
from imagecache.api.nodes import REFRESH_SCHEDULE
from imagecache.api.types import Attempt, NodeCounts, Phase
from imagecache.errors import (
    ContainerdUnavailable,
    ImageTooLarge,
    RegistryUnavailable,
    StoreBusy,
    StoreError,
    Unauthenticated,
)
from imagecache.plain_host.duties import PlainHostDuties
from imagecache.plain_host.verbs import Accepted, ShownEvent
from imagecache.telemetry.metrics import Metrics
from tests.unit.plain_host.bench import Bench, eventually, manifest, status_of, uid_of


class Agent(Bench):
    """A host with an agent that can be started again."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.metrics = Metrics()
        self.tasks: list[asyncio.Future[None]] = []

    def start(self) -> None:
        self.duties = PlainHostDuties(self.dependencies(self.settings, self.clock), lambda _metrics: self.builder)
        self.tasks = [asyncio.ensure_future(work) for work in self.duties.works(None, self.metrics)]

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@pytest_asyncio.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Agent]:
    for name, seconds in {
        "kube.files._POLL": 0.01,
        "plain_host.duties._ATTACH_INTERVAL": 0.01,
        "controller.reconciler.SOON": 0.02,
        "controller.reconciler._COLLECT_PAUSE": 0.01,
        "controller.decide.SOON": 0.02,
    }.items():
        monkeypatch.setattr(f"imagecache.{name}", seconds)
    agent = Agent(tmp_path)
    yield agent
    await agent.stop()


async def seen(bench: Agent) -> None:
    """Until the agent has looked at everything several times: it deletes two expired objects, one after the other."""
    cache, own, day = manifest("probe"), derived_cache_id(uid_of("probe")), dt.timedelta(days=2)
    attempt = Attempt(image_cache_id=own, wanted=building.wanted(effective_spec(cache, architectures=("amd64",))))
    begun = phases.started(phases.begin(own, 1, bench.clock.now() - day), 1, bench.clock.now(), attempt=attempt)
    expired = phases.failed(begun, 1, bench.clock.now() - day, reason="ImageTooLarge", message="")
    for _ in range(2):
        bench.put(cache, status=msgspec.to_builtins(expired))
        await eventually(lambda: bench.phase("probe") is None)


async def test_what_a_command_made_is_left_as_it_is(bench: Agent) -> None:
    ready = await bench.host.create(manifest("a"))
    bench.start()
    await seen(bench)

    assert bench.host.get("a") == ready


async def test_what_was_attached_is_attached_again_after_a_restart(bench: Agent) -> None:
    await bench.host.create(manifest("a"))
    await bench.host.create(manifest("b", "redis:7"), attach=False)
    bench.attacher.attached.clear()  # another containerd
    bench.start()

    await eventually(lambda: bench.metrics.registry.get_sample_value("imagecache_attached_images") == 1)
    assert set(bench.attacher.attached) == {"docker.io/library/nginx:1.25"}


async def test_what_was_forgotten_is_attached_again(bench: Agent) -> None:
    await bench.host.create(manifest("a"))
    bench.start()
    await eventually(lambda: bench.metrics.registry.get_sample_value("imagecache_attached_images") == 1)
    bench.attacher.attached.clear()
    await asyncio.to_thread(bench.duties.forgotten)

    await eventually(lambda: set(bench.attacher.attached) == {"docker.io/library/nginx:1.25"})


async def test_an_attach_that_failed_is_tried_again(bench: Agent) -> None:
    bench.attacher.failure = ContainerdUnavailable("nobody listens")
    with pytest.raises(ContainerdUnavailable):
        await bench.host.create(manifest("a"))
    bench.start()
    await eventually(lambda: bench.status().events[-1].count > 2)
    assert bench.status().events[-1].reason == "AttachFailed"

    bench.attacher.failure = None
    await eventually(lambda: bench.status().nodes == NodeCounts(desired=1, ready=1))


async def test_a_detach_stays(bench: Agent) -> None:
    await bench.host.create(manifest("a"))
    await bench.host.detach("a")
    bench.start()
    await seen(bench)

    assert bench.attacher.attached == {}
    assert bench.status().nodes == NodeCounts()


async def test_what_has_expired_is_detached_and_deleted(bench: Agent) -> None:
    await bench.host.create(manifest("a", retentionDays=2))
    bench.start()
    bench.attacher.failure = ContainerdUnavailable("nobody listens")
    await bench.host.create(manifest("b", "redis:7"), attach=False)
    bench.clock.advance(days=2)
    await seen(bench)
    assert bench.phase() is Phase.READY

    bench.attacher.failure = None
    await eventually(lambda: bench.phase("a") is None)
    assert bench.attacher.attached == {}
    assert list(bench.store.documents) == [bench.status("b").image_cache_id]
    await eventually(lambda: bench.store.collections > 0)


async def test_what_was_deleted_by_force_is_detached_later(bench: Agent) -> None:
    await bench.host.create(manifest("a"))
    bench.attacher.failure = ContainerdUnavailable("nobody listens")
    await bench.host.delete("a", force=True)
    bench.start()
    assert set(bench.attacher.attached) == {"docker.io/library/nginx:1.25"}
    bench.attacher.failure = None

    await eventually(lambda: bench.attacher.attached == {})


async def test_a_build_that_a_person_interrupted_waits_for_the_person(bench: Agent) -> None:
    bench.builder.pause = asyncio.Event()
    task = asyncio.create_task(bench.host.create(manifest("a")))
    await eventually(lambda: bench.phase() is Phase.CREATING)
    bench.start()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    bench.builder.pause = None
    before = bench.host.get("a")
    await seen(bench)

    assert len(bench.builder.requests) == 1
    assert bench.host.get("a") == before
    await bench.host.create(manifest("a"))


async def test_what_a_command_works_on_is_left_alone(bench: Agent) -> None:
    bench.secret("bad")
    bench.builder.guarded = frozenset({"nginx:1.25"})
    with pytest.raises(Unauthenticated):
        await bench.host.create(manifest("a", imagePullSecrets='["default:cred"]'))
    bench.start()
    await seen(bench)
    assert len(bench.builder.requests) == 1, "the same secrets again are no use"
    with bench.files.claimed("a"):
        bench.secret("good")
        await seen(bench)
        assert bench.phase() is Phase.FAILED

    await eventually(lambda: bench.phase() is Phase.READY)
    assert "Retrying" in bench.reasons()
    assert bench.builder.credentials[-1][0].name == "default:cred"


async def test_a_failure_is_not_retried_without_a_reason(bench: Agent) -> None:
    bench.builder.failure = ImageTooLarge("the images need 30 GiB")
    with pytest.raises(ImageTooLarge):
        await bench.host.create(manifest("a"))
    bench.builder.failure = None
    bench.start()
    await seen(bench)

    assert bench.phase() is Phase.FAILED


async def test_what_passes_is_tried_again_by_the_agent(bench: Agent) -> None:
    bench.builder.failure = RegistryUnavailable("no answer")
    with pytest.raises(RegistryUnavailable):
        await bench.host.create(manifest("a"))
    assert (bench.phase(), bench.status().expire_date_time) == (Phase.PENDING, "")
    bench.builder.failure = None
    bench.start()
    await seen(bench)
    assert len(bench.builder.requests) == 1, "not before its time"

    bench.clock.advance(seconds=5)
    bench.put(bench.host.get("a"))  # the agent looks at what has changed
    await eventually(lambda: bench.phase() is Phase.READY)


@pytest.mark.parametrize("attach", [True, False])
async def test_what_the_agent_builds_for_a_command_is_attached_if_that_was_meant(bench: Agent, *, attach: bool) -> None:
    bench.builder.failure = RegistryUnavailable("no answer")
    with pytest.raises(RegistryUnavailable):
        await bench.host.create(manifest("a"), attach=attach)
    bench.builder.failure = None
    bench.clock.advance(seconds=60)
    bench.start()
    await eventually(lambda: bench.phase() is Phase.READY)
    await seen(bench)

    assert set(bench.attacher.attached) == ({"docker.io/library/nginx:1.25"} if attach else set())


async def test_what_was_meant_goes_with_its_object(bench: Agent) -> None:
    """Another object of the same name is not attached because of it."""
    bench.builder.failure = RegistryUnavailable("no answer")
    with pytest.raises(RegistryUnavailable):
        await bench.host.create(manifest("a"))
    await bench.host.delete("a")
    bench.builder.failure = None
    await bench.host.create(manifest("a"), attach=False)
    bench.start()
    await seen(bench)

    assert set(bench.attacher.attached) == set()


async def test_a_secret_that_was_missing_begins_the_build(bench: Agent) -> None:
    with pytest.raises(Exception, match="is not in"):
        await bench.host.create(manifest("a", imagePullSecrets='["default:cred"]'))
    bench.start()
    await seen(bench)
    assert bench.phase() is Phase.FAILED

    bench.secret("good")
    await eventually(lambda: bench.phase() is Phase.READY)


async def test_an_edit_that_no_command_finished_is_an_update(bench: Agent) -> None:
    """Killed between the change of the spec and the first status; and what serves is switched."""
    await bench.host.create(manifest("a"))
    item = bench.files.read("a") or {}
    metadata = item["metadata"]
    assert isinstance(metadata, dict)
    bench.put(bench.host.get("a"), spec={"images": ["redis:7"]}, metadata=metadata | {"generation": 2})
    bench.start()

    await eventually(lambda: set(bench.attacher.attached) == {"docker.io/library/redis:7"})
    await eventually(lambda: bench.status().nodes == NodeCounts(desired=1, ready=1))
    assert bench.status().phase is Phase.READY
    assert list(bench.store.documents) == [bench.status().image_cache_id]


async def test_a_build_of_the_agent_is_claimed(bench: Agent) -> None:
    await bench.host.create(manifest("a"))
    bench.builder.pause = asyncio.Event()
    bench.store.documents.clear()
    bench.start()
    await eventually(lambda: bench.phase() is Phase.UPDATING)
    assert bench.host.describe("a").busy
    bench.builder.pause.set()

    await eventually(lambda: bench.phase() is Phase.READY)
    await eventually(lambda: not bench.files.busy("a"))


async def test_a_build_of_the_agent_goes_on_with_the_next_agent(bench: Agent) -> None:
    await bench.host.create(manifest("a"))
    bench.builder.pause = asyncio.Event()
    bench.store.documents.clear()
    bench.start()
    await eventually(lambda: bench.phase() is Phase.UPDATING)
    await bench.stop()
    bench.builder.pause = None

    bench.start()
    await eventually(lambda: bench.phase() is Phase.READY)


async def test_what_the_agent_waits_for_need_not_be_there_at_first(bench: Agent) -> None:
    """It begins an update by itself, for which a Secret is lacking, and then another process builds the same bundle."""
    bench.secret("good")
    await bench.host.create(manifest("a", imagePullSecrets='["default:cred"]'))
    bench.store.documents.clear()
    (bench.settings.secrets / "cred.yaml").unlink()
    bench.start()
    await eventually(lambda: bench.status().reason.startswith("PullSecretUnavailable"))
    bench.builder.failure = StoreBusy("a collection runs")
    bench.secret("good")
    await eventually(lambda: bench.status().reason.startswith("StoreBusy"))

    bench.builder.failure = None
    bench.clock.advance(seconds=5)
    bench.put(bench.host.get("a"))  # the agent looks at what has changed
    await eventually(lambda: bench.phase() is Phase.READY)


async def test_a_bundle_that_cannot_be_deleted_keeps_its_object(bench: Agent) -> None:
    await bench.host.create(manifest("a"))
    bench.store.deletion = StoreError("the disk is gone")
    with pytest.raises(StoreError, match="the disk is gone"):
        await bench.host.delete("a")
    bench.start()
    await seen(bench)
    assert len(bench.store.documents) == 1

    bench.store.deletion = None
    await eventually(lambda: bench.phase() is None)
    assert bench.store.documents == {}


async def test_a_schedule_is_kept_and_what_serves_is_switched(bench: Agent) -> None:
    bench.builder.clock = bench.clock
    before = await bench.host.create(manifest("a", annotations={REFRESH_SCHEDULE: "0 3 * * *"}))
    bench.start()
    await seen(bench)
    assert len(bench.builder.requests) == 1

    bench.clock.advance(hours=15)
    bench.put(bench.host.get("a"))  # the agent looks at what has changed
    await eventually(lambda: bench.status().image_cache_id != status_of(before).image_cache_id)
    await eventually(lambda: bench.status().nodes == NodeCounts(desired=1, ready=1))
    assert bench.status().phase is Phase.READY
    assert bench.attacher.attached == {"docker.io/library/nginx:1.25": bench.status().image_cache_id}
    await seen(bench)
    assert len(bench.builder.requests) == 2


async def test_a_schedule_that_is_none_disturbs_nothing(bench: Agent) -> None:
    shown: list[ShownEvent] = []
    await bench.host.create(manifest("a", annotations={REFRESH_SCHEDULE: "daily"}), show=shown.append)
    accepted = next(each for each in shown if isinstance(each, Accepted))
    assert "is no schedule: it needs 5 fields and has 1" in accepted.notes[0]
    bench.start()
    await seen(bench)

    assert bench.phase() is Phase.READY
    assert bench.reasons().count("InvalidSchedule") == 1
