"""ImageCache objects of the API server, also odd ones, read into what a node works with."""

from __future__ import annotations

import datetime as dt

import pytest

from imagecache.agent.cache_object import cache_of
from imagecache.api import selector
from imagecache.api.assignment import Cache
from imagecache.api.ids import derived_cache_id
from imagecache.api.yamltext import JSON
from imagecache.digest import Digest
from imagecache.oci.descriptor import Platform
from imagecache.store.expected_bundle import ExpectedBundle, ExpectedImage

UID = "11111111-1111-4111-8111-111111111111"
ID = derived_cache_id(UID)
NEXT = derived_cache_id(UID, ID)
OTHER = derived_cache_id("22222222-2222-4222-8222-222222222222")
"""Of another object."""
NOW = dt.datetime(2024, 5, 1, 12, tzinfo=dt.UTC)
DIGEST = str(Digest.sha256(b"document"))
AMD64, ARM64 = (Platform(os="linux", architecture=each) for each in ("amd64", "arm64"))


def test_an_object_as_the_api_has_it() -> None:
    digest = str(Digest.sha256(b"x"))
    item: dict[str, JSON] = {
        "metadata": {
            "name": "a",
            "uid": UID,
            "creationTimestamp": "1970-01-01T00:01:40Z",
            "annotations": {
                "imagecache.dev/node-selector": "pool=gpu",
                "imagecache.dev/priority": " -7 ",
                "imagecache.dev/also-unpack": "devmapper, overlayfs,",
                "imagecache.dev/direct-io": "true",
                "k8s.aliyun.com/imc-cpu-arch": "arm64,amd64",
            },
        },
        "status": {
            "phase": "Updating",
            "imageCacheId": ID,
            "bundleDigest": DIGEST,
            "images": [
                {"image": "nginx", "digest": digest, "platform": "linux/amd64"},
                {"image": "nginx", "digest": digest, "platform": "linux/arm64", "private": True},
                {"image": "worse", "platform": "linux", "private": "perhaps"},
            ],
        },
    }
    assert cache_of(item) == Cache(
        name="a",
        id=ID,
        ready=True,
        selector=selector.parse("pool=gpu", ""),
        priority=-7,
        created=100.0,
        expected=ExpectedBundle(
            ID,
            Digest(DIGEST),
            frozenset(
                {
                    ExpectedImage("nginx", "linux/amd64", digest),
                    ExpectedImage("nginx", "linux/arm64", digest, private=True),
                    ExpectedImage("worse", "linux", ""),
                }
            ),
        ),
        platforms=(AMD64, ARM64),
        named=(AMD64, ARM64),
        also_unpack=("devmapper", "overlayfs"),
        direct_io=True,
    )


@pytest.mark.parametrize(
    ("phase", "tried", "found"),
    [
        ("Pending", ID, ""),
        ("Creating", ID, ID),
        ("Ready", ID, ""),
        ("Updating", NEXT, NEXT),
        ("Updating", ID, ""),
        ("Updating", OTHER, ""),
        ("Updating", None, ""),
        ("UpdateFailed", NEXT, ""),
        ("Failed", ID, ""),
    ],
)
def test_the_bundle_that_is_being_built(phase: str, tried: str | None, found: str) -> None:
    item: dict[str, JSON] = {
        "metadata": {"name": "a", "uid": UID},
        "status": {"phase": phase, "imageCacheId": ID, "attempt": {"imageCacheId": tried}},
    }
    assert cache_of(item).building == found


@pytest.mark.parametrize("phase", ["Ready", "Updating", "UpdateFailed"])
def test_phases_that_serve(phase: str) -> None:
    status: JSON = {"phase": phase, "imageCacheId": ID, "bundleDigest": DIGEST}
    item: dict[str, JSON] = {"metadata": {"name": "a", "uid": UID}, "status": status}
    assert cache_of(item).ready
    item["metadata"] = {"name": "a", "uid": "22222222-2222-4222-8222-222222222222"}
    assert (cache_of(item).ready, cache_of(item).id) == (False, ""), "restored from a backup: it is another cache's"


@pytest.mark.parametrize(
    "status",
    [
        None,
        {},
        {"phase": "Ready"},
        {"phase": "Ready", "imageCacheId": "../../etc", "bundleDigest": DIGEST},
        {"phase": "Ready", "imageCacheId": ID},
        {"phase": "Ready", "imageCacheId": ID, "bundleDigest": "md5:1"},
        {"phase": "Creating", "imageCacheId": ID},
        {"phase": "Failed", "imageCacheId": ID},
        {"phase": 7, "imageCacheId": [], "images": "nonsense"},
    ],
)
def test_statuses_of_which_nothing_can_be_fetched(status: JSON) -> None:
    metadata: JSON = {"name": "a", "uid": UID, "annotations": {"imagecache.dev/priority": "high"}}
    found = cache_of({"metadata": metadata, "status": status})
    assert (found.ready, found.priority, found.created, found.expected) == (False, 0, 0.0, None)


def test_a_selector_that_cannot_be_parsed() -> None:
    keys: JSON = {"imagecache.dev/node-selector": "pool=("}
    assert cache_of({"metadata": {"name": "a", "annotations": keys}}).selector is None
    assert cache_of({"metadata": {"name": "a"}}).selector == selector.EVERYTHING


def test_an_object_that_is_being_deleted() -> None:
    assert cache_of({"metadata": {"name": "a", "deletionTimestamp": "2024-05-01T12:00:00Z"}}).deleting
