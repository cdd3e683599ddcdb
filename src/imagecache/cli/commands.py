"""All commands in one typer application, and the only place where errors become exit codes."""

from __future__ import annotations

import os
from typing import Annotated

import typer
from typer.core import TyperGroup

from imagecache import __version__
from imagecache.cli import (
    agent,
    apply,
    attach,
    check,
    containerd_config,
    controller,
    create,
    delete,
    describe,
    detach,
    doctor,
    explain,
    get,
    host_service,
    keeper,
    layer,
    match,
    mount,
    snapshotter,
    umount,
)
from imagecache.cli.session import report, say
from imagecache.errors import ImageCacheError, Interrupted
from imagecache.settings.table import DEBUG_ENVIRONMENT


class Commands(TyperGroup):
    """A group whose commands may raise ImageCacheError."""

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]  # typer vendors click, the types are click's
        try:
            return super().invoke(ctx)
        except ImageCacheError as error:
            if os.environ.get(DEBUG_ENVIRONMENT):
                raise
            report(error)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            raise typer.Exit(Interrupted.exit_code) from error


app = typer.Typer(
    name="imagecache",
    cls=Commands,
    help="Container images pulled once, mounted everywhere.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # rich's tracebacks print local variables, which may hold credentials
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        say(f"imagecache {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """The options of the command itself."""
    del version


_VERBS = (
    create,
    apply,
    get,
    describe,
    delete,
    attach,
    detach,
    mount,
    umount,
    check,
    match,
    explain,
    agent,
    controller,
    keeper,
    snapshotter,
    doctor,
)
for _command in _VERBS:
    _name = _command.__name__.rpartition(".")[2]
    app.command(_name)(getattr(_command, _name))
app.add_typer(layer.app, name="layer")
app.add_typer(containerd_config.app, name="containerd-config")
app.add_typer(host_service.app, name="host")
