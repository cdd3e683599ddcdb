"""Entry point of the ``imagecache`` command; unexpected errors become one line and an exit code.

It must not do what a command does.
"""

from __future__ import annotations

import io
import os
import sys

from imagecache import __version__
from imagecache.settings.table import DEBUG_ENVIRONMENT


def main() -> None:
    """Run the command line and exit. ``--version`` alone does not import typer, which takes 0.1 s."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # in an encoding that lacks a character: its escape, as on stderr
        sys.stdout.reconfigure(errors="backslashreplace")
    if sys.argv[1:] == ["--version"]:
        sys.stdout.write(f"imagecache {__version__}\n")
        return
    from imagecache.cli.commands import app
    from imagecache.cli.session import report
    from imagecache.errors import InternalError

    try:
        app()
    except Exception as error:
        if os.environ.get(DEBUG_ENVIRONMENT):
            raise
        report(
            InternalError(
                f"internal error: {type(error).__name__}: {error}",
                hint=f"report it with the output that {DEBUG_ENVIRONMENT}=1 adds",
            )
        )
        sys.exit(InternalError.exit_code)
