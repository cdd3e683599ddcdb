from __future__ import annotations

import os
import subprocess
import sys

REPORT = """
import os, resource, sys
from imagecache.privileges import become_nobody, restrict_process
{calls}
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
limits = [*resource.getrlimit(resource.RLIMIT_CORE), resource.getrlimit(resource.RLIMIT_DATA)[0]]
print(status["NoNewPrivs"].strip(), *limits, *os.getresuid(), *os.getresgid(), len(os.getgroups()))
"""


def report(*calls: str) -> list[int]:
    """In a process of its own: what it did cannot be undone."""
    text = REPORT.format(calls="\n".join(calls))
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


def test_a_restricted_process_gains_no_privileges_and_leaves_no_core() -> None:
    assert report("restrict_process()")[:4] == [1, 0, 0, -1]


def test_a_restricted_process_may_have_a_bound_on_its_memory() -> None:
    assert report("restrict_process(1 << 30)")[3] == 1 << 30


def test_root_becomes_nobody_in_every_id_and_others_stay_who_they_are() -> None:
    expected = [*[65534] * 6, 0] if os.getuid() == 0 else report()[4:]
    assert report("become_nobody()")[4:] == expected
    assert report("become_nobody()", "become_nobody()")[4:] == expected, "not even for a second time"


def test_a_bound_on_memory_never_raises_that_of_the_parent() -> None:
    assert report("restrict_process(1 << 30)", "restrict_process(2 << 30)")[3] == 1 << 30
    assert report("restrict_process(1 << 30)", "restrict_process(1 << 29)")[3] == 1 << 29


def test_a_process_that_dies_first_says_so_to_the_kernel() -> None:
    text = 'from imagecache.privileges import die_first; die_first(); print(open("/proc/self/oom_score_adj").read())'
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1000"
