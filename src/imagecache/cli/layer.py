"""``imagecache layer``: one layer image at a time, without a store."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Annotated

import typer

from imagecache.cli import files
from imagecache.cli.options import settings_flags
from imagecache.cli.session import say
from imagecache.digest import DiffID, Digest
from imagecache.errors import InvalidInput
from imagecache.tree import Inode

app = typer.Typer(help="Work on one layer image.", no_args_is_help=True, rich_markup_mode=None)
_Image = Annotated[Path, typer.Argument(metavar="FILE", help="A layer image.")]


@app.command()
@settings_flags()
def build(
    source: Annotated[Path, typer.Argument(metavar="IN", help="tar, tar.gz or tar.zst; - is stdin.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="The layer image to write.")],
    lower: Annotated[
        list[Path] | None, typer.Option("--lower", metavar="FILE", help="A layer image below, bottom first.")
    ] = None,
    diff_id: Annotated[
        str | None,
        typer.Option(
            "--diff-id",
            metavar="DIGEST",
            help="The expected diffID. With it several cores inflate a large gzip file, if rapidgzip is installed.",
        ),
    ] = None,
    bottom: Annotated[bool, typer.Option("--bottom", help="It is the bottom layer of its image.")] = False,
) -> None:
    """Convert a layer to a layer image; prints diffID, digest, size and entries as JSON."""
    from imagecache.builder import layer_file
    from imagecache.erofs.layer_header import LayerFlags

    _check_position(lower, bottom=bottom)
    with files.reading(source) as stream:
        wanted = DiffID(Digest(diff_id)) if diff_id else None
        built = layer_file.build(stream, output, lower or [], wanted, bottom=bottom)
    header = built.header
    say(
        json.dumps(
            {
                "diffID": header.diff_id,
                "digest": built.digest,
                "size": built.size,
                "tarSize": header.tar_size,
                "entries": header.entries,
                "contextDependent": LayerFlags.IMPLIED in header.flags,
                "threads": built.threads,
            }
        )
    )


@app.command()
@settings_flags()
def verify(
    file: _Image,
    diff_id: Annotated[str | None, typer.Option("--diff-id", metavar="DIGEST", help="The expected diffID.")] = None,
    lower: Annotated[
        list[Path] | None,
        typer.Option(
            "--lower", metavar="FILE", help="A layer image below, bottom first: prove it for on top of these."
        ),
    ] = None,
    bottom: Annotated[bool, typer.Option("--bottom", help="Prove it for the bottom of an image.")] = False,
) -> None:
    """Prove a layer image: its data hashes to its diffID, and its metadata can be derived from the data again.

    Without --bottom and --lower it must be right at every position, as those below layers/ in a store are.
    """
    from imagecache.builder import layer_file

    _check_position(lower, bottom=bottom)
    wanted = DiffID(Digest(diff_id)) if diff_id else None
    proved = layer_file.verify(file, wanted, bottom=bottom, lower=lower or [])
    say(
        json.dumps(
            {
                "diffID": proved.header.diff_id,
                "digest": proved.digest,
                "size": proved.size,
                "entries": proved.header.entries,
                "verified": True,
            }
        )
    )


def _check_position(lower: list[Path] | None, *, bottom: bool) -> None:
    if lower and bottom:
        raise InvalidInput("a bottom layer has no layers below", hint="leave out --bottom or --lower")


@app.command()
@settings_flags()
def export(
    file: _Image,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="TAR", help="The file to write; - is stdout.")],
) -> None:
    """Write the original tar, byte for byte."""
    from imagecache.builder import layer_file

    with files.writing(output) as stream:
        header = layer_file.export(file, stream)
    # on stderr when stdout is the tar
    text = json.dumps({"diffID": header.diff_id, "size": header.tar_size})
    (sys.stderr if output == files.STANDARD else sys.stdout).write(f"{text}\n")


@app.command("ls")
@settings_flags()
def list_(
    file: _Image,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """List a layer image as overlayfs sees it; a whiteout is a character device 0,0."""
    from imagecache.erofs.reader import LayerImage

    with LayerImage.open(file) as image:
        for path, inode in image.walk():
            if path:  # the root has no name
                name, target = os.fsdecode(b"/".join(path)), os.fsdecode(inode.target)
                say(_as_json(name, target, inode) if as_json else _as_text(name, target, inode))


def _as_text(name: str, target: str, inode: Inode) -> str:
    """As ``tar -tv`` shows it; ``say`` escapes what is hostile, and bytes that no character is."""
    size = f"{inode.major},{inode.minor}" if _is_device(inode) else str(inode.size)
    arrow = f" -> {target}" if target else ""
    return f"{stat.filemode(inode.mode)} {inode.uid}/{inode.gid} {size:>10} {name}{arrow}"


def _is_device(inode: Inode) -> bool:
    return stat.S_ISCHR(inode.mode) or stat.S_ISBLK(inode.mode)


def _as_json(name: str, target: str, inode: Inode) -> str:
    value: dict[str, str | int] = {
        "path": name,
        "mode": f"{inode.mode:o}",
        "uid": inode.uid,
        "gid": inode.gid,
        "size": inode.size,
        "mtime": inode.mtime,
    }
    if target:
        value["target"] = target
    if _is_device(inode):
        value |= {"major": inode.major, "minor": inode.minor}
    return json.dumps(value)
