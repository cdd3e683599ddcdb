"""An ImageCache in each phase, as the tools see it that wait for one: kstatus itself, and Argo CD's Lua.

The objects are those that the controller's decisions write, with what the CRD gives a new one.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from imagecache.api import crd
from imagecache.api.types import ImageCache
from imagecache.api.yamltext import JSON
from imagecache.controller.decision import Broken, Ended, Running
from testkit.peers.kstatus import Judgement, judge
from testkit.peers.programs import checkout
from tests.unit.controller.situations import (
    AWAY,
    DISK,
    EDITED,
    FOR_SECRETS,
    HAS_ONE,
    NO_SECRET,
    NONSENSE,
    NOT_FOUND,
    ONE,
    REDIS,
    REFUSED,
    TWO,
    A,
    bundle,
    cache,
    creating,
    look,
    ready,
    request,
    settled,
    updating,
)

pytestmark = pytest.mark.peers


def after(of: ImageCache, **observed: Any) -> dict[str, JSON]:
    """The object once the controller has looked at it."""
    return _item(of.with_status(look(of, **observed).status))


def _item(of: ImageCache) -> dict[str, JSON]:
    item: dict[str, JSON] = msgspec.to_builtins(of)
    return item


def new() -> dict[str, JSON]:
    """As the API server stores it: with the defaults of the CRD."""
    version: Any = crd.image_cache()["spec"]
    schema = version["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
    return _item(A) | {"status": schema["default"]}


READY = A.with_status(settled(ready()))
WAITS, GOES_ON, ENDS = "InProgress", "InProgress", "Failed"
OBJECTS: dict[str, tuple[dict[str, JSON], str, str]] = {
    "new": (new(), WAITS, "Progressing"),
    "seen": (after(A), GOES_ON, "Progressing"),
    "creating": (after(A.with_status(creating()), build=Running(request(ONE, A), 5, 10)), GOES_ON, "Progressing"),
    "waits-for-a-secret": (after(FOR_SECRETS, secrets_problem=NO_SECRET), WAITS, "Progressing"),
    "waits-for-a-registry": (
        after(A.with_status(creating()), build=Broken(request(ONE, A), AWAY)),
        WAITS,
        "Progressing",
    ),
    "waits-for-the-store": (after(A.with_status(creating()), store_problem=DISK), WAITS, "Progressing"),
    "failed": (after(A.with_status(creating()), build=Broken(request(ONE, A), NOT_FOUND)), ENDS, "Degraded"),
    "refused": (after(A.with_status(creating()), build=Broken(request(ONE, A), REFUSED)), ENDS, "Degraded"),
    "nonsense": (after(A, malformed=NONSENSE), ENDS, "Degraded"),
    "ready": (_item(READY), "Current", "Healthy"),
    "ready-while-the-store-is-away": (after(READY, store_problem=DISK), "Current", "Healthy"),
    "edited-and-not-seen-yet": (_item(EDITED.with_status(READY.status)), WAITS, "Progressing"),
    "edited-while-the-store-is-away": (
        after(EDITED.with_status(READY.status), store_problem=DISK),
        WAITS,
        "Progressing",
    ),
    "updating": (after(EDITED.with_status(READY.status), **HAS_ONE), GOES_ON, "Progressing"),
    "an-update-waits": (
        after(EDITED.with_status(updating()), **HAS_ONE, build=Broken(request(TWO, EDITED), AWAY)),
        WAITS,
        "Progressing",
    ),
    "an-update-failed": (
        after(EDITED.with_status(updating()), **HAS_ONE, build=Broken(request(TWO, EDITED), NOT_FOUND)),
        ENDS,
        "Degraded",
    ),
    "updated": (
        after(
            EDITED.with_status(updating()),
            bundles={ONE: bundle(ONE), TWO: bundle(TWO, REDIS)},
            build=Ended(request(TWO, EDITED)),
        ),
        "Current",
        "Healthy",
    ),
    "lost": (after(READY), GOES_ON, "Progressing"),
    "deleted": (
        _item(cache(status=READY.status, deletion_timestamp="2024-05-01T12:00:00Z")),
        "Terminating",
        "Healthy",  # Argo CD looks at the deletion before it asks the script
    ),
}


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Judgement]:
    text = (checkout() / "docs" / "waiting.md").read_text(encoding="utf-8")
    (lua,) = re.findall(r"```lua\n(.*?)```", text, re.DOTALL)
    script: Path = tmp_path_factory.mktemp("lua") / "health.lua"
    script.write_text(lua)
    return dict(zip(OBJECTS, judge([item for item, _, _ in OBJECTS.values()], script), strict=True))


@pytest.mark.parametrize("name", OBJECTS)
def test_what_tools_that_wait_see(name: str, judged: dict[str, Judgement]) -> None:
    _, status, health = OBJECTS[name]
    found = judged[name]

    assert (found.kstatus, found.flux, found.argo) == (status, status, health), found


def test_why_is_said(judged: dict[str, Judgement]) -> None:
    for name in ("failed", "an-update-failed"):
        assert "no such tag; check the tag" in judged[name].message
        assert judged[name].said.startswith("ImageNotFound: ")
    assert "does not exist" in judged["waits-for-a-secret"].message
    assert "no answer" in judged["waits-for-a-registry"].said
