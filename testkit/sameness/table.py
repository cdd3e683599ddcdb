"""``docs/same-as-overlayfs.md``: every question, the answers of each column, and why some of ours are others.

A difference that is not explained here fails the test, and so does an explanation of a difference that is gone. Pure,
but for reading the document.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from testkit.peers.programs import checkout
from testkit.sameness.inside.questions import QUESTIONS
from testkit.sameness.measure import COLUMNS, OURS, Answers, Column

DOCUMENT = checkout() / "docs" / "same-as-overlayfs.md"
COMMAND = ".venv/bin/python tools/same_as_overlayfs.py"
_EQUAL = "="


@dataclass(frozen=True, slots=True)
class Difference:
    """Of our modes from overlayfs."""

    reason: str
    modes: tuple[str, ...] = ("proxy", "native")


_BLOCKS = "A layer image has blocks of 512 bytes, since a tar has: a file begins at any of them."
_DIRECT = (
    "A layer image is mounted straight from its file, and the kernel has no direct reads for such a mount. Both work "
    "in proxy mode where a loop device is asked for ([ADR 21](adr/0021-how-a-layer-image-is-mounted.md)): with the "
    'annotation `imagecache.dev/direct-io: "true"` on the ImageCache, or the setting `mount_from: loop` on the node.'
)
DIFFERENCES: Mapping[str, Difference] = {
    "bits_of_numbers": Difference(
        "The high bits of an inode number say which layer it is of. A 32-bit program that was compiled without "
        "`_FILE_OFFSET_BITS=64` gets EOVERFLOW from stat(2); overlayfs does the same on a large XFS. The setting "
        "`inode_numbers: short` gives such programs 32 bits, and takes back what the lines on `st_dev`, on numbers of "
        "directories and on one filesystem show. The highest bit is one of them: programs that read the number as "
        "signed see it negative, and those that keep it as a double (Node.js without `bigint`) take several files for "
        "one."
    ),
    "size_of_a_directory": Difference("EROFS says how many bytes the names take, ext4 how many blocks they have."),
    "block_size": Difference(f"{_BLOCKS} C's stdio reads that much at a time."),
    "blocks": Difference(f"{_BLOCKS} So `du` shows less."),
    "change_time": Difference(
        "A layer image is the same file on every node, so it has no time of its own. Programs that compare `st_ctime` "
        "find the same one on every node and after every pull."
    ),
    "birth": Difference("EROFS has no such time."),
    "access_list": Difference(
        "ACLs of a layer are dropped ([ADR 4](adr/0004-tar-reader.md)), as containerd drops them where the filesystem "
        "has none."
    ),
    "flags": Difference("EROFS has none."),
    "direct_read": Difference(_DIRECT),
    "direct_read_later": Difference(_DIRECT),
    "copied_range": Difference(
        "The kernel copies within one filesystem. `cp`, Go and Python then read and write, as they do on most systems."
    ),
}
"""By the name of the question."""

_INTRODUCTION = """\
What a process can notice of its root filesystem: every question is asked in a container on containerd's own overlayfs
and in one of ours, on the same containerd and the same disk (ext4, a kernel that mounts layer images from files), with
the same image of Debian's packages. `=` is overlayfs' answer of the same version. In prepull mode containers are on
containerd's own snapshotter, overlayfs here, which has unpacked the layers of the cache.

`tests/peers/test_same_as_overlayfs.py` measures all of it, and fails when an answer differs without a reason below or
this page is not what it measured; `{command}` writes it anew. Content, owners, modes, times, links, devices and xattrs
of whole images are compared in `tests/peers/differential`.

What else in Kubernetes and containerd depends on the snapshotter, and what was tried: [field log](field-log.md)."""
_LEFT_OUT = """\
32-bit programs (no 32-bit C library is among the packages of the tests; the bits of the numbers are measured instead),
reflinks (ext4 has none), fanotify, file handles and mounts inside of a container (they need privileges that containers
do not have). Podman, buildah and Docker inside of one are in the field log."""


def differing(ours: Column, answers: Mapping[Column, Answers]) -> dict[str, tuple[str, str]]:
    """Question to overlayfs' answer and ours, where they differ."""
    theirs = answers[ours.peer]
    return {name: (theirs[name], found) for name, found in answers[ours].items() if theirs[name] != found}


def explained(ours: Column) -> set[str]:
    """Questions whose answer should differ."""
    return {name for name, difference in DIFFERENCES.items() if ours.mode in difference.modes}


def document(answers: Mapping[Column, Answers]) -> str:
    """The page."""
    parts = [
        f"<!-- made by {COMMAND.rsplit(maxsplit=1)[-1]}, which measures; do not edit -->",
        "# The same as on overlayfs",
        *(_filled(each) for each in _INTRODUCTION.format(command=COMMAND).split("\n\n")),
    ]
    for group in dict.fromkeys(each.group for each in QUESTIONS.values()):
        names = [name for name, each in QUESTIONS.items() if each.group == group]
        parts += [f"## {group[0].upper()}{group[1:]}", _table(names, answers)]
    parts += ["## Why some answers differ", "\n".join(map(_filled, _reasons())), "## Not asked", _filled(_LEFT_OUT)]
    return "\n\n".join(parts) + "\n"


def _table(names: Sequence[str], answers: Mapping[Column, Answers]) -> str:
    titles = [f"{column.mode}, containerd {column.containerd}" for column in COLUMNS]
    rows = [[QUESTIONS[name].text, *_cells(name, answers)] for name in names]
    lines = [["", *titles], ["---"] * (len(titles) + 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(name: str, answers: Mapping[Column, Answers]) -> Iterator[str]:
    for column in COLUMNS:
        found = answers[column][name]
        yield _EQUAL if column in OURS and found == answers[column.peer][name] else found


def _reasons() -> Iterator[str]:
    """A reason for each question, or for several that have the same."""
    for difference in dict.fromkeys(DIFFERENCES.values()):
        texts = "; ".join(QUESTIONS[name].text for name, each in DIFFERENCES.items() if each == difference)
        where = "" if len(difference.modes) > 1 else f" ({difference.modes[0]})"
        yield f"- {texts}{where}: {difference.reason}"


def _filled(text: str) -> str:
    """One paragraph or item, at 120 columns."""
    indent = "  " if text.startswith("- ") else ""
    return textwrap.fill(
        " ".join(text.split()), 120, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
    )
