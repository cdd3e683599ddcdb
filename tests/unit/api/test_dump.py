"""``-o yaml`` and ``-o json`` as kubectl prints them."""

from __future__ import annotations

import datetime as dt
import json

import msgspec

from imagecache.api import dump, events, phases
from imagecache.api.parse import parse
from imagecache.api.types import ImageCache, Metadata, StatusImage

NOW = dt.datetime(2019, 10, 24, 13, 40, 58, tzinfo=dt.UTC)
TEXT = """\
apiVersion: eci.alibabacloud.com/v1
kind: ImageCache
metadata: {name: a, annotations: {k8s.aliyun.com/imc-enable-reuse: "true", note: "it's: odd"}}
spec: {images: ["nginx:1.25"], imagePullSecrets: [], retentionDays: 1}
"""


def ready() -> ImageCache:
    cache = parse(TEXT)[0].cache
    status = phases.ready(
        phases.begin("imc-2zeditzeoemfhqor4rf8", 1, NOW),
        1,
        NOW,
        images=(StatusImage(image="nginx:1.25", digest="sha256:abc", size=5),),
        size=9,
        retention_days=1,
    )
    event = events.event("Pulled", "Successfully pulled image nginx:1.25", about="nginx:1.25", now=NOW)
    status = msgspec.structs.replace(status, events=(event,), conditions=status.conditions[:1])
    metadata = Metadata(
        name="a",
        annotations=cache.metadata.annotations,
        uid="u",
        creation_timestamp="2019-10-24T13:40:58Z",
        generation=1,
    )
    return msgspec.structs.replace(cache, metadata=metadata).with_status(status)


def test_yaml() -> None:
    assert (
        dump.to_yaml(dump.document(ready()))
        == """\
apiVersion: eci.alibabacloud.com/v1
kind: ImageCache
metadata:
  annotations:
    k8s.aliyun.com/imc-enable-reuse: "true"
    note: "it's: odd"
  creationTimestamp: "2019-10-24T13:40:58Z"
  generation: 1
  name: a
  uid: u
spec:
  images:
  - nginx:1.25
  retentionDays: 1
status:
  conditions:
  - lastTransitionTime: "2019-10-24T13:40:58Z"
    message: ""
    observedGeneration: 1
    reason: Built
    status: "True"
    type: Ready
  events:
  - count: 1
    eventTime: null
    firstTimestamp: "2019-10-24T13:40:58Z"
    involvedObject: {}
    lastTimestamp: "2019-10-24T13:40:58Z"
    message: Successfully pulled image nginx:1.25
    metadata:
      creationTimestamp: null
      name: nginx:1.25
    name: nginx:1.25
    reason: Pulled
    reportingComponent: ""
    reportingInstance: ""
    source:
      component: imagecache
      host: ""
    timestamp: "2019-10-24T13:40:58Z"
    type: Normal
  expireDateTime: "2019-10-25T13:40:58Z"
  imageCacheId: imc-2zeditzeoemfhqor4rf8
  images:
  - digest: sha256:abc
    image: nginx:1.25
    size: 5
  lastUpdatedTime: "2019-10-24T13:40:58Z"
  phase: Ready
  progress: 100%
  retentionDays: 1
  size: 9
  startTime: "2019-10-24T13:40:58Z"
"""
    )


def test_what_is_printed_can_be_created_again() -> None:
    again = parse(dump.to_yaml(dump.document(ready())))[0].cache

    assert again.spec == ready().spec
    assert again.metadata.annotations == ready().metadata.annotations
    assert again.status is None


def test_json_and_lists() -> None:
    text = dump.to_json(dump.listing([ready(), ready()]))

    assert text.startswith('{\n    "apiVersion": "v1",\n    "items": [\n')
    assert [item["metadata"]["name"] for item in json.loads(text)["items"]] == ["a", "a"]
    assert json.loads(text)["kind"] == "List"
