"""``imagecache layer``: one layer at a time, without a store."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path
from typing import Annotated

import typer

from imagecache.cli import files
from imagecache.cli.application import LayerEntry
from imagecache.cli.options import settings_flags
from imagecache.cli.session import Session, say
from imagecache.digest import DiffID, Digest

app = typer.Typer(help="Work on one layer image.", no_args_is_help=True, rich_markup_mode=None)
_Image = Annotated[Path, typer.Argument(metavar="FILE", help="A layer image.")]


@app.command()
@settings_flags()
def build(
    session: Session,
    source: Annotated[Path, typer.Argument(metavar="IN", help="tar, tar.gz or tar.zst; - is stdin.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="The layer image to write.")],
    lower: Annotated[
        list[Path] | None, typer.Option("--lower", metavar="FILE", help="A layer image below, bottom first.")
    ] = None,
) -> None:
    """Convert a layer to a layer image; prints diffID, SHA-256, size and entries as JSON."""
    tool = session.application().layers()
    with files.reading(source) as stream:
        built = tool.build(stream, output, lower or [])
    say(
        json.dumps(
            {
                "diffID": built.diff_id,
                "sha256": built.sha256,
                "size": built.size,
                "tarSize": built.tar_size,
                "entries": built.entries,
                "contextDependent": built.context_dependent,
            }
        )
    )


@app.command()
@settings_flags()
def verify(
    session: Session,
    file: _Image,
    diff_id: Annotated[str | None, typer.Option("--diff-id", metavar="DIGEST", help="The diffID it must have.")] = None,
) -> None:
    """Prove a layer image: its data hashes to its diffID, its metadata re-derives from the data."""
    wanted = DiffID(Digest(diff_id)) if diff_id else None
    proved = session.application().layers().verify(file, wanted)
    say(
        json.dumps(
            {
                "diffID": proved.diff_id,
                "sha256": proved.sha256,
                "size": proved.size,
                "entries": proved.entries,
                "verified": True,
            }
        )
    )


@app.command()
@settings_flags()
def export(
    session: Session,
    file: _Image,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="TAR", help="Where to; - is stdout.")],
) -> None:
    """Give back the original tar, byte for byte."""
    tool = session.application().layers()
    with files.writing(output) as stream:
        exported = tool.export(file, stream)
    text = json.dumps({"diffID": exported.diff_id, "size": exported.size})
    (sys.stderr if output == files.STANDARD else sys.stdout).write(f"{text}\n")


@app.command("ls")
@settings_flags()
def list_(
    session: Session,
    file: _Image,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List a layer image as overlayfs sees it; a whiteout is a character device 0,0."""
    for entry in session.application().layers().entries(file):
        say(_as_json(entry) if as_json else _as_text(entry))


def _as_text(entry: LayerEntry) -> str:
    """As ``tar -tv`` shows it."""
    device = stat.S_ISCHR(entry.mode) or stat.S_ISBLK(entry.mode)
    size = f"{entry.major},{entry.minor}" if device else str(entry.size)
    target = f" -> {_printable(entry.target)}" if entry.target else ""
    return f"{stat.filemode(entry.mode)} {entry.uid}/{entry.gid} {size:>10} {_printable(entry.path)}{target}"


def _printable(name: str) -> str:
    """Control characters and undecodable bytes escaped: names are hostile, and a terminal obeys them."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in name)


def _as_json(entry: LayerEntry) -> str:
    value: dict[str, str | int] = {
        "path": entry.path,
        "mode": f"{entry.mode:o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "size": entry.size,
        "mtime": entry.mtime,
    }
    if entry.target:
        value["target"] = entry.target
    if stat.S_ISCHR(entry.mode) or stat.S_ISBLK(entry.mode):
        value |= {"major": entry.major, "minor": entry.minor}
    return json.dumps(value)
