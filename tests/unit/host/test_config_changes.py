"""containerd's configuration is repaired before it starts: whose turn it is, and what is not tried again."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagecache.errors import ContainerdMisconfigured
from imagecache.host.config_changes import ConfigChanges
from imagecache.host.service_files import UNITS, HostFiles
from imagecache.host.systemd_units import UNINSTALL
from testkit.host_service import DROP_IN, FakeContainerdFiles, read


@pytest.fixture
def changes(tmp_path: Path) -> ConfigChanges:
    files = HostFiles(tmp_path)
    return ConfigChanges(files, FakeContainerdFiles(files))


def reads() -> str:
    return ""


def refuses() -> str:
    return "bad"


def test_what_is_missing_is_written(changes: ConfigChanges) -> None:
    assert changes.repair_before_start(reads)
    assert read(changes.files, DROP_IN) == "ours"
    assert changes.repair_before_start(refuses) == ()


def test_what_containerd_cannot_read_is_undone_and_not_tried_again(changes: ConfigChanges) -> None:
    with pytest.raises(ContainerdMisconfigured, match="cannot read its configuration"):
        changes.repair_before_start(refuses)
    assert (read(changes.files, DROP_IN), read(changes.files, changes.files.refused)) == ("", "first")

    assert changes.repair_before_start(reads) == ()
    changes.files.at(changes.files.refused).write_bytes(b"\xff")
    assert changes.repair_before_start(reads)


def test_an_uninstall_is_not_undone(changes: ConfigChanges) -> None:
    changes.files.write(UNITS / UNINSTALL, "", 0o644)
    assert changes.repair_before_start(reads) == ()


def test_another_process_has_its_turn(changes: ConfigChanges) -> None:
    """It may be the one that restarts containerd, and would wait for us."""
    with changes.files.locked():
        assert changes.repair_before_start(reads) == ()
