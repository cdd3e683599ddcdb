"""Documents to text as ``kubectl get -o yaml`` and ``-o json`` print them.

Keys sorted, lists not indented, double quotes where quotes are needed. It must not print.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import msgspec
import yaml

from imagecache.api.types import ImageCache
from imagecache.api.yamltext import JSON

_WIDTH = 1 << 16
"""Never reached: kubectl does not fold long lines."""


class _Dumper(yaml.SafeDumper):
    def choose_scalar_style(self) -> str:
        style: str = super().choose_scalar_style()
        return '"' if style == "'" else style

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - PyYAML's signature
        return True


def document(cache: ImageCache) -> dict[str, JSON]:
    """The document as JSON values."""
    value: dict[str, JSON] = msgspec.to_builtins(cache)
    return value


def listing(caches: Sequence[ImageCache]) -> dict[str, JSON]:
    """Several documents as kubectl lists them."""
    return {
        "apiVersion": "v1",
        "kind": "List",
        "metadata": {"resourceVersion": ""},
        "items": [document(cache) for cache in caches],
    }


def to_yaml(value: JSON) -> str:
    def written(*, unicode: bool) -> str:
        text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=True, allow_unicode=unicode, width=_WIDTH)
        return text

    return _escaped(written)


def to_json(value: JSON) -> str:
    def written(*, unicode: bool) -> str:
        return json.dumps(value, indent=4, sort_keys=True, ensure_ascii=not unicode) + "\n"

    return _escaped(written)


def _escaped(written: Callable[..., str]) -> str:
    """In ASCII when it has characters that a terminal would obey, which both formats leave as they are else."""
    text = written(unicode=True)
    return text if all(line.isprintable() for line in text.split("\n")) else written(unicode=False)
