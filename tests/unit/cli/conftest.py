"""The command line in this process, over a fake host."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import pytest
from typer.testing import CliRunner, Result

from imagecache.cli.commands import app
from imagecache.cli.session import Environment
from testkit.plain_host import FakeHost

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


@pytest.fixture
def imagecache(tmp_path: Path) -> Shell:
    return Shell(tmp_path)
