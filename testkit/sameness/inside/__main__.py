"""Answer the questions of one phase."""

from __future__ import annotations

import json
import sys

from . import looking
from .questions import QUESTIONS, WORK, answer


def main(phase: str) -> None:
    WORK.mkdir(exist_ok=True)
    if phase == "before":
        looking.remember_numbers()
    print(json.dumps({name: answer(each.ask) for name, each in QUESTIONS.items() if each.phase == phase}))


if __name__ == "__main__":
    main(sys.argv[1])
