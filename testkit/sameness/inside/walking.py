"""What programs make of it: those that stay on one filesystem, and those that remember inode numbers."""

from __future__ import annotations

import json
import subprocess
import tarfile
from pathlib import Path

from .questions import SEVERAL, WORK, output, question

PROGRAMS = Path("/usr/sbin")
"""A directory of the lowest layer, to read all of."""


@question("before", "programs", "`tar --one-file-system`")
def tar_on_one_filesystem() -> str:
    words = ("tar", "--create", "--verbose", "--file=/dev/null")
    return _complete(output(*words, PROGRAMS), output(*words, "--one-file-system", PROGRAMS))


@question("before", "programs", "`find -xdev`")
def find_on_one_filesystem() -> str:
    return _complete(output("find", SEVERAL, "-type", "f"), output("find", SEVERAL, "-xdev", "-type", "f"))


@question("before", "programs", "`du -x`")
def du_on_one_filesystem() -> str:
    return _complete(output("du", "--all", PROGRAMS), output("du", "--all", "-x", PROGRAMS))


@question("before", "programs", "`cp -ax`")
def cp_on_one_filesystem() -> str:
    output("cp", "-ax", PROGRAMS, WORK / "copy")
    names = (sorted(str(path.relative_to(top)) for path in top.rglob("*")) for top in (PROGRAMS, WORK / "copy"))
    return _complete(*("\n".join(found) for found in names))


@question("before", "programs", "`rsync -ax`")
def rsync_on_one_filesystem() -> str:
    words = ("rsync", "--archive", "--dry-run", "--out-format=%n")
    places = (f"{PROGRAMS}/", f"{WORK}/none/")
    return _complete(output(*words, *places), output(*words, "--one-file-system", *places))


@question("before", "programs", "`restic backup --one-file-system`")
def restic_on_one_filesystem() -> str:
    words = ("restic", "--repo", WORK / "restic", "--no-cache")
    output(*words, "init")
    backups = [
        output(*words, "backup", "--force", "--json", *options, PROGRAMS).splitlines()[-1]
        for options in ([], ["--one-file-system"])
    ]
    return _complete(*(str(json.loads(summary)["total_files_processed"]) for summary in backups))


@question("before", "programs", "`git status` of files of the image")
def git_status() -> str:
    _git("init", "--quiet")
    _git("add", "--all")
    _git("-c", "user.name=probe", "-c", "user.email=probe@localhost", "commit", "--quiet", "--message=all")
    return _git("status", "--porcelain") or "nothing has changed"


@question("after", "programs", "`git diff-files`, when the kernel has dropped them and read them again")
def git_diff_files() -> str:
    return "files look changed" if _git("diff-files", "--name-only") else "nothing has changed"


@question("memory", "programs", "GNU tar that unpacks in 96 MiB of memory")
def gnu_tar() -> str:
    """Directories with links to absolute names, whose times tar sets at its end, if they are still the same ones."""
    target, errors = WORK / "unpacked", WORK / "errors"
    target.mkdir(parents=True)
    words = ["tar", "--extract", "--file=-", "--directory", str(target)]
    with errors.open("wb") as log, subprocess.Popen(words, stdin=subprocess.PIPE, stderr=log) as process:
        if process.stdin is None:
            raise RuntimeError("no pipe")
        for number in range(20_000):
            for name, kind in ((f"{number}", tarfile.DIRTYPE), (f"{number}/link", tarfile.SYMTYPE)):
                info = tarfile.TarInfo(name)
                info.type, info.mode, info.mtime = kind, 0o755, 1_700_000_000
                info.linkname = "/usr/bin/env" if kind == tarfile.SYMTYPE else ""
                process.stdin.write(info.tobuf(tarfile.GNU_FORMAT))  # TarFile would keep every member in memory
        process.stdin.write(bytes(2 * tarfile.BLOCKSIZE))
        process.stdin.close()
        code = process.wait()
    lines = errors.read_text(errors="replace").splitlines()
    return "works" if code == 0 else f"fails: {lines[0].rpartition(': ')[2] if lines else code}"


def _git(*words: str) -> str:
    return output("git", f"--git-dir={WORK / 'git'}", f"--work-tree={PROGRAMS}", *words)


def _complete(everything: str, found: str) -> str:
    return "sees everything" if sorted(everything.splitlines()) == sorted(found.splitlines()) else "leaves files out"
