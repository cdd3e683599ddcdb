"""``imagecache create``: validate, build, attach, with progress."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imagecache.cli import files
from imagecache.cli.options import settings_flags
from imagecache.cli.session import Session, note, report, run
from imagecache.errors import ImageCacheError, Interrupted

if TYPE_CHECKING:
    from imagecache.api.parse import Parsed
    from imagecache.standalone.controller import Controller


@settings_flags(
    "address",
    "namespace",
    "mode",
    "snapshotter",
    "secrets",
    "docker_config",
    "hosts",
    "registry_retries",
    "registry_connect_timeout",
    "registry_read_timeout",
    "jobs",
    "allow_private_names",
)
def create(
    session: Session,
    file: Annotated[
        list[Path], typer.Option("--filename", "-f", metavar="FILE", help="Manifest, YAML or JSON; - is stdin.")
    ],
    no_attach: Annotated[bool, typer.Option("--no-attach", help="Build only; attach later.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Progress as one JSON object a line.")] = False,
) -> None:
    """Build and attach ImageCaches.

    Pulls the images of each manifest once, makes every layer mountable, and records them in containerd.
    Ctrl-C keeps what was fetched; the same command goes on from there.
    """
    parsed = [cache for path in file for cache in _parse(path)]
    controller = session.application().controller()
    _expire(controller)
    worst: ImageCacheError | None = None
    for item in parsed:
        try:
            _create(session, controller, item, attach=not no_attach, as_json=as_json)
        except Interrupted as error:
            raise Interrupted(
                f"{item.cache.name}: stopped; what was fetched is kept",
                hint=f"the same command goes on from there: {shlex.join(['imagecache', *sys.argv[1:]])}",
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


def _create(session: Session, controller: Controller, item: Parsed, *, attach: bool, as_json: bool) -> None:
    from imagecache.cli import progress

    for text in item.notes:
        note(text)
    display = progress.choose(session.environment.clock, as_json=as_json)
    try:
        with display:
            run(controller.create(item.cache, attach=attach, watch=display.on))
    except ImageCacheError as error:
        display.failed(error)
        raise


def _expire(controller: Controller) -> None:
    """What has expired makes room first; a cache that cannot be deleted now is no reason to fail."""
    expired = run(controller.expire())
    for deleted in expired.deleted:
        note(f"{deleted.cache.name} has expired and was deleted")
    for name, error in expired.failed:
        note(f"{name} has expired and could not be deleted: {error}")
