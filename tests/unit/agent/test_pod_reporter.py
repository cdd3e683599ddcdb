"""Pods that start are told once, whatever containerd, the API server and the agent do meanwhile."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from imagecache.agent.pod_reporter import PodReporter, PodReporterSettings
from imagecache.agent.pod_starts import Patience
from imagecache.backoff import Backoff
from imagecache.concurrency import cancel_all
from imagecache.containerd.api import ContainerRecord, SnapshotInfo, SnapshotKey, TaskStarted
from imagecache.containerd.native import SOURCE_LABEL
from imagecache.digest import chain_ids
from imagecache.errors import KubernetesDenied, KubernetesError, KubernetesUnavailable, StoreError
from imagecache.kube import objects
from imagecache.kube.resources import EVENTS, Resource
from imagecache.snapshotter.container_starts import MOST, ContainerStarts
from imagecache.snapshotter.snapshot import LayerBelow
from imagecache.telemetry.metrics import Metrics
from testkit.clock import START, FakeClock
from testkit.containerd import FakeSnapshotter, MemoryContainerd
from testkit.images import make_image, tar_of
from testkit.kube import FakeKube
from testkit.oci_layout import Image

NAMESPACE, OURS, IMAGE = "k8s.io", "imagecache", "registry.example.com/app:1"
LAYERS = Path("/store/layers")
SANDBOX = START
BEFORE, AFTER = SANDBOX - dt.timedelta(hours=1), SANDBOX + dt.timedelta(seconds=3)
SETTINGS = PodReporterSettings(
    node="worker",
    namespace=NAMESPACE,
    snapshotter=OURS,
    layers=LAYERS,
    patience=Patience(quiet=0),
    pause=0,
    look=0.001,
    spacing=0,
    listen=0.001,
    retry=0.001,
    tries=3,
    backoff=Backoff(0, 0),
)
PATIENT = replace(SETTINGS, patience=Patience())


def layers(served: int, others: int = 0, *, created: dt.datetime = BEFORE) -> list[LayerBelow]:
    return [LayerBelow(f"chain-{number}", number < served, created) for number in range(served + others)]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - counters and fakes have no event
            await asyncio.sleep(0.001)


@dataclass
class Bench:
    """An agent's reporter between a containerd, an API server and a snapshotter in memory."""

    settings: PodReporterSettings = SETTINGS
    native: bool = False
    containerd: MemoryContainerd = field(default_factory=lambda: MemoryContainerd("2.4.2"))
    kube: FakeKube = field(default_factory=FakeKube)
    clock: FakeClock = field(default_factory=FakeClock)
    below: dict[str, Iterable[LayerBelow]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.containerd.session(NAMESPACE)
        self.space = self.containerd.spaces[NAMESPACE]
        self.tasks: list[asyncio.Task[None]] = []

    async def start_agent(self) -> None:
        """A new process: it knows nothing of the one before."""
        await cancel_all(self.tasks)
        self.metrics = Metrics()
        self.starts = ContainerStarts(lambda key: tuple(self.below.get(key, ())))
        self.reporter = PodReporter(
            self.containerd, None if self.native else self.starts, self.kube, self.clock, self.metrics, self.settings
        )
        self.tasks = [asyncio.create_task(self.reporter.run())]
        await asyncio.sleep(0)

    def sandbox(self, pod: str) -> None:
        """It starts, as the first container of a pod."""
        name = f"{pod}-sandbox"
        labels = {**_labels(pod), "io.cri-containerd.kind": "sandbox"}
        self.space.containers[name] = ContainerRecord(name, OURS, name, labels=labels, created=SANDBOX)
        self._start(name, layers(0, 1), 0.001)

    def container(
        self,
        pod: str,
        below: Iterable[LayerBelow],
        name: str = "main",
        *,
        seconds: float = 0.041,
        attempt: int = 0,
        snapshotter: str = OURS,
    ) -> None:
        """It starts."""
        container = f"{pod}-{name}-{attempt}"
        metadata = {"SandboxID": f"{pod}-sandbox", "Config": {"metadata": {"name": name, "attempt": attempt}}}
        self.space.containers[container] = ContainerRecord(
            container,
            snapshotter,
            container,
            image=IMAGE,
            labels={**_labels(pod), "io.cri-containerd.kind": "container"},
            created=AFTER,
            cri=json.dumps({"Version": "v1", "Metadata": metadata}).encode(),
        )
        self._start(container, below, seconds)

    def pod(self, pod: str, below: Iterable[LayerBelow]) -> None:
        self.sandbox(pod)
        self.container(pod, below)

    def _start(self, container: str, below: Iterable[LayerBelow], seconds: float) -> None:
        key = f"{NAMESPACE}/1/{container}"
        self.below[key] = below
        self.starts.answered("Prepare", key, "OK", seconds)
        self.containerd.starts.put_nowait(TaskStarted(NAMESPACE, container))

    async def events(self) -> dict[str, str]:
        """By the name of the pod: what its only event says."""
        found = (await self.kube.list(EVENTS)).items
        told = {objects.text(item, "involvedObject", "name"): objects.text(item, "message") for item in found}
        assert len(told) == len(found)
        assert all(objects.text(item, "source", "host") == "worker" for item in found)
        return told

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"imagecache_{name}", labels) or 0

    def outcomes(self, outcome: str) -> float:
        return self.count("pod_events_total", outcome=outcome)

    def layers_from(self, source: str) -> float:
        return self.count("pod_layers_total", source=source)

    @property
    def dropped(self) -> float:
        return self.count("pod_starts_dropped_total")


def _labels(pod: str) -> dict[str, str]:
    parts = {"name": pod, "namespace": "team", "uid": f"uid-of-{pod}"}
    return {f"io.kubernetes.pod.{key}": value for key, value in parts.items()}


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    await made.start_agent()
    yield made
    await cancel_all(made.tasks)


async def restarted(bench: Bench, settings: PodReporterSettings) -> None:
    bench.settings = settings
    await bench.start_agent()


@pytest.fixture
async def patient(bench: Bench) -> Bench:
    """It waits for other containers of a pod."""
    await restarted(bench, PATIENT)
    return bench


@pytest.fixture
async def native(bench: Bench) -> Bench:
    bench.native = True
    bench.containerd.snapshotters["erofs"] = FakeSnapshotter()
    await bench.start_agent()
    return bench


# what is told


async def test_a_pod_whose_layers_are_all_served(bench: Bench) -> None:
    bench.pod("web-0", layers(8))
    await until(lambda: bench.outcomes("told"))

    assert await bench.events() == {"web-0": "8/8 layers from cache, 0 B pulled, 41 ms"}
    assert [bench.layers_from(source) for source in ("cache", "pulled", "present")] == [8, 0, 0]
    assert bench.count("pod_snapshot_seconds_sum") == pytest.approx(0.041)
    assert bench.dropped == 0
    assert bench.kube.calls[0][0] == "create", "the API server is asked nothing else"


async def test_a_pod_of_an_image_that_was_pulled_before_is_counted_and_not_told(bench: Bench) -> None:
    bench.pod("plain", layers(0, 5))
    await until(lambda: bench.layers_from("present") == 5)
    bench.pod("web-0", layers(1))
    await until(lambda: bench.outcomes("told"))

    assert (await bench.events()).keys() == {"web-0"}
    assert bench.count("pod_pulled_bytes_total") == 0


async def pulled(bench: Bench, image: Image) -> list[LayerBelow]:
    """Layers of an image that was pulled while the pod started, but for the bottom one, which is served."""
    session = bench.containerd.session(NAMESPACE)
    for document in (image.descriptor, image.config):
        await session.content.write(image.blob(document.digest).read_bytes(), {})
    await session.images.put(IMAGE, image.descriptor, {})
    bottom, *others = chain_ids(image.diff_ids)
    return [LayerBelow(bottom, True, BEFORE), *(LayerBelow(chain, False, AFTER) for chain in others)]


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return make_image(tmp_path, [tar_of({f"file-{number}": bytes(number)}) for number in range(3)])


async def test_a_pod_that_had_to_wait_for_layers(bench: Bench, image: Image) -> None:
    below = await pulled(bench, image)
    size = sum(layer.size for layer in image.layers[1:])
    assert 0 < size < 1000
    bench.pod("web-0", below)
    await until(lambda: bench.outcomes("told"))

    assert await bench.events() == {"web-0": f"1/3 layers from cache, {size} B pulled, 41 ms"}
    assert [bench.layers_from(source) for source in ("cache", "pulled", "present")] == [1, 2, 0]
    assert bench.count("pod_pulled_bytes_total") == size


async def test_layers_of_unknown_size(bench: Bench) -> None:
    bench.pod("web-0", layers(1, 2, created=AFTER))
    await until(lambda: bench.outcomes("told"))

    assert await bench.events() == {"web-0": "1/3 layers from cache, 2 layers pulled, 41 ms"}


async def test_containers_of_one_pod_are_told_together(patient: Bench) -> None:
    patient.sandbox("web-0")
    patient.container("web-0", layers(4), "init", seconds=0.010)
    await until(lambda: len(patient.reporter._waiting) == 1)
    patient.clock.advance(4.9)
    patient.container("web-0", layers(2, 3), "main", seconds=0.020)
    patient.pod("web-1", layers(1))
    await until(lambda: len(patient.reporter._waiting) == 2)
    patient.clock.advance(4.9)
    await asyncio.sleep(0.01)
    assert await patient.events() == {}
    patient.clock.advance(0.2)
    await until(lambda: patient.outcomes("told") == 2)

    assert (await patient.events())["web-0"] == "4/7 layers from cache, 0 B pulled, 30 ms"


async def test_while_a_layer_is_unpacked_other_containers_are_waited_for(patient: Bench) -> None:
    unpack = f"{NAMESPACE}/2/extract-1-ab sha256:c"
    patient.starts.answered("Prepare", unpack, "OK", 1)
    patient.pod("web-0", layers(1))
    await until(lambda: len(patient.reporter._waiting) == 1)
    patient.clock.advance(60)
    await asyncio.sleep(0.01)
    assert await patient.events() == {}

    patient.starts.answered("Commit", unpack, "OK", 1)
    await until(lambda: patient.outcomes("told"))


async def test_in_native_mode_containerd_says_which_layers_are_from_the_store(native: Bench) -> None:
    source = {SOURCE_LABEL: str(LAYERS / "sha256" / "aa" / f"{'a' * 64}.erofs")}
    foreign = {SOURCE_LABEL: f"/other/sha256/aa/{'a' * 64}.erofs"}
    for info in (
        SnapshotInfo("top", "middle", {}, created=AFTER),
        SnapshotInfo("middle", "low", foreign, created=BEFORE),
        SnapshotInfo("low", "base", source, created=AFTER),
        SnapshotInfo("base", "", source, created=BEFORE),
    ):
        native.space.committed["erofs", info.name] = info
    native.space.active["erofs", "web-0-main-0"] = SnapshotKey("erofs", "web-0-main-0", "top")
    native.sandbox("web-0")
    native.container("web-0", (), snapshotter="erofs")
    await until(lambda: native.outcomes("told"))

    assert await native.events() == {"web-0": "2/4 layers from cache, 1 layer pulled"}
    assert [native.layers_from(source) for source in ("cache", "pulled", "present")] == [2, 1, 1]
    assert native.count("pod_snapshot_seconds_count") == 0


async def test_a_container_of_another_snapshotter_counts_with_its_pod(bench: Bench) -> None:
    """A runtime class of its own, for example: its layers are not ours."""
    bench.space.committed["overlayfs", "top"] = SnapshotInfo("top", "", {}, created=BEFORE)
    bench.space.active["overlayfs", "web-0-main-0"] = SnapshotKey("overlayfs", "web-0-main-0", "top")
    bench.sandbox("web-0")
    bench.container("web-0", (), snapshotter="overlayfs")
    await until(lambda: bench.layers_from("present") == 1)

    assert await bench.events() == {}


async def test_events_can_be_switched_off(bench: Bench) -> None:
    await restarted(bench, replace(SETTINGS, events=False))
    bench.pod("web-0", layers(8))
    await until(lambda: bench.layers_from("cache") == 8)
    await asyncio.sleep(0.01)

    assert bench.kube.calls == []


# what is not


async def test_what_is_no_first_start_of_a_pods_container(bench: Bench) -> None:
    bench.sandbox("web-0")
    bench.container("web-0", layers(8), attempt=1)
    bench.containerd.starts.put_nowait(TaskStarted(NAMESPACE, "gone"))
    bench.containerd.starts.put_nowait(TaskStarted("default", "web-1-main-0"))
    bench.space.containers["nerdctl"] = ContainerRecord("nerdctl", OURS, "nerdctl")
    bench.containerd.starts.put_nowait(TaskStarted(NAMESPACE, "nerdctl"))
    bench.pod("web-1", layers(1))
    await until(lambda: bench.outcomes("told"))

    assert (await bench.events()).keys() == {"web-1"}
    assert bench.layers_from("cache") == 1
    assert bench.dropped == 0
    assert bench.starts.take("web-0-sandbox") is bench.starts.take("web-0-main-1") is None, "nothing is kept of them"


async def test_a_pod_that_has_ended_meanwhile_is_dropped(bench: Bench) -> None:
    bench.container("web-0", layers(1, 1))  # its sandbox is gone
    bench.container("web-1", ())  # its snapshot is
    await until(lambda: bench.dropped == 2)

    assert await bench.events() == {}


async def test_a_container_that_was_prepared_by_the_agent_before_is_dropped(bench: Bench) -> None:
    bench.sandbox("web-0")
    await bench.start_agent()
    bench.container("web-0", layers(8))
    bench.starts.take("web-0-main-0")
    await until(lambda: bench.dropped == 1)

    assert await bench.events() == {}


async def test_a_snapshotter_that_cannot_be_read(bench: Bench) -> None:
    def broken(key: str) -> list[LayerBelow]:
        raise StoreError(f"metadata.db: disk I/O error ({key})")

    bench.starts._below = broken
    bench.pod("web-0", layers(8))
    await until(lambda: bench.dropped == 1)


# restarts and failures


async def test_an_agent_that_restarts_tells_nothing_twice(bench: Bench) -> None:
    bench.pod("web-0", layers(8))
    await until(lambda: bench.outcomes("told"))
    await bench.start_agent()
    bench.container("web-0", layers(2), "late")
    await until(lambda: bench.outcomes("repeated"))

    assert await bench.events() == {"web-0": "8/8 layers from cache, 0 B pulled, 41 ms"}


async def test_a_stream_of_events_that_ends_is_opened_again(bench: Bench) -> None:
    for number in range(3):
        bench.containerd.starts.put_nowait(None)
        bench.pod(f"web-{number}", layers(8))
    await until(lambda: bench.outcomes("told") == 3)


async def test_a_containerd_that_comes_back_in_time(bench: Bench) -> None:
    await restarted(bench, replace(SETTINGS, tries=1000))
    bench.containerd.running = False
    bench.pod("web-0", layers(8))
    await asyncio.sleep(0.02)
    assert await bench.events() == {}
    bench.containerd.running = True
    await until(lambda: bench.outcomes("told"))

    assert await bench.events() == {"web-0": "8/8 layers from cache, 0 B pulled, 41 ms"}


async def test_a_containerd_that_stays_away(bench: Bench) -> None:
    bench.containerd.running = False
    bench.pod("web-0", layers(8))
    await until(lambda: bench.dropped == 2)

    bench.containerd.running = True
    bench.pod("web-1", layers(8))
    await until(lambda: bench.outcomes("told"))


def failing(bench: Bench, error: KubernetesError, times: int) -> list[str]:
    """So often, then not again; the names that were asked for."""
    asked: list[str] = []

    def failure(verb: str, resource: Resource, name: str) -> KubernetesError | None:
        assert (verb, resource) == ("create", EVENTS)
        asked.append(name)
        return error if len(asked) <= times else None

    bench.kube.failure = failure
    bench.pod("web-0", layers(8))
    return asked


async def test_an_api_server_that_comes_back_in_time(bench: Bench) -> None:
    asked = failing(bench, KubernetesUnavailable("etcd has no leader"), SETTINGS.tries - 1)
    await until(lambda: bench.outcomes("told"))

    assert (len(asked), len(set(asked))) == (SETTINGS.tries, 1)


async def test_an_api_server_that_stays_away(bench: Bench) -> None:
    asked = failing(bench, KubernetesUnavailable("etcd has no leader"), SETTINGS.tries)
    await until(lambda: bench.outcomes("dropped"))
    assert len(asked) == SETTINGS.tries

    bench.pod("web-1", layers(8))
    await until(lambda: bench.outcomes("told"))


async def test_a_refusal_is_not_repeated(bench: Bench) -> None:
    asked = failing(bench, KubernetesDenied("cannot create resource events"), 1)
    await until(lambda: bench.outcomes("dropped"))

    assert len(asked) == 1


async def test_events_have_a_pause_between_them(bench: Bench) -> None:
    await restarted(bench, replace(SETTINGS, spacing=0.05))
    loop = asyncio.get_running_loop()
    for number in range(4):
        bench.pod(f"web-{number}", layers(1))
    begin = loop.time()
    await until(lambda: bench.outcomes("told") == 4)

    assert loop.time() - begin >= 3 * 0.05


async def test_ten_thousand_pods_with_an_api_server_that_is_away(bench: Bench) -> None:
    bench.kube.failure = lambda *_: KubernetesUnavailable("no")
    await restarted(bench, replace(SETTINGS, tries=1))
    for number in range(10_000):
        bench.container(f"web-{number}", layers(1))
        if not number % 100:
            await asyncio.sleep(0)
            assert len(bench.starts._prepared) <= MOST
            assert len(bench.reporter._waiting) <= SETTINGS.patience.most

    await until(lambda: bench.dropped + bench.outcomes("dropped") == 10_000)
    assert len(bench.reporter._waiting) == 0
    assert len(bench.starts._prepared) == 0
