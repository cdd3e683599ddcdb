"""What runs in the containers: Python programs that time themselves and print seconds, then what they counted.

They are given to ``python3 -c`` of the image, so that nothing of ours is in what is measured.
"""

from __future__ import annotations

TREE = """
import os, time
start = time.perf_counter()
total = 0
for folder, _, names in os.walk('/', followlinks=False):
    if folder == '/': _[:] = [d for d in _ if d not in ('proc', 'sys', 'dev')]
    for name in names:
        path = folder + '/' + name
        if os.path.isfile(path) and not os.path.islink(path):
            with open(path, 'rb', buffering=0) as file:
                while data := file.read(1 << 20): total += len(data)
print(time.perf_counter() - start, total)
"""
"""Read every file of the image."""
FIND = """
import os, time
start = time.perf_counter()
count = 0
stack = ['/']
while stack:
    folder = stack.pop()
    with os.scandir(folder) as entries:
        for entry in entries:
            count += 1
            entry.stat(follow_symlinks=False)
            if entry.is_dir(follow_symlinks=False) and entry.path not in ('/proc', '/sys', '/dev'):
                stack.append(entry.path)
print(time.perf_counter() - start, count)
"""
"""Look at every name, as find(1) does."""
IMPORT = """
import time
start = time.perf_counter()
import numpy, pandas, scipy.stats, scipy.optimize, sklearn.linear_model, pyarrow
print(time.perf_counter() - start, 0)
"""
_PICKS = """
import os, random, time
random.seed(7)
files = []
for folder, _, names in os.walk('/usr'):
    for name in names:
        path = folder + '/' + name
        if not os.path.islink(path) and os.path.getsize(path) > 1 << 20: files.append((path, os.path.getsize(path)))
files.sort()
picks = [(p, random.randrange(s // 4096) * 4096) for p, s in (random.choice(files) for _ in range(6000))]
"""
RANDOM = (
    _PICKS
    + """\
handles = {path: os.open(path, os.O_RDONLY) for path, _ in files}
start = time.perf_counter()
for path, offset in picks: os.pread(handles[path], 4096, offset)
print(time.perf_counter() - start, len(picks))
"""
)
"""6,000 reads of 4 KiB at random places of the files above 1 MiB."""
DIRECT = """
import mmap, os, time
files = []
for folder, _, names in os.walk('/usr'):
    for name in names:
        path = folder + '/' + name
        if not os.path.islink(path): files.append((os.path.getsize(path), path))
files.sort(reverse=True)
buffer = mmap.mmap(-1, 1 << 20)
start = time.perf_counter()
total = 0
for _, path in files[:20]:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECT)
    offset = 0
    while (count := os.preadv(handle, [buffer], offset)) == len(buffer): offset += count
    total += offset + count
    os.close(handle)
print(time.perf_counter() - start, total)
"""
"""Read the twenty largest files with O_DIRECT, 1 MiB at a time: as model loaders do."""
DIRECT_RANDOM = (
    _PICKS
    + """\
import mmap
handles = {path: os.open(path, os.O_RDONLY | os.O_DIRECT) for path, _ in files}
page = mmap.mmap(-1, 4096)
start = time.perf_counter()
for path, offset in picks: os.preadv(handles[path], [page], offset)
print(time.perf_counter() - start, len(picks))
"""
)
"""6,000 reads of 4 KiB with O_DIRECT, at the places of ``RANDOM``: as databases do."""
LINES = """
import os, time
def size(path): return 0 if os.path.islink(path) else os.path.getsize(path)
kinds = ('.py', '.json', '.txt', '.csv', '.xml')
texts = (f + '/' + n for f, _, ns in os.walk('/usr') for n in ns if n.endswith(kinds))
chosen = max(texts, key=lambda path: (size(path), path))
start = time.perf_counter()
count = 0
for _ in range(5):
    with open(chosen, 'rb') as file:
        for line in file: count += 1
print(time.perf_counter() - start, count)
"""
"""Read the largest text file by lines five times: buffers have the size that stat(2) gives as st_blksize."""
