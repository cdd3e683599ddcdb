"""Objects as an API server has them, derived ids, and what is told of a build."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence

import msgspec
import pytest

from imagecache.api import building, ids, phases, selector
from imagecache.api.effective_spec import EffectiveSpec, effective_spec
from imagecache.api.parse import stored
from imagecache.api.pull_secrets import pull_secret
from imagecache.api.types import Phase
from imagecache.api.yamltext import JSON
from imagecache.builder.build_events import ImageReady, ImageResolved, Planned
from imagecache.digest import Digest
from imagecache.errors import InvalidInput, InvalidManifest
from imagecache.oci.descriptor import Platform
from imagecache.store.bundle_document import Bundle
from testkit.builder import image_record

NOW = dt.datetime(2024, 5, 1, 12, tzinfo=dt.UTC)


def item(**more: JSON) -> dict[str, JSON]:
    metadata: JSON = {
        "name": "a",
        "uid": "u-1",
        "generation": 3,
        "resourceVersion": "77",
        "creationTimestamp": "2024-05-01T12:00:00Z",
        "deletionTimestamp": "2024-05-01T13:00:00Z",
        "finalizers": ["imagecache.dev/bundle"],
        "annotations": {"imagecache.dev/node-selector": "pool=gpu"},
        "managedFields": [{"manager": "kubectl"}],
    }
    base: dict[str, JSON] = {"apiVersion": "eci.alibabacloud.com/v1", "kind": "ImageCache", "metadata": metadata}
    return {**base, "spec": {"images": ["nginx:1.25"], "imageCacheSize": None}, **more}


def test_an_object_has_what_the_server_set() -> None:
    begun = phases.begin(ids.derived_cache_id("u-1"), 3, NOW)
    status: dict[str, JSON] = msgspec.to_builtins(phases.advance(begun, 1, 20, NOW))
    found = stored(item(status=status | {"expireDateTime": None, "strange": 1}))

    assert found.problem is None
    metadata = found.cache.metadata
    assert (metadata.name, metadata.uid, metadata.generation, metadata.resource_version) == ("a", "u-1", 3, "77")
    assert metadata.deletion_timestamp == "2024-05-01T13:00:00Z"
    assert metadata.finalizers == ("imagecache.dev/bundle",)
    assert found.cache.status is not None
    assert (found.cache.status.phase, found.cache.status.progress) == (Phase.CREATING, "5%")
    wanted = effective_spec(found.cache, architectures=("amd64",))
    assert wanted.nodes == selector.parse("pool=gpu", "")


def test_a_spec_that_is_none_is_a_problem_and_no_failure() -> None:
    found = stored(item(spec={"images": ["a"], "imageCacheSize": "25"}, extra=1))

    assert found.cache.spec.images == ()
    assert "spec.imageCacheSize" in str(found.problem)
    assert stored(item(extra=1)).notes == ("extra: unknown field, ignored",)


@pytest.mark.parametrize(
    "status",
    [
        {"phase": "Melted", "progress": "1%"},
        {"progress": "1%"},
        {"phase": "Ready", "progress": "100%", "imageCacheId": "imc-" + "a" * 20},
        {"observedGeneration": -1},
        "Ready",
        None,
    ],
)
def test_a_status_that_is_not_ours_is_none(status: JSON) -> None:
    assert stored(item(status=status)).cache.status is None


def test_what_is_no_object_is_refused() -> None:
    with pytest.raises(InvalidManifest, match="expected a mapping"):
        stored("nonsense")


def test_an_image_s_beginning_and_end_are_told() -> None:
    resolved = building.status_event(ImageResolved("nginx", Digest.sha256(b""), 2, 10), NOW)
    pulled = building.status_event(ImageReady("nginx", 1, 2), NOW)

    assert resolved is not None
    assert pulled is not None
    assert (resolved.reason, resolved.message) == ("Pulling", "Pulling image nginx")
    assert (pulled.reason, pulled.message) == ("Pulled", "Successfully pulled image nginx")
    assert building.status_event(Planned((), 0, 0), NOW) is None


@pytest.mark.parametrize(
    "document",
    [None, {}, {"type": "Opaque"}, {"type": "kubernetes.io/dockerconfigjson"}],
)
def test_a_secret_that_is_none_is_refused_by_name(document: JSON) -> None:
    with pytest.raises(InvalidInput, match="imagePullSecret ns:name"):
        pull_secret("ns:name", document)


def test_a_request_asks_for_what_is_wanted_and_the_status_shows_what_came() -> None:
    cache = stored(item(spec={"images": ["nginx:1.25"], "imagePullSecrets": ["a:b"]})).cache
    request = building.request("imc-1", effective_spec(cache, architectures=("arm64",)))
    assert (request.bundle_id, request.images, request.pull_secrets) == ("imc-1", ("nginx:1.25",), ("a:b",))
    assert (list(map(str, request.platforms)), request.complete) == (["linux/arm64"], False)

    image = image_record("nginx:1.25", ("base", "nginx"))
    document = Bundle(id="imc-1", created="", platforms=(image.platform,), images=(image,))
    status = building.ready(phases.begin("imc-1", 1, NOW), 1, NOW, document, None)
    assert (status.phase, status.size) == (Phase.READY, 4000)
    assert [(image.image, image.platform, image.size) for image in status.images] == [
        ("nginx:1.25", "linux/amd64", 2000)
    ]
    assert building.summary(document) == "Image cache is ready: 1 image, 2 layers, 3.9KiB"


def test_an_error_is_explained_with_what_to_do() -> None:
    assert building.explain(InvalidInput("no", hint="try yes", image="nginx")) == "nginx: no; try yes"
    assert building.explain(InvalidInput("no")) == "no"


def test_what_is_around_a_name_in_a_list_of_an_object_is_not_part_of_it() -> None:
    """The API server keeps it; what is built is compared with what is read here."""
    spec: JSON = {"images": ["nginx:1.25 ", "\u00a0redis\u200b"], "imagePullSecrets": [" a:b\u3000"]}

    found = stored(item(spec=spec)).cache.spec

    assert (found.images, found.image_pull_secrets) == (("nginx:1.25", "redis"), ("a:b",))


AMD64, ARM64 = (Platform(os="linux", architecture=each) for each in ("amd64", "arm64"))
ARM = {"k8s.aliyun.com/imc-cpu-arch": "arm64"}


def asked(keys: Mapping[str, str] | None = None, nodes: Sequence[str] = ("amd64",), **spec: JSON) -> EffectiveSpec:
    document = item(
        spec={"images": ["nginx:1.25", "redis:7"], **spec}, metadata={"name": "a", "annotations": {**(keys or {})}}
    )
    return effective_spec(stored(document).cache, architectures=nodes)


def made(*platforms: Platform) -> Bundle:
    image = image_record("nginx:1.25", ("base", "nginx"))
    images = tuple(msgspec.structs.replace(image, platform=each) for each in platforms)
    return Bundle(id="imc-1", created="", platforms=platforms, images=images)


@pytest.mark.parametrize(
    ("keys", "nodes", "had", "same"),
    [
        ({}, ("amd64",), (AMD64,), True),
        ({}, ("amd64",), (AMD64, ARM64), True),
        ({}, ("amd64", "arm64"), (AMD64,), False),
        ({}, ("arm64",), (AMD64,), False),
        ({"k8s.aliyun.com/imc-cpu-arch": "amd64"}, ("arm64",), (AMD64,), True),
        ({"k8s.aliyun.com/imc-cpu-arch": "amd64"}, ("arm64",), (AMD64, ARM64), False),
        ({"k8s.aliyun.com/imc-cpu-arch": "arm64,amd64"}, (), (AMD64, ARM64), True),
    ],
)
def test_a_bundle_is_for_the_platforms_that_are_asked_for(
    keys: dict[str, str], nodes: tuple[str, ...], had: tuple[Platform, ...], *, same: bool
) -> None:
    found = building.difference(made(*had), asked(keys, nodes, images=["nginx:1.25"]))

    assert ("is asked for, the bundle was built for" in found) is not same
    assert bool(found) is not same


def test_the_nodes_of_a_cache_are_those_that_it_has_images_for() -> None:
    spec = effective_spec(stored(item()).cache, architectures=("amd64", "arm64"))
    image = image_record("nginx:1.25", ("base", "nginx"))
    document = Bundle(id="imc-1", created="", platforms=(AMD64, ARM64), images=(image,))
    before = phases.begin("imc-1", 1, NOW)

    assert spec.target(before).platforms == (AMD64, ARM64)
    assert spec.target(building.ready(before, 1, NOW, document, None)).platforms == (AMD64,)
    assert spec.target(before).selector == selector.parse("pool=gpu", "")


def test_the_fingerprint_is_of_what_a_build_is_asked_for_and_of_nothing_else() -> None:
    own = building.wanted(asked())
    for other in (
        asked(images=["nginx:1.25"]),
        asked(imageCacheSize=21),
        asked(imagePullSecrets=["a:b"]),
        asked(nodes=("amd64", "arm64")),
        asked(ARM),
        asked({"k8s.aliyun.com/plain-http-registry": "r:5000"}),
        asked({"k8s.aliyun.com/insecure-registry": "r:5000"}),
    ):
        assert building.wanted(other) != own
    for same in (
        asked(images=["redis:7", "nginx:1.25"]),
        asked(images=["nginx:1.25", "redis:7", "redis:7"]),
        asked(retentionDays=3),
        asked({"imagecache.dev/node-selector": "a=b", "imagecache.dev/priority": "3", "mine": "x"}),
        asked({"k8s.aliyun.com/imc-size": "20"}),
    ):
        assert building.wanted(same) == own


def test_a_difference_is_named() -> None:
    document = made(AMD64)

    def difference(keys: Mapping[str, str] | None = None, **spec: JSON) -> str:
        whole: dict[str, JSON] = {"images": ["nginx:1.25"], **spec}
        return building.difference(document, asked(keys, ("amd64",), **whole))

    assert difference() == ""
    assert difference(images=["redis:7"]) == "spec.images has 'redis:7', the bundle has 'nginx:1.25'"
    assert difference(images=["nginx:1.25", "redis:7"]) == "spec.images has 'redis:7'"
    assert difference(ARM) == "linux/arm64 is asked for, the bundle was built for linux/amd64"
    large = msgspec.structs.replace(document.images[0].layers[0], size=21 << 30)
    image = msgspec.structs.replace(document.images[0], layers=(large,))
    document = msgspec.structs.replace(document, images=(image,))
    assert difference() == "the images take 21GiB, 20GiB are allowed"
    assert difference(imageCacheSize=22) == ""
