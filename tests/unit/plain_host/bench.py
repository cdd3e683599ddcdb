"""A host without Kubernetes over fakes, with its objects in a real directory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from imagecache.api.parse import parse
from imagecache.api.types import ImageCache, Phase, Status
from imagecache.api.yamltext import JSON
from imagecache.kube.api import Object
from imagecache.kube.object_files import ObjectFiles
from imagecache.plain_host.verbs import PlainHost
from imagecache.settings.table import Settings
from imagecache.store.paths import StorePaths
from testkit.plain_host import FakeHost


class Bench(FakeHost):
    """A host, and everything around it."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.settings = Settings(store=folder / "store", secrets=folder / "secrets")
        self.files = ObjectFiles(StorePaths(self.settings.store))

    @property
    def host(self) -> PlainHost:
        """As a new process opens it."""
        return self.open(self.settings, self.clock)

    def status(self, name: str = "a") -> Status:
        return status_of(self.files.cache(name))

    def phase(self, name: str = "a") -> Phase | None:
        found = [cache for cache in self.files.caches() if cache.name == name]
        return found[0].status.phase if found and found[0].status else None

    def reasons(self, name: str = "a") -> list[str]:
        return [event.reason for event in self.status(name).events]

    def put(self, cache: ImageCache, **changed: JSON) -> None:
        """Write an object behind everybody's back."""
        item = self.files.read(cache.name) or _object(cache)
        with self.files.writing():
            self.files.write(cache.name, item | changed)

    def secret(self, word: str) -> None:
        """Save the pull secret ``default:cred``."""
        self.settings.secrets.mkdir(exist_ok=True)
        body = f'stringData: {{.dockerconfigjson: \'{{"auths": {{"x": {{"auth": "{word}"}}}}}}\'}}'
        text = f"kind: Secret\nmetadata: {{name: cred}}\ntype: kubernetes.io/dockerconfigjson\n{body}\n"
        (self.settings.secrets / "cred.yaml").write_text(text)


def manifest(name: str = "a", *images: str, annotations: dict[str, str] | None = None, **spec: object) -> ImageCache:
    """A document of these images; keywords are fields of the spec."""
    fields = "".join(f", {key}: {value}" for key, value in spec.items())
    listed = ", ".join(f'"{image}"' for image in images or ("nginx:1.25",))
    metadata = f"{{name: {name}, annotations: {annotations or {}}}}"
    text = f"{{apiVersion: eci.alibabacloud.com/v1, kind: ImageCache, metadata: {metadata}, "
    return parse(f"{text}spec: {{images: [{listed}]{fields}}}}}")[0].cache


def _object(cache: ImageCache) -> Object:
    return {
        "apiVersion": cache.api_version,
        "kind": cache.kind,
        "metadata": {"name": cache.name, "uid": uid_of(cache.name)},
        "spec": {"images": list(cache.spec.images)},
    }


def uid_of(name: str) -> str:
    """Of an object that ``put`` has made."""
    return f"uid-of-{name}"


def status_of(cache: ImageCache) -> Status:
    assert cache.status is not None
    return cache.status


async def eventually(condition: Callable[[], object]) -> None:
    """Let other tasks and threads go on until it is so."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + 10
    while loop.time() < deadline:
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never was")
