"""What ``create`` and ``apply`` have in common: their flags, and one run for each manifest of the files, with progress.

It must not know what a verb does with a manifest.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imagecache.cli import files
from imagecache.cli.session import Session, note, report, run
from imagecache.errors import ImageCacheError, Interrupted

if TYPE_CHECKING:
    from imagecache.api.parse import Parsed
    from imagecache.api.types import ImageCache
    from imagecache.plain_host.verbs import PlainHost, Show

    Verb = Callable[[PlainHost, ImageCache, Show], Coroutine[object, object, object]]

SETTINGS = (
    "address",
    "namespace",
    "mode",
    "snapshotter",
    "secrets",
    "docker_config",
    "hosts",
    "registry_ca",
    "insecure_registries",
    "registry_retries",
    "registry_connect_timeout",
    "registry_read_timeout",
    "jobs",
    "store_reserve",
    "allow_private_names",
    "reserved_names",
    "also_unpack",
)
"""Those of a command that builds and attaches."""
Files = Annotated[
    list[Path], typer.Option("--filename", "-f", metavar="FILE", help="Manifest, YAML or JSON; - is stdin.")
]
NoAttach = Annotated[bool, typer.Option("--no-attach", help="Build only; attach later.")]
AsJson = Annotated[bool, typer.Option("--json", help="Progress as one JSON object a line.")]


def for_each(session: Session, paths: Sequence[Path], verb: Verb, *, as_json: bool) -> None:
    """Run the verb on every manifest; a failure does not keep the others from being built. Raises the last one."""
    parsed = [item for path in paths for item in _parse(path)]
    host = session.host()
    _expire(host)
    worst: ImageCacheError | None = None
    for item in parsed:
        try:
            _run(session, host, item, verb, as_json=as_json)
        except Interrupted as error:
            raise Interrupted(
                f"{item.cache.name}: stopped; what was fetched is kept",
                hint=f"run the same command to resume: {shlex.join(['imagecache', *sys.argv[1:]])}",
            ) from error
        except ImageCacheError as error:
            if worst is not None:
                report(worst)
            worst = error
    if worst is not None:
        raise worst


def _parse(path: Path) -> Sequence[Parsed]:
    from imagecache.api.parse import parse

    source = "stdin" if path == files.STANDARD else str(path)
    return parse(files.text(path), source)


def _run(session: Session, host: PlainHost, item: Parsed, verb: Verb, *, as_json: bool) -> None:
    from imagecache.cli import progress

    for text in item.notes:
        note(text)
    display = progress.choose(session.clock, as_json=as_json)
    try:
        with display:
            run(verb(host, item.cache, display.on))
    except ImageCacheError as error:
        display.failed(error)
        raise


def _expire(host: PlainHost) -> None:
    """Expired caches make room first; one that cannot be deleted now is no reason to fail."""
    expired = run(host.expire())
    for deleted in expired.deleted:
        note(f"{deleted.cache.name} has expired and was deleted")
    for name, error in expired.failed:
        note(f"{name} has expired and could not be deleted: {error}")
