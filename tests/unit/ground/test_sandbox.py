"""A process in the sandbox computes, and does nothing else."""

from __future__ import annotations

import json
import os
import platform
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from imagecache import sandbox

_PREAMBLE = """
import ctypes, errno, fcntl, json, mmap, os, resource, signal, socket, subprocess, sys, threading, time
from imagecache import sandbox
libc = ctypes.CDLL(None, use_errno=True)
handed = os.open("/proc/self/status", os.O_RDONLY)
writable = os.memfd_create("handed")
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
abstract = "\\0" + sys.argv[1]
BPF = 321 if os.uname().machine == "x86_64" else 280
sandbox.enter()

def told(result):
    return errno.errorcode[ctypes.get_errno()] if result < 0 else "done"

def tried(action):
    try:
        action()
    except OSError as error:
        return errno.errorcode[error.errno]
    except RuntimeError as error:
        return str(error)
    return "done"
"""

REFUSED = {
    "open": 'os.open("/etc/hostname", os.O_RDONLY)',
    "open of /proc": 'os.open(f"/proc/{os.getppid()}/mem", os.O_RDONLY)',
    "create": 'os.open("/tmp/made", os.O_WRONLY | os.O_CREAT)',
    "list": 'os.listdir("/")',
    "readlink": 'os.readlink("/proc/self/exe")',
    "unlink": 'os.unlink("/tmp/none")',
    "socket": "socket.socket(socket.AF_INET, socket.SOCK_STREAM)",
    "unix socket": "socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)",
    "socketpair": "socket.socketpair()",
    "fork": "os.fork()",
    "execve": 'os.execve("/bin/true", ["true"], {})',
    "spawn": 'subprocess.run(["/bin/true"])',
    "kill the parent": "os.kill(os.getppid(), signal.SIGTERM)",
    "kill itself": "os.kill(os.getpid(), signal.SIGTERM)",
    "owner of a descriptor": "fcntl.fcntl(ours, fcntl.F_SETOWN, os.getppid())",
    "limits of others": "resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))",
    "priority": "os.setpriority(os.PRIO_PROCESS, 0, 5)",
    "executable memory": "mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)",
    "mount": 'os.chroot("/")',
    "pipe": "os.pipe()",
    "ids": "os.setuid(0)",
}
CALLS = {
    "ptrace": "libc.ptrace(16, os.getppid(), 0, 0)",
    "process_vm_readv": "libc.process_vm_readv(os.getppid(), None, 0, None, 0, 0)",
    "prctl": "libc.prctl(4, 1, 0, 0, 0)",
    "bpf": "libc.syscall(BPF, 0, None, 0)",
    "io_uring": "libc.syscall(425, 1, None)",
    "pidfd_open": "libc.syscall(434, os.getppid(), 0)",
    "a call that does not exist": "libc.syscall(9999)",
}


def asked(code: str, *arguments: str) -> object:
    """The JSON that a process prints which runs this in the sandbox."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"{_PREAMBLE}\n{code}", *(arguments or ("none",))],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def answers() -> object:
    """Of all of them from one process."""
    tried = ", ".join(f"{name!r}: tried(lambda: {code})" for name, code in REFUSED.items())
    called = ", ".join(f"{name!r}: told({code})" for name, code in CALLS.items())
    return asked(f"print(json.dumps({{{tried}, {called}}}))")


@pytest.mark.parametrize("name", [*REFUSED, *CALLS])
def test_what_is_refused(answers: dict[str, str], name: str) -> None:
    assert answers[name] == "EPERM"


def test_it_works_with_what_it_has() -> None:
    found = asked(
        """
found = []
thread = threading.Thread(target=lambda: found.append(sum(range(1000))))
thread.start()
thread.join()
ours.send(b"through")
found.append(theirs.recv(100).decode())
os.ftruncate(writable, 8192)
os.pwrite(writable, b"written", 4096)
found.append(os.pread(writable, 7, 4096).decode())
os.fdatasync(writable)
found.append(len(mmap.mmap(writable, 0, prot=mmap.PROT_READ)))
found.append(len(bytearray(200 << 20)) >> 20)
resource.setrlimit(resource.RLIMIT_CPU, (100, resource.getrlimit(resource.RLIMIT_CPU)[1]))
time.sleep(0.001)
status = dict(line.split(":", 1) for line in os.read(handed, 8192).decode().splitlines())
found += [status["Seccomp"].strip(), status["NoNewPrivs"].strip()]
print(json.dumps(found))
"""
    )
    assert found == [499500, "through", "written", 8192, 200, "2", "1"]


def test_landlock_holds_where_seccomp_would_let_it_pass() -> None:
    """Each lock alone: with an open that seccomp allows, the path is still not there."""
    if not sandbox.landlock_abi():
        pytest.fail("this kernel has no Landlock: CI's has")
    code = """
import ctypes, errno, json, os
from imagecache import sandbox
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(38, 1, 0, 0, 0)
sandbox._landlock(libc)
try:
    os.open("/etc/hostname", os.O_RDONLY)
except OSError as error:
    print(json.dumps(errno.errorcode[error.errno]))
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert json.loads(done.stdout) == "EACCES", done.stderr


def test_a_process_with_threads_does_not_enter() -> None:
    """Landlock would hold for one of them alone."""
    code = """
import threading, time
from imagecache import sandbox
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
try:
    sandbox.enter()
except OSError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "has several" in done.stdout


def test_what_the_kernel_says_of_a_process() -> None:
    assert sandbox.in_force(os.getpid()) == ()


@pytest.mark.parametrize("machine", ["riscv64", ""])
def test_a_machine_whose_calls_are_not_known_is_an_error(machine: str) -> None:
    code = f"""
import platform
platform.machine = lambda: {machine!r}
from imagecache import sandbox
try:
    sandbox.enter()
except OSError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "are not known here" in done.stdout


HEADERS = {"_AARCH64": "asm-generic/unistd.h"}
"""Of Debian's linux-libc-dev; each machine has its own numbers, and those that newer machines share."""
if platform.machine() == "x86_64":
    HEADERS["_X86_64"] = "x86_64-linux-gnu/asm/unistd_64.h"


@pytest.mark.parametrize("name", HEADERS)
def test_numbers_are_those_of_the_kernels_headers(name: str) -> None:
    text = (Path("/usr/include") / HEADERS[name]).read_text()
    defined = re.findall(r"^#define __NR(?:3264)?_(\w+)\s+(\d+)$", text, re.MULTILINE)
    known = {{"fstatat": "newfstatat"}.get(each, each): int(number) for each, number in defined}
    numbers = getattr(sandbox, name).numbers
    assert {each: known.get(each) for each in numbers} == dict(numbers)


def test_an_abstract_socket_is_not_reached() -> None:
    """It has no path that Landlock's rules for files would hold."""
    name = "imagecache-test-sandbox"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(f"\0{name}")
        listening.listen()
        code = "print(json.dumps(tried(lambda: socket.socket(socket.AF_UNIX).connect(abstract))))"
        assert asked(code, name) == "EPERM"
