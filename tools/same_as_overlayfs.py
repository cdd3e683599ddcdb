"""Write docs/same-as-overlayfs.md: measure in containers of real containerds, which takes a few minutes and needs root.

`./dev peers` makes what it needs. `tests/peers/test_same_as_overlayfs.py` measures the same and compares.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from testkit.images import pause_image
from testkit.peers.registry import Registry
from testkit.peers.workspace import workspace
from testkit.sameness.measure import measure
from testkit.sameness.table import DOCUMENT, document


def main() -> None:
    with workspace() as directory, Registry(directory / "registry") as registry:
        pause = registry.push("pause:1", pause_image(directory / "pause"))
        answers = measure(directory / "same", registry, pause)
    DOCUMENT.write_text(document(answers), encoding="utf-8")


if __name__ == "__main__":
    main()
