"""The command line in this process, over a fake host and a fake cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import pytest
from typer.testing import CliRunner, Result

from imagecache.apps.cluster_documents import Cluster
from imagecache.cli.commands import app
from imagecache.cli.session import Environment
from imagecache.kube import objects
from imagecache.kube.api import Object
from imagecache.kube.resources import IMAGE_CACHES, Resource
from imagecache.settings.table import Settings
from testkit.kube import FakeKube
from testkit.plain_host import FakeHost
from tests.unit.match.documents import image_cache, manifest

MANIFEST = """\
apiVersion: eci.alibabacloud.com/v1
kind: ImageCache
metadata:
  name: NAME
  annotations:
    k8s.aliyun.com/imc-enable-reuse: "true"
spec:
  images:
  - nginx:1.25
  retentionDays: 7
"""


@dataclass
class Shell:
    """Runs ``imagecache`` with a store of its own."""

    folder: Path
    host: FakeHost = field(default_factory=FakeHost)
    kube: FakeKube = field(default_factory=FakeKube)
    on_sleep: Callable[[], None] = lambda: None

    def __call__(
        self, *args: str, stdin: str | bytes = "", code: int = 0, environ: Mapping[str, str] = MappingProxyType({})
    ) -> Result:
        own = {
            "IMAGECACHE_STORE": str(self.folder / "store"),
            "IMAGECACHE_CONFIG": str(self.folder / "config.toml"),
        }
        environment = Environment(
            environ={**own, **environ},
            open_host=self.host.open,
            open_cluster=self.open_cluster,
            clock=self.host.clock,
            sleep=lambda seconds: self.on_sleep(),  # noqa: ARG005 - the time does not matter
        )
        (self.folder / "config.toml").touch()
        result = CliRunner().invoke(app, list(args), obj=environment, input=stdin)
        assert result.exit_code == code, result.output
        return result

    def manifest(self, name: str = "a", **replaced: str) -> str:
        """A file with a manifest; keywords replace text in it."""
        text = MANIFEST.replace("NAME", name)
        for old, new in replaced.items():
            text = text.replace(*{"image": ("nginx:1.25", new), "days": ("retentionDays: 7", new)}[old])
        path = self.folder / f"{name}.yaml"
        path.write_text(text)
        return str(path)

    def file(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text)
        return str(path)

    @asynccontextmanager
    async def open_cluster(self, settings: Settings) -> AsyncIterator[Cluster]:
        """The ``open_cluster`` of a command's environment."""
        del settings
        yield Cluster(self.kube, "team")

    def put(self, resource: Resource, item: Object, namespace: str = "") -> Object:
        """An object of the cluster, with its status."""
        return asyncio.run(self._put(resource, item, namespace))

    def put_cache(self, name: str, *images: str, ready: bool = True) -> Object:
        """A status is of the uid that the API server has given."""
        uid = objects.uid(self.put(IMAGE_CACHES, manifest(name, *images)))
        status = image_cache(name, *images, uid=uid, ready=ready)["status"]
        return asyncio.run(self.kube.patch(IMAGE_CACHES, name, {"status": status}, subresource="status"))

    async def _put(self, resource: Resource, item: Object, namespace: str) -> Object:
        made = await self.kube.create(resource, item, namespace=namespace)
        if "status" not in item or "status" in made:
            return made
        return await self.kube.patch(resource, objects.name(made), {"status": item["status"]}, subresource="status")


@pytest.fixture
def imagecache(tmp_path: Path) -> Shell:
    return Shell(tmp_path)
