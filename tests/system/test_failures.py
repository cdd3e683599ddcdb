"""What goes wrong in a build: the phase, the reason, the events, and how it heals."""

from __future__ import annotations

import json
import random

from imagecache.kube.objects import at, text
from testkit.cluster.installed import Installed
from testkit.peers.processes import wait_until

from .conftest import Site
from .test_pods import pull_secret


def reason(system: Installed, name: str) -> str:
    return text(system.get(name), "status", "reason")


def test_a_missing_image(site: Site, system: Installed) -> None:
    missing = f"{site.registry.address}/failures/nothing:1"
    site.create("missing", missing)
    found = system.wait_phase("missing", "Failed")

    assert text(found, "status", "reason").startswith("ImageNotFound: ")
    assert missing in text(found, "status", "reason")
    assert text(found, "status", "expireDateTime")
    assert "ImageNotFound" in system.cluster.kubectl("describe", "imagecache/missing")


def test_a_missing_secret_heals_when_it_appears(site: Site, system: Installed) -> None:
    image = site.guarded.push("failures/late:1", site.image())
    site.create("late", image, imagePullSecrets=["default:late"])
    assert wait_until(lambda: reason(system, "late").startswith("PullSecretUnavailable"), seconds=30, every=0.2)
    assert system.phase("late") == "Pending"

    system.cluster.apply(pull_secret(site.guarded.address, "late", "default"))

    system.wait_ready("late")


def test_a_wrong_secret_heals_when_it_is_corrected(site: Site, system: Installed) -> None:
    image = site.guarded.push("failures/wrong:1", site.image())
    system.cluster.apply(pull_secret(site.guarded.address, "wrong", "default", "not this"))
    site.create("wrong", image, imagePullSecrets=["default:wrong"])
    found = system.wait_phase("wrong", "Failed")
    assert image in text(found, "status", "reason")

    system.cluster.apply(pull_secret(site.guarded.address, "wrong", "default"))

    system.wait_phase("wrong", "Ready", seconds=60)
    messages = json.dumps(at(system.get("wrong"), "status", "events"))
    assert "not this" not in messages


def test_an_image_larger_than_its_cache(site: Site, system: Installed) -> None:
    made = site.image()
    document = json.loads(made.blob(made.descriptor.digest).read_bytes())
    document["layers"][0]["size"] = 30 << 30  # what the registry says is believed until it is downloaded
    body = json.dumps(document).encode()
    image = site.registry.push_manifest("failures/large:1", made, body)
    site.create("large", image, imageCacheSize=20)

    found = system.wait_phase("large", "Failed")

    assert text(found, "status", "reason").startswith("ImageTooLarge: ")
    assert "imageCacheSize" in text(found, "status", "reason")


def test_a_failed_cache_goes_when_its_time_has_come(site: Site, system: Installed) -> None:
    site.create("failed", f"{site.registry.address}/failures/nothing:2")
    system.wait_phase("failed", "Failed")

    expire(system, "failed")

    assert wait_until(lambda: not system.exists("failed"), seconds=30, every=0.2)


def test_a_cache_goes_when_its_time_has_come(site: Site, system: Installed) -> None:
    site.create("expiring", site.registry.push("failures/expiring:1", site.image()), retentionDays=1)
    system.wait_ready("expiring")

    expire(system, "expiring")

    assert wait_until(lambda: not system.exists("expiring"), seconds=30, every=0.2)
    assert wait_until(
        lambda: all("expiring" not in system.states(node) for node in system.cluster.nodes), seconds=30, every=0.2
    )


def expire(system: Installed, name: str) -> None:
    """Let its time have come: as if it were older, and the controller started again that much later."""
    system.controller.stop()
    system.backdate(name, "2019-01-01T00:00:00Z", expireDateTime="2020-01-01T00:00:00Z")
    system.controller.start()
    system.controller.wait_leading()


_IMAGES = (
    "",
    " ",
    "a",
    "A/b:c",
    "x" * 300,
    "host:99999/a:b",
    "a@sha256:0",
    "a:b:c",
    "\u2603",
    "..",
    "-",
    "a//b",
    "localhost",
)
_SECRETS = ("", ":", "a:b", "default:", ":x", "a:b:c", "default:../x", "x" * 400 + ":y")
_NUMBERS = (-(2**31), -1, 0, 1, 20, 2**31, 2**53)
_ANNOTATIONS = (
    "imc-cpu-arch",
    "imc-os-type",
    "imc-size",
    "imc-retention-days",
    "plain-http-registry",
    "insecure-registry",
)


def random_manifest(system: Installed, number: int) -> dict[str, object]:
    """Whatever the schema lets through, and some of what it does not."""
    choose = random.Random(number)
    spec: dict[str, object] = {"images": choose.choices(_IMAGES, k=choose.randint(0, 25))}
    for key, values in (("imageCacheSize", _NUMBERS), ("retentionDays", _NUMBERS)):
        if choose.random() < 0.5:
            spec[key] = choose.choice(values)
    if choose.random() < 0.5:
        spec["imagePullSecrets"] = choose.choices(_SECRETS, k=choose.randint(0, 4))
    if choose.random() < 0.3:
        spec[choose.choice(("unknown", "images", "imageCacheSize"))] = choose.choice(("text", 1.5, None, [], {}))
    words = (*map(str, _NUMBERS), "amd64", "windows", "", "a,b,,c", "1e3", "\u2603")
    annotations = {f"k8s.aliyun.com/{key}": choose.choice(words) for key in choose.sample(_ANNOTATIONS, 2)}
    return system.manifest(f"random-{number}", [], annotations) | {"spec": spec}


def test_random_manifests_end_with_a_reason(system: Installed) -> None:
    accepted = []
    for number in range(40):
        document = json.dumps(random_manifest(system, number))
        if not system.cluster.try_kubectl("create", "--filename=-", stdin=document).returncode:
            accepted.append(f"random-{number}")

    assert len(accepted) > 10
    for name in accepted:

        def ended(name: str = name) -> bool:
            """Ready, or a reason why not: for good, or until the secret is there."""
            return system.phase(name) == "Ready" or bool(reason(system, name))

        assert wait_until(ended, seconds=60, every=0.2), system.get(name)
    assert system.controller.running


def test_whatever_the_schema_takes_ends_with_a_phase(site: Site, system: Installed) -> None:
    """No crash, and a reason for everybody; what the schema refuses is refused at once."""
    fine = site.registry.push("failures/fine:1", site.image())
    odd: dict[str, dict[str, object]] = {
        "fuzz-empty-reference": {"images": [""]},
        "fuzz-spaces": {"images": ["   "]},
        "fuzz-upper": {"images": ["UPPER/Case:TAG"]},
        "fuzz-long": {"images": ["a" * 4000]},
        "fuzz-many": {"images": [f"{fine}{number}" for number in range(30)]},
        "fuzz-twice": {"images": [fine, fine]},
        "fuzz-secret": {"images": [fine], "imagePullSecrets": ["no-colon"]},
        "fuzz-size": {"images": [fine], "imageCacheSize": -5},
        "fuzz-huge": {"images": [fine], "imageCacheSize": 2**40},
        "fuzz-days": {"images": [fine], "retentionDays": -1},
        "fuzz-control": {"images": ["\u0000\u001b[2J"]},
        "fuzz-digest": {"images": [f"{fine}@sha256:{'0' * 64}"]},
    }
    for name, spec in odd.items():
        document = system.manifest(name, [], site.plain) | {"spec": spec}
        system.cluster.kubectl("create", "--filename=-", stdin=json.dumps(document))
    for name in odd:
        found = system.wait_phase(name, "Ready", "Failed")
        assert text(found, "status", "phase") == "Ready" or text(found, "status", "reason"), name
    assert {name for name in odd if system.phase(name) == "Ready"} == {"fuzz-twice", "fuzz-size", "fuzz-huge"}
    assert system.controller.running
