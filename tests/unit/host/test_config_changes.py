"""containerd's configuration is repaired before it starts: whose turn it is, and what is not tried again."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from imagecache.errors import ContainerdMisconfigured
from imagecache.host.config_changes import ConfigChanges
from imagecache.host.service_files import RESTARTING, UNITS, HostFiles
from imagecache.host.systemd_units import TIMER
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
    changes.files.write(UNITS / TIMER, "", 0o644)
    assert changes.repair_before_start(reads) == ()


def test_whoever_waits_for_containerd_s_start_is_not_waited_for(changes: ConfigChanges) -> None:
    """Neither would end."""
    with changes.files.locked():
        changes.files.write(RESTARTING, "", 0o600)
        began = time.monotonic()
        assert changes.repair_before_start(reads) == ()
    assert time.monotonic() - began < 5


def test_an_install_that_does_something_else_is_waited_for(changes: ConfigChanges) -> None:
    """It may have looked at the file before that was written anew, and would not look again."""
    locked, over = threading.Event(), threading.Event()

    def install() -> None:
        with changes.files.locked():
            locked.set()
            over.wait(10)

    thread = threading.Thread(target=install)
    thread.start()
    locked.wait(10)
    threading.Timer(0.5, over.set).start()
    try:
        assert changes.repair_before_start(reads)
    finally:
        over.set()
        thread.join()
    assert read(changes.files, DROP_IN) == "ours"


def test_a_mark_of_one_that_was_killed_counts_no_longer(changes: ConfigChanges) -> None:
    changes.files.write(RESTARTING, "", 0o600)
    with changes.files.locked():
        assert not changes.files.at(RESTARTING).exists()
