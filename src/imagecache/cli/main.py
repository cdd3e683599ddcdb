"""Entry point of the ``imagecache`` command: the verbs, and errors to exit codes.

It must not do what a verb does.
"""

from __future__ import annotations

import os
import sys

from imagecache import __version__
from imagecache.settings.table import DEBUG_ENVIRONMENT


def main() -> None:
    """Run the command line and exit. Typer is imported only when there is something to parse."""
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
                hint=f"please report it, with the output that {DEBUG_ENVIRONMENT}=1 adds",
            )
        )
        sys.exit(InternalError.exit_code)
