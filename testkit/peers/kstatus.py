"""What tools that wait say of an object: kstatus (kubectl's, Flux', Helm's) and Argo CD, by their own code.

``./dev peers`` builds the program, ``tools/kstatus``.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from testkit.peers.programs import MissingPeer, PeerFailed, cache, environment


@dataclass(frozen=True)
class Judgement:
    """Of one object."""

    kstatus: str
    """``Current``, ``InProgress``, ``Failed``, ``Terminating``: sigs.k8s.io/cli-utils."""
    flux: str
    """The same, by github.com/fluxcd/cli-utils, which Flux and Helm 4 have."""
    message: str
    argo: str
    """``Healthy``, ``Progressing``, ``Degraded``."""
    said: str
    """Argo CD's message."""


def judge(objects: Sequence[object], script: Path) -> list[Judgement]:
    """One for each object. ``script``: the Lua of Argo CD's health check. Raises MissingPeer, PeerFailed."""
    program = cache() / "peers" / "kstatus"
    if not program.exists():
        raise MissingPeer(f"{program} is not there: run ./dev peers, which builds it")
    done = subprocess.run(
        [program, script],
        input=json.dumps(objects),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        raise PeerFailed(f"{program} ended with {done.returncode}: {done.stderr}")
    return [Judgement(**each) for each in json.loads(done.stdout)]
