"""Which snapshotters get images too, and which runtime handlers are left out."""

import json

import pytest

from imagecache.containerd.handlers import Handlers, handlers_of, snapshotters_in
from imagecache.errors import ContainerdMisconfigured

FOUND = {"kata": "devmapper", "two": "overlayfs", "ours": "imagecache", "broken": "blockfile"}
LOADED = ("imagecache", "overlayfs", "devmapper", "native")


def test_what_matters_of_a_configuration() -> None:
    handlers = handlers_of(FOUND, LOADED, "imagecache")
    assert handlers.snapshotters == {"kata": "devmapper", "two": "overlayfs"}
    assert handlers.loaded == {"overlayfs", "devmapper", "native"}


@pytest.mark.parametrize(
    ("setting", "asked", "unpacked", "left_out"),
    [
        (("auto",), (), {"devmapper", "overlayfs"}, ()),
        (("off",), (), set(), ("kata", "two")),
        (("overlayfs",), (), {"overlayfs"}, ("kata",)),
        (("auto", "native"), (), {"devmapper", "overlayfs", "native"}, ()),
        (("overlayfs", "not-here"), (), {"overlayfs"}, ("kata",)),
        (("imagecache",), (), set(), ("kata", "two")),
        (("off",), ("auto",), {"devmapper", "overlayfs"}, ()),
        (("auto",), ("off",), set(), ("kata", "two")),
        (("auto",), ("devmapper",), {"devmapper"}, ("two",)),
    ],
)
def test_the_cache_asks_before_the_setting(
    setting: tuple[str, ...], asked: tuple[str, ...], unpacked: set[str], left_out: tuple[str, ...]
) -> None:
    handlers = handlers_of(FOUND, LOADED, "imagecache", setting)
    assert handlers.unpacked(asked) == unpacked
    assert handlers.left_out(asked) == left_out


def test_without_other_handlers_nothing_is_unpacked() -> None:
    assert Handlers().unpacked() == Handlers().unpacked(["auto"]) == frozenset()
    assert Handlers().left_out(["off"]) == ()


def test_the_configuration_in_cris_status() -> None:
    runtimes = {"runc": {"snapshotter": ""}, "kata": {"snapshotter": "devmapper"}, "of-1.6": {}}
    assert snapshotters_in(json.dumps({"containerd": {"runtimes": runtimes}})) == {"kata": "devmapper"}
    assert snapshotters_in(json.dumps({"containerd": {"runtimes": None}})) == {}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"containerd": 1}', '{"containerd": {"runtimes": {"a": 1}}}'])
def test_something_else_in_cris_status(text: str) -> None:
    with pytest.raises(ContainerdMisconfigured, match="runtime handlers"):
        snapshotters_in(text)
