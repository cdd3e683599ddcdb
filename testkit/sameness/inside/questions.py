"""The questions, and what they share: what was seen before, programs that are run.

An answer is a few words that are the same on every machine; an error of the kernel is an answer too.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROBE = Path("/probe")
"""Files made for the questions (``sameness.image``)."""
WORK = Path("/work")
"""What the questions make."""
SEVERAL = Path("/usr")
"""A tree with files of several layers."""
STATE = WORK / "state.json"
NOBODY = 65534
Ask = Callable[[], str]


@dataclass(frozen=True)
class Question:
    phase: str
    """``before`` and ``after`` the host drops its caches; ``memory``: in a container with little of it."""
    group: str
    text: str
    ask: Ask


QUESTIONS: dict[str, Question] = {}
"""By the name of the function that asks, in the order of the table."""


def question(phase: str, group: str, text: str) -> Callable[[Ask], Ask]:
    def add(ask: Ask) -> Ask:
        QUESTIONS[ask.__name__] = Question(phase, group, text, ask)
        return ask

    return add


def answer(ask: Ask) -> str:
    try:
        return ask()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    except subprocess.CalledProcessError as error:
        return f"{error.cmd[0]} ends with {error.returncode}: {error.stderr[-200:].strip()}"


def files(top: Path) -> Iterator[Path]:
    """Everything that is no directory, links included."""
    for folder, inner, names in os.walk(top):
        yield from (Path(folder, name) for name in names)
        yield from (path for name in inner if (path := Path(folder, name)).is_symlink())


def folders(top: Path) -> Iterator[Path]:
    return (Path(folder) for folder, _, _ in os.walk(top))


def remember(name: str, value: object) -> None:
    state = json.loads(STATE.read_text()) if STATE.exists() else {}
    STATE.write_text(json.dumps({**state, name: value}))


def remembered(name: str) -> object:
    return json.loads(STATE.read_text())[name]


@contextmanager
def started(*words: str | Path, user: int) -> Iterator[dict[str, str]]:
    """``/proc/PID/status`` of a program that another user has started; it is ended afterwards."""
    process = subprocess.Popen(
        words,
        user=user,
        group=user,
        extra_groups=[],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        yield {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    finally:
        process.kill()
        process.communicate()


def output(*words: str | Path) -> str:
    environment = {"PATH": os.environ["PATH"], "HOME": str(WORK), "LC_ALL": "C.UTF-8", "RESTIC_PASSWORD": "probe"}
    return subprocess.run(words, env=environment, check=True, capture_output=True, text=True).stdout


def code(*words: str | Path) -> int:
    return subprocess.run(words, check=False, capture_output=True).returncode
