"""What a user types and sees, column by column."""

from __future__ import annotations

import json
import re

import yaml

from imagecache.kube.objects import at, text
from testkit.cluster.installed import KIND, Installed
from testkit.peers.processes import wait_until

from .conftest import Site

CACHE_ID = r"imc-[a-z0-9]{20}"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def rows(text: str) -> list[list[str]]:
    """The cells of a kubectl table, which are apart by two spaces and more."""
    return [re.split(r"\s{2,}", line.strip()) for line in text.strip().splitlines()]


def test_the_seven_commands(site: Site, system: Installed) -> None:
    kubectl = system.cluster.kubectl
    image = site.registry.push("commands/app:1.4", site.image())

    assert rows(kubectl("get", f"crd/{KIND}"))[0][0].startswith("NAME")
    manifest = json.dumps(system.manifest("imagecache-sample", [image], site.plain, imageCacheSize=25, retentionDays=7))
    created = kubectl("create", "-f", "-", stdin=manifest)
    assert created == "imagecache.eci.alibabacloud.com/imagecache-sample created\n"
    system.wait_ready("imagecache-sample")

    header, row = rows(kubectl("get", "imagecache"))
    assert header == ["NAME", "AGE", "CACHEID", "PHASE", "PROGRESS"]
    assert row[0] == "imagecache-sample"
    assert re.fullmatch(CACHE_ID, row[2])
    assert row[3:] == ["Ready", "100%"]
    for short in ("ic", "imc"):
        assert rows(kubectl("get", short))[1][2:] == row[2:]
    wide = rows(kubectl("get", "imagecache", "-o", "wide"))
    assert wide[0] == ["NAME", "AGE", "CACHEID", "PHASE", "PROGRESS", "NODES", "SIZE", "REASON"]
    assert wide[1][5] == "3/3"
    assert "imagecache-sample" not in kubectl("get", "all"), "who may read one namespace alone would get an error"
    met = kubectl("wait", "--for=condition=Ready", "imagecache/imagecache-sample", "--timeout=10s")
    assert met == "imagecache.eci.alibabacloud.com/imagecache-sample condition met\n"
    told = kubectl("describe", "imagecache/imagecache-sample")
    for reason in ("Pulling", "Pulled", "Ready", "NodesReady"):
        assert re.search(rf"Normal\s+{reason}\s", told), f"no Event {reason}"
    gone = kubectl("delete", "imagecache/imagecache-sample")
    assert gone.startswith('imagecache.eci.alibabacloud.com "imagecache-sample" deleted')
    assert not system.exists("imagecache-sample")


def test_the_status_is_that_of_eci(site: Site, system: Installed) -> None:
    image = site.registry.push("status/app:1", site.image())
    site.create("status", image, retentionDays=7)
    system.wait_ready("status")

    status = yaml.safe_load(system.cluster.kubectl("get", "imagecache/status", "-o", "yaml"))["status"]

    assert re.fullmatch(CACHE_ID, status["imageCacheId"])
    assert (status["phase"], status["progress"]) == ("Ready", "100%")
    for key in ("startTime", "lastUpdatedTime", "expireDateTime"):
        assert TIME.fullmatch(status[key]), key
    messages = [event["message"] for event in status["events"]]
    assert f"Successfully pulled image {image}" in messages
    assert {condition["type"]: condition["status"] for condition in status["conditions"]} == {
        "Ready": "True",
        "Building": "False",
        "Reconciling": "False",
        "Stalled": "False",
        "Serving": "True",
        "Degraded": "False",
    }
    assert {condition["observedGeneration"] for condition in status["conditions"]} == {1}
    assert status["observedGeneration"] == 1
    assert status["images"][0]["image"] == image
    assert status["nodes"] == {"desired": 3, "ready": 3, "failed": 0}


def test_progress_moves_and_never_goes_back(site: Site, system: Installed) -> None:
    image = site.registry.push("progress/app:1", site.image(*[30_000_000] * 6))
    site.create("progress", image)
    seen = []
    while (status := system.get("progress").get("status")) is None or isinstance(status, dict):
        found = status or {}
        seen.append(int(str(found.get("progress", "0%")).rstrip("%")))
        if found.get("phase") in ("Ready", "Failed"):
            break

    assert seen == sorted(seen)
    assert seen[-1] == 100
    assert system.phase("progress") == "Ready"


def test_explain_is_worth_reading(system: Installed) -> None:
    told = system.cluster.kubectl("explain", "imagecache.spec")

    for name in ("images", "imagePullSecrets", "imageCacheSize", "retentionDays"):
        assert re.search(rf"^  {name}\t", told, re.MULTILINE)
    assert "nginx:1.25" in told


def test_an_object_that_nobody_has_seen_is_not_taken_for_a_ready_one(site: Site, system: Installed) -> None:
    """By the default of the CRD: a tool that waits sees another generation than the object's."""
    image = site.registry.push("unseen/app:1", site.image())
    system.controller.stop()
    site.create("unseen", image)
    seen = system.get("unseen")["status"]
    system.controller.start()
    system.controller.wait_leading()

    assert seen == {"observedGeneration": -1}
    assert at(system.wait_ready("unseen"), "status", "observedGeneration") == 1


def test_a_wait_after_an_edit_is_for_what_the_edit_asks_for(site: Site, system: Installed) -> None:
    kubectl = system.cluster.kubectl
    before, after = (site.registry.push(f"edited/app:{number}", site.image()) for number in (1, 2))
    site.create("edited", before)
    system.wait_ready("edited")

    kubectl("patch", "imagecache/edited", "--type=merge", "--patch", json.dumps({"spec": {"images": [after]}}))
    kubectl("wait", "--for=condition=Ready", "imagecache/edited", "--timeout=60s")

    images = at(system.get("edited"), "status", "images")
    assert isinstance(images, list)
    assert [text(image, "image") for image in images] == [after]


def test_a_status_that_somebody_sets_back_is_written_again(site: Site, system: Installed) -> None:
    site.create("patched", site.registry.push("patched/app:1", site.image()))
    site.create("other", site.registry.push("patched/other:1", site.image()))
    own, other = (text(system.wait_ready(name), "status", "imageCacheId") for name in ("patched", "other"))
    patch = json.dumps({"status": {"phase": "Failed", "imageCacheId": other, "progress": "1%"}})
    system.cluster.kubectl("patch", "imagecache/patched", "--subresource=status", "--type=merge", f"--patch={patch}")

    assert wait_until(
        lambda: (text(system.get("patched"), "status", "imageCacheId"), system.phase("patched")) == (own, "Ready"),
        seconds=30,
        every=0.1,
    )
    system.delete("patched")
    assert system.phase("other") == "Ready"
    system.wait_nodes("other")
