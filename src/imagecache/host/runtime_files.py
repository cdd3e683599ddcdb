"""The interpreter and packages that this process runs from, as a directory that runs on any host of the architecture.

A host service depends on nothing of its host: neither a Python nor a version of the C library. So the directory has
the loader and every shared library too, and its programs start through that loader (ld.so(8)), which then looks nowhere
else. It is written for one path and runs only there. It must start nothing but the loader's own listing.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import site
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import imagecache
from imagecache.errors import HostError
from imagecache.host.service_files import DIRECTORY

PACKAGE = "imagecache"
_RUNTIME = PurePosixPath("runtime")
"""Loader, libraries and the real interpreter; ``bin`` has the programs."""
_LOADER, _INTERPRETER, _ENTRY = _RUNTIME / "ld.so", _RUNTIME / "python", _RUNTIME / "imagecache.py"
_LEFT_OUT = frozenset(
    {"test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip", "pydoc_data", "site-packages"}
    | {"dist-packages", "sitecustomize.py", "EXTERNALLY-MANAGED"}
)
_LEFT_OUT_BEGIN = ("config-", "_tkinter", "_test", "_xxtest", "_ctypes_test")
"""Parts of the standard library that the agent never imports, or that belong to the distribution."""
_LIBRARY = re.compile(r"^\s*(\S+) => (/\S+) \(0x[0-9a-f]+\)$", re.MULTILINE)
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_INTERPRETER_SEGMENT = 3
_MAIN = """\
import sys

from imagecache.cli.main import main

sys.argv[0] = "imagecache"
main()
"""
_SCRIPT = """\
#!/bin/sh
exec {final}/{loader} --inhibit-cache --library-path {final}/runtime --argv0 {final}/bin/python3 \\
  {final}/{interpreter} {arguments}"$@"
"""


@dataclass(frozen=True, slots=True)
class RuntimeFiles:
    """Files by their path in the directory, and a name that changes with any of them."""

    files: Mapping[PurePosixPath, Path]
    name: str
    """``<version>-<12 hex>``."""

    def write(self, directory: Path, final: Path) -> None:
        """Copy everything into ``directory``, which is renamed to ``final`` before it runs. Raises OSError.

        With compiled modules: containerd waits for the first start of a new version, which must not compile them.
        """
        for target, source in self.files.items():
            _copy(source, directory / target)
            compiled = Path(importlib.util.cache_from_source(source))
            if source.suffix == ".py" and compiled.is_file():  # valid for the source's time and size, which copy2 keeps
                _copy(compiled, directory / target.parent / compiled.parent.name / compiled.name)
        words = {"final": final, "loader": _LOADER, "interpreter": _INTERPRETER}
        _program(directory / "bin/python3", _SCRIPT.format(**words, arguments=""))
        _program(directory / "bin/imagecache", _SCRIPT.format(**words, arguments=f"-I {final}/{_ENTRY} "))
        (directory / _ENTRY).write_text(_MAIN)


def runtime_files(directory: Path = DIRECTORY) -> RuntimeFiles:
    """The files that this process runs from. Raises HostError when they cannot be found.

    Of a program that is installed in ``directory`` of the host only the name: it is complete there, and has no metadata
    of packages.
    """
    own, installed = Path(imagecache.__file__).resolve(), directory.resolve()
    if own.is_relative_to(installed):
        name = own.relative_to(installed).parts[0]
        if (installed / name / _ENTRY).is_file():
            return RuntimeFiles({}, name)
    interpreter = Path(getattr(sys, "_base_executable", None) or sys.executable).resolve()
    library = PurePosixPath("lib") / f"python{sys.version_info.major}.{sys.version_info.minor}"
    files = {_INTERPRETER: interpreter}
    files |= _standard_library(library)
    files |= _packages(library)
    files |= _shared(interpreter, files.values())
    return RuntimeFiles(files, f"{imagecache.__version__}-{_fingerprint(files)}")


def _copy(source: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, path)


def _program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def _fingerprint(files: Mapping[PurePosixPath, Path]) -> str:
    """Over names, sizes and times: hashing the contents of all files takes seconds."""
    found = hashlib.sha256(_SCRIPT.encode() + _MAIN.encode())
    for target in sorted(files):
        stat = files[target].stat()
        found.update(f"{target}\0{stat.st_size}\0{int(stat.st_mtime)}\0".encode())
    return found.hexdigest()[:12]


# Python


def _standard_library(library: PurePosixPath) -> dict[PurePosixPath, Path]:
    root = Path(sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix, "base": sys.base_prefix}))
    return {library / path: root / path for path in _walk(root) if not _is_left_out(path)}


def _is_left_out(path: PurePosixPath) -> bool:
    return bool(_LEFT_OUT & set(path.parts)) or any(part.startswith(_LEFT_OUT_BEGIN) for part in path.parts)


def _walk(root: Path) -> Iterator[PurePosixPath]:
    """Files below ``root``, as relative paths; links to files count as files."""
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names:
            path = Path(folder, name)
            if path.is_file():
                yield PurePosixPath(path.relative_to(root))


def _packages(library: PurePosixPath) -> dict[PurePosixPath, Path]:
    """Our package and everything it requires, in the directory where the interpreter looks for packages."""
    target = _package_folder(library)
    own = Path(imagecache.__file__).parent
    files = {target / PACKAGE / path: own / path for path in _walk(own)}
    for name in _required():
        distribution = importlib.metadata.distribution(name)
        for item in distribution.files or ():
            source = Path(str(distribution.locate_file(item)))
            if ".." not in item.parts and "__pycache__" not in item.parts and source.is_file():
                files[target / PurePosixPath(item)] = source
    return files


def _package_folder(library: PurePosixPath) -> PurePosixPath:
    """The last of the site directories: on Debian the first ones are the administrator's (dist-packages)."""
    found = [PurePosixPath(path) for path in site.getsitepackages(["/"])]
    return next((path.relative_to("/") for path in found[::-1]), library / "site-packages")


def _required() -> list[str]:
    """Installed distributions that ours requires, directly or not; ours is not among them."""
    found: dict[str, None] = {}
    pending = [PACKAGE]
    while pending:
        for requirement in importlib.metadata.requires(pending.pop()) or ():
            match = _NAME.match(requirement)
            name = match[0].lower().replace("_", "-") if match else ""
            if "extra ==" in requirement or name in found:
                continue
            try:
                importlib.metadata.distribution(name)
            except importlib.metadata.PackageNotFoundError:
                continue  # required for another platform or version of Python
            found[name] = None
            pending.append(name)
    return sorted(found)


# shared libraries


def _shared(interpreter: Path, files: Iterable[Path]) -> dict[PurePosixPath, Path]:
    """The loader, and the shared libraries of the interpreter and of all extension modules."""
    loader = _loader(interpreter)
    found: dict[PurePosixPath, Path] = {_LOADER: loader}
    own = {path.resolve() for path in files}
    for path in [interpreter, *(path for path in own if ".so" in path.suffixes)]:
        for name, library in _needed(loader, path):
            if library.resolve() not in own:  # wheels have libraries of their own
                found[_RUNTIME / name] = library
    return found


def _loader(interpreter: Path) -> Path:
    """The program interpreter that an ELF file names (elf(5), PT_INTERP). Raises HostError."""
    with interpreter.open("rb") as file:
        header = file.read(64)
        if header[:5] != b"\x7fELF\x02":
            raise HostError(f"{interpreter} is not a 64-bit ELF program")
        (offset,) = struct.unpack_from("<Q", header, 32)
        size, count = struct.unpack_from("<HH", header, 54)
        for number in range(count):
            file.seek(offset + number * size)
            entry = file.read(56)
            if struct.unpack_from("<I", entry)[0] == _INTERPRETER_SEGMENT:
                start, length = struct.unpack_from("<Q", entry, 8)[0], struct.unpack_from("<Q", entry, 32)[0]
                file.seek(start)
                return Path(file.read(length).rstrip(b"\0").decode())
    raise HostError(f"{interpreter} is not linked dynamically", hint="run it from an image or a venv")


def _needed(loader: Path, path: Path) -> Sequence[tuple[str, Path]]:
    """Names and files of the shared libraries that one file needs, as the loader itself lists them."""
    done = subprocess.run([loader, "--list", path], capture_output=True, text=True, timeout=60, check=False)
    return [(name, Path(file)) for name, file in _LIBRARY.findall(done.stdout)]
