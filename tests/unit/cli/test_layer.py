"""``imagecache layer``: layer images without a store."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import zstandard

from imagecache.digest import Digest
from imagecache.errors import MalformedLayer, StoreCorrupt
from testkit.tars import DIRECTORY, SYMLINK, Entry, tar

from .conftest import Shell

TAR = tar(
    Entry(b"etc/", DIRECTORY, mode=0o755),
    Entry(b"etc/.wh.gone"),
    Entry(b"etc/link", SYMLINK, target=b"../etc\x1b[2J", mode=0o777),
)
IMPLIED = tar(Entry(b"etc/hosts", content=b"x"))
"""It has no entry for ``etc``: the layer below says whose that is."""


def test_layer_commands(imagecache: Shell, tmp_path: Path) -> None:
    source, image, back = (tmp_path / name for name in ("in.tar", "x.erofs", "out.tar"))
    source.write_bytes(TAR)

    built = json.loads(imagecache("layer", "build", str(source), "-o", str(image)).stdout)
    content = image.read_bytes()
    assert built == {
        "diffID": Digest.sha256(TAR),
        "digest": Digest.sha256(content[4096:] + content[:4096]),
        "size": image.stat().st_size,
        "tarSize": len(TAR),
        "entries": 3,
        "contextDependent": False,
        "threads": 1,
    }
    proved = json.loads(imagecache("layer", "verify", str(image), "--diff-id", built["diffID"]).stdout)
    assert proved == {key: built[key] for key in ("diffID", "digest", "size", "entries")} | {"verified": True}
    exported = imagecache("layer", "export", str(image), "-o", str(back))
    assert json.loads(exported.stdout) == {"diffID": built["diffID"], "size": len(TAR)}
    assert back.read_bytes() == TAR
    piped = imagecache("layer", "export", str(image), "-o", "-")
    assert piped.stdout_bytes == TAR
    assert json.loads(piped.stderr)["size"] == len(TAR)


@pytest.mark.parametrize("data", [b"", gzip.compress(b""), zstandard.compress(b"")], ids=["plain", "gzip", "zstd"])
def test_a_layer_of_nothing(imagecache: Shell, tmp_path: Path, data: bytes) -> None:
    source, image = tmp_path / "e.tar", tmp_path / "e.erofs"
    source.write_bytes(data)

    built = json.loads(imagecache("layer", "build", str(source), "-o", str(image)).stdout)

    assert (built["diffID"], built["tarSize"], built["entries"]) == (Digest.sha256(b""), 0, 0)
    assert json.loads(imagecache("layer", "verify", str(image)).stdout)["verified"]
    assert imagecache("layer", "export", str(image), "-o", "-").stdout_bytes == b""
    assert imagecache("layer", "ls", str(image)).stdout == ""


def test_a_layer_on_top_of_another_from_stdin(imagecache: Shell, tmp_path: Path) -> None:
    source, below, image = (tmp_path / name for name in ("in.tar", "below", "x.erofs"))
    source.write_bytes(TAR)
    imagecache("layer", "build", str(source), "-o", str(below))

    built = json.loads(imagecache("layer", "build", "-", "-o", str(image), "--lower", str(below), stdin=IMPLIED).stdout)

    assert (built["diffID"], built["contextDependent"]) == (Digest.sha256(IMPLIED), True)


def test_a_layer_is_proven_for_the_position_that_is_asked_for(imagecache: Shell, tmp_path: Path) -> None:
    source, below, other, image = (tmp_path / name for name in ("in.tar", "below", "other", "x.erofs"))
    source.write_bytes(TAR)
    imagecache("layer", "build", str(source), "-o", str(below))
    source.write_bytes(tar(Entry(b"etc/", DIRECTORY, mode=0o777)))
    imagecache("layer", "build", str(source), "-o", str(other))
    imagecache("layer", "build", "-", "-o", str(image), "--lower", str(below), stdin=IMPLIED)

    assert json.loads(imagecache("layer", "verify", str(image), "--lower", str(below)).stdout)["verified"]
    wrong = StoreCorrupt.exit_code
    assert "not right for every position" in imagecache("layer", "verify", str(image), code=wrong).stderr
    imagecache("layer", "verify", str(image), "--lower", str(other), code=wrong)
    imagecache("layer", "verify", str(image), "--bottom", code=wrong)
    # a layer that is right everywhere is right there too
    imagecache("layer", "verify", str(below), "--lower", str(other))
    imagecache("layer", "verify", str(other), "--bottom")


def test_a_layer_for_the_bottom(imagecache: Shell, tmp_path: Path) -> None:
    source, image = tmp_path / "in.tar", tmp_path / "x.erofs"
    source.write_bytes(TAR)
    imagecache("layer", "build", str(source), "-o", str(image), "--bottom")

    imagecache("layer", "verify", str(image), "--bottom")
    imagecache("layer", "verify", str(image), code=StoreCorrupt.exit_code)
    for command in (["build", str(source), "-o", str(tmp_path / "y")], ["verify", str(image)]):
        result = imagecache("layer", *command, "--bottom", "--lower", str(image), code=2)
        assert "no layers below" in result.stderr


def test_layer_ls_shows_hostile_names_harmlessly(imagecache: Shell, tmp_path: Path) -> None:
    source, image = tmp_path / "in.tar", str(tmp_path / "x.erofs")
    source.write_bytes(TAR)
    imagecache("layer", "build", str(source), "-o", image)

    lines = imagecache("layer", "ls", image).stdout.splitlines()
    found = [json.loads(line) for line in imagecache("layer", "ls", "--json", image).stdout.splitlines()]

    assert lines == [
        "drwxr-xr-x 0/0         59 etc",
        "c--------- 0/0        0,0 etc/gone",
        r"lrwxrwxrwx 0/0         10 etc/link -> ../etc\x1b[2J",
    ]
    assert found[2]["target"] == "../etc\x1b[2J"
    assert (found[1]["mode"], found[1]["major"]) == ("20000", 0)


def test_layer_errors(imagecache: Shell, tmp_path: Path) -> None:
    source, sound, damaged = (tmp_path / name for name in ("in.tar", "sound", "damaged"))
    source.write_bytes(TAR)
    imagecache("layer", "build", str(source), "-o", str(sound))
    damaged.write_bytes(sound.read_bytes()[:5000])
    files = sorted(path.name for path in tmp_path.iterdir())

    assert "no such file" in imagecache("layer", "build", "nothing.tar", "-o", "x", code=2).stderr.lower()
    imagecache("layer", "verify", str(sound), "--diff-id", "sha256:1", code=2)
    imagecache("layer", "verify", str(sound), "--diff-id", "sha256:" + "0" * 64, code=20)
    imagecache("layer", "export", str(damaged), "-o", str(tmp_path / "out"), code=MalformedLayer.exit_code)
    imagecache("layer", "build", "-", "-o", str(tmp_path / "out"), stdin=b"no tar" * 200, code=MalformedLayer.exit_code)
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    imagecache("layer", "export", str(sound), "-o", str(tmp_path / "no" / "out"), code=40)
