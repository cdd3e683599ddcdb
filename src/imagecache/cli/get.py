"""``imagecache get``: the table that kubectl would show, or the document."""

from __future__ import annotations

import enum
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from imagecache.cli.names import complete
from imagecache.cli.options import settings_flags
from imagecache.cli.session import Session, say

if TYPE_CHECKING:
    from imagecache.api.types import ImageCache
    from imagecache.plain_host.verbs import PlainHost

_POLL = 0.3
"""Seconds between two looks at the objects while watching."""


class Output(enum.Enum):
    TABLE = "table"
    WIDE = "wide"
    YAML = "yaml"
    JSON = "json"
    NAME = "name"


@settings_flags()
def get(
    session: Session,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="One ImageCache; all without it.", autocompletion=complete)
    ] = None,
    output: Annotated[Output, typer.Option("--output", "-o", help="table, wide, yaml, json or name.")] = Output.TABLE,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Keep running and show every change; Ctrl-C ends it.")
    ] = False,
) -> None:
    """Show ImageCaches as kubectl does."""
    host = session.host()
    caches = _read(host, name)
    printer = _Printer(session, output)
    if caches or output in {Output.YAML, Output.JSON}:
        printer.show(caches, listed=name is None)
    elif not watch:
        sys.stderr.write("No resources found\n")
    while watch:
        session.environment.sleep(_POLL)
        before, caches = caches, _read(host, name, missing_ok=True)
        for cache in _changed(before, caches):
            printer.show([cache], listed=False)


def _read(host: PlainHost, name: str | None, *, missing_ok: bool = False) -> Sequence[ImageCache]:
    if name is None:
        return host.list()
    from imagecache.errors import NotFound

    try:
        return [host.get(name)]
    except NotFound:
        if missing_ok:
            return []
        raise


def _changed(before: Sequence[ImageCache], after: Sequence[ImageCache]) -> Iterator[ImageCache]:
    known = {cache.name: cache for cache in before}
    return (cache for cache in after if known.get(cache.name) != cache)


class _Printer:
    def __init__(self, session: Session, output: Output) -> None:
        from imagecache.api import columns

        self._output = output
        self._clock = session.environment.clock
        self._wide = output is Output.WIDE
        self._table = columns.Table(columns.WIDE_COLUMNS if self._wide else columns.COLUMNS)
        self._header = True

    def show(self, caches: Sequence[ImageCache], *, listed: bool) -> None:
        """One object, or a list of them where the output knows lists."""
        from imagecache.api import columns, dump
        from imagecache.api.types import RESOURCE

        if self._output in {Output.YAML, Output.JSON}:
            value = dump.listing(caches) if listed else dump.document(caches[0])
            sys.stdout.write(dump.to_yaml(value) if self._output is Output.YAML else dump.to_json(value))
        elif self._output is Output.NAME:
            for cache in caches:
                say(f"{RESOURCE}/{cache.name}")
        else:
            now = self._clock.now()
            rows = [columns.row(cache, now, wide=self._wide) for cache in caches]
            for line in self._table.lines(rows, header=self._header):
                say(line)
            self._header = False
