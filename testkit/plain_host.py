"""Fake of a host's ImageCaches: real verbs, decisions and object files; a fake builder, store and containerd."""

from __future__ import annotations

from imagecache.backoff import Backoff
from imagecache.clock import Clock
from imagecache.kube.files import FileKube
from imagecache.kube.object_files import ObjectFiles
from imagecache.kube.secret_directory import SecretDirectory
from imagecache.oci.descriptor import Platform
from imagecache.plain_host.node import HostNode
from imagecache.plain_host.verbs import HostDependencies, PlainHost
from imagecache.settings.table import Settings
from imagecache.store.paths import StorePaths
from testkit.builder import FakeAttacher, FakeBuilder, MemoryStore
from testkit.clock import FakeClock


class FakeHost:
    """One host with a memory: the same object serves several commands, each of which opens it."""

    def __init__(self, clock: FakeClock | None = None) -> None:
        self.clock = clock or FakeClock()
        self.store = MemoryStore()
        self.builder = FakeBuilder(self.store)
        self.attacher = FakeAttacher()

    def open(self, settings: Settings, clock: Clock) -> PlainHost:
        """The ``open_host`` of a command's environment."""
        return PlainHost(self.dependencies(settings, clock))

    def dependencies(self, settings: Settings, clock: Clock) -> HostDependencies:
        """Of one process."""
        paths = StorePaths(settings.store)
        files = ObjectFiles(paths)
        return HostDependencies(
            files=files,
            kube=FileKube(files, SecretDirectory(settings.secrets), clock),
            store=self.store,
            builder=lambda: self.builder,
            node=HostNode(paths.nodes, lambda: self.attacher, Platform(os="linux", architecture="amd64")),
            clock=clock,
            architecture="amd64",
            interval=0.0,
            claim=1.0,
            looks=Backoff(0.01, 0.02),
        )
