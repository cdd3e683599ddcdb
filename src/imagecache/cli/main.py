"""Entry point of the ``imagecache`` command: the verbs, and errors to exit codes.

It must not do what a verb does.
"""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
