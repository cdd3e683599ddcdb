"""containerd's configuration for a node of the tests: everything below one directory, cgroupfs.

Two shapes: version 2 for containerd 1.6 and 1.7, version 3 for 2.x. Settings that are not obvious are explained where
they stand; where they were measured is said in the documents on the test cluster. It must not start anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from testkit.peers.processes import Daemon

_COMMON = """\
root = "{paths.root}"
state = "{paths.state}"
imports = ["{paths.etc}/conf.d/*.toml"]
[grpc]
  address = "{paths.address}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{paths.opt}"
"""
# restrict_oom_score_adj: without CAP_SYS_RESOURCE runc cannot lower it and dies.
_V2 = """\
version = 2
disabled_plugins = ["io.containerd.nri.v1.nri"]
{common}\
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{sandbox}"
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{paths.cni}"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{paths.etc}/certs.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
    disable_snapshot_annotations = false
"""
_V3 = """\
version = 3
disabled_plugins = ["io.containerd.nri.v1.nri"]
{common}\
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "{snapshotter}"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{sandbox}"
  [plugins."io.containerd.cri.v1.images".registry]
    config_path = "{paths.etc}/certs.d"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "{paths.cni}"
[plugins."io.containerd.grpc.v1.cri"]
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
"""
_HOSTS = """\
server = "{url}"
[host."{url}"]
  capabilities = ["pull", "resolve"]
"""
_CNI = '{"cniVersion": "0.3.1", "name": "loopback-only", "plugins": [{"type": "loopback"}]}'


@dataclass(frozen=True, slots=True)
class Paths:
    """Where containerd sees its own files; ``etc`` has conf.d and certs.d, ``cni`` the conflists."""

    root: Path
    state: Path
    etc: Path
    cni: Path
    opt: Path
    address: Path

    @classmethod
    def below(cls, directory: Path) -> Paths:
        """Everything in one directory, as the harness lays it out."""
        root, state, cni, opt = (directory / name for name in ("root", "state", "cni", "opt"))
        return cls(root, state, directory, cni, opt, directory / "containerd.sock")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """A place other than this machine's own namespaces to run containerd in: a node of a cluster."""

    daemon: Callable[[str, Sequence[str | Path], Mapping[str, str]], Daemon]
    """A program there: its name, words and environment."""
    paths: Paths
    """As seen there; on this machine they are those of ``Paths.below``, the socket excepted."""
    cni: str
    """The conflist for its pods."""


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """What differs from node to node."""

    paths: Paths
    sandbox_image: str
    snapshotter: str

    def render(self, major: int) -> str:
        """config.toml for containerd 1 or 2."""
        common = _COMMON.format(paths=self.paths)
        shape = _V2 if major == 1 else _V3
        return shape.format(common=common, paths=self.paths, sandbox=self.sandbox_image, snapshotter=self.snapshotter)


def write_hosts(directory: Path, host: str, url: str) -> None:
    """Send pulls from ``host`` to ``url`` (docs/hosts.md of containerd)."""
    folder = directory / "certs.d" / host
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hosts.toml").write_text(_HOSTS.format(url=url))


def write_cni(directory: Path, conflist: str = _CNI) -> None:
    """Write a conflist: containerd reports NetworkNotReady without one. Pods outside clusters use the host's."""
    folder = directory / "cni"
    folder.mkdir(exist_ok=True)
    (folder / "10-test.conflist").write_text(conflist)
