"""``imagecache host``: what it asks of the host, says, and ends with."""

from __future__ import annotations

from pathlib import Path

from imagecache.cli.application import Check, ConfigChange, HostLeft, HostOptions, Severity

from .conftest import Shell

KEEP = ("host", "keep", "--root", "/host", "--health", ":9465")
KEPT = HostOptions(Path("/host"), health=":9465")


def test_install_says_what_changed(imagecache: Shell) -> None:
    done = imagecache("host", "install", "--root", "/host", "--containerd-unit", "k3s.service", "--leave-containerd")

    assert done.output == "/opt/imagecache/current created\n"
    assert imagecache.application.hosted.calls == [
        ("install", HostOptions(Path("/host"), containerd_unit="k3s.service", configure=False))
    ]


def test_without_systemd_the_exit_code_says_so(imagecache: Shell) -> None:
    imagecache.application.hosted.missing = True
    done = imagecache("host", "install", code=65)

    assert "everything is in place" in done.output


def test_the_mode_and_other_settings_are_flags(imagecache: Shell) -> None:
    imagecache("host", "install", "--mode", "native", "--node-name", "a")

    assert imagecache.application.settings.mode.value == "native"
    assert imagecache.application.settings.node_name == "a"


def test_uninstall_says_what_is_left(imagecache: Shell) -> None:
    imagecache.application.hosted.left = HostLeft(
        [ConfigChange(Path("/etc/containerd/imagecache.toml"), "updated")], ["k8s.io/nginx:1"], in_use=3, done=False
    )
    done = imagecache("host", "uninstall")

    assert "/etc/containerd/imagecache.toml updated\nk8s.io/nginx:1 forgotten\n" in done.output
    assert "3 bundles are in use" in done.output


def test_status_ends_with_the_worst(imagecache: Shell) -> None:
    assert "agent: answers" in imagecache("host", "status").output
    imagecache.application.hosted.checks = (
        Check("host", "agent", Severity.PROBLEM, "does not answer", "journalctl --unit imagecache-agent"),
    )
    assert "-> journalctl" in imagecache("host", "status", code=81).output


def test_keep_leaves_the_host_as_it_is_in_an_upgrade(imagecache: Shell) -> None:
    imagecache(*KEEP)

    assert imagecache.application.hosted.calls == [("install", KEPT), ("keep", KEPT)]
    assert not imagecache.application.hosted.withdrawn


def test_keep_uninstalls_when_its_daemonset_is_gone(imagecache: Shell) -> None:
    imagecache.application.hosted.gone = True
    imagecache(*KEEP)

    assert imagecache.application.hosted.calls[-1] == ("uninstall", KEPT)
    assert imagecache.application.hosted.withdrawn


def test_the_report_goes_even_where_the_host_keeps_something(imagecache: Shell) -> None:
    imagecache.application.hosted.gone = imagecache.application.hosted.missing = True
    imagecache(*KEEP, code=65)

    assert imagecache.application.hosted.withdrawn


def test_keep_goes_on_where_somebody_else_starts_services(imagecache: Shell) -> None:
    imagecache.application.hosted.missing = True
    done = imagecache(*KEEP)

    assert "everything is in place" in done.output
    assert [name for name, _ in imagecache.application.hosted.calls] == ["install", "keep"]
