"""Debian and Python images as people have them: debootstrap for the system, wheels for what runs on it.

They are made once per machine (``./dev peers`` does it ahead, tests need no network then) and kept as OCI layouts in
``.cache/images``. ``python_image`` and ``big_image`` stand on ``debian_image`` and share its layers, as real ones do.
"""

from __future__ import annotations

import contextlib
import fcntl
import fnmatch
import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from testkit.images import EPOCH
from testkit.oci_layout import Image, ImageConfig, LayerSpec, Layout, load
from testkit.peers.processes import unmount_below
from testkit.peers.programs import cache, find, run

RECIPE = 3
"""Part of every cached name: raise it when an image's content changes."""
LEVEL = 6
"""gzip's own default, which most builders use."""
_PYTHON_PACKAGES = (
    *("python3*", "libpython3*", "media-types", "libsqlite3-0", "libreadline8*", "readline-common"),
    *("libexpat1", "libncursesw6", "libnsl2", "libtirpc*"),
)
_TOOLS = ("git", "libpopt0", "restic", "rsync")
"""Packages of ``tools_image``: what the programs need beyond Debian's minbase with Python is libpopt0."""
_BUILDERS = (
    *("buildah", "busybox-static", "conmon", "containerd", "docker.io", "golang-github-containers-common"),
    *("golang-github-containers-image", "libdevmapper1.02.1", "podman", "runc"),
)
"""Packages of ``builders_image``, and what they need beyond minbase, with the names of one Debian release."""
_BUILDERS_OF = {
    "bookworm": ("libassuan0", "libglib2.0-0", "libgpgme11", "libsubid4"),
    "trixie": ("docker-buildx", "docker-cli", "libassuan9", "libglib2.0-0t64", "libgpgme11t64", "libsubid5"),
}
_BUILDERS_KEEP = ("etc/containers/*", "usr/share/containers/*")
_UNWANTED = ("var/cache/apt/archives/*", "var/lib/apt/lists/*", "var/log/*", "proc/*", "sys/*", "run/*")
_DIST_PACKAGES = PurePosixPath("usr/lib/python3/dist-packages")
_PYTHONS = {"bookworm": (3, 11), "trixie": (3, 13)}
"""Python of each Debian release."""

WHEELS: Sequence[Sequence[str]] = (
    ("numpy==2.3.4",),
    ("pandas==2.3.3", "python-dateutil==2.9.0.post0", "pytz==2025.2", "tzdata==2025.2", "six==1.17.0"),
)
"""The layers of ``python_image`` above Python itself. Versions that have wheels for Python 3.11 to 3.13."""
MORE_WHEELS: Sequence[Sequence[str]] = (
    (
        *("scipy==1.16.3", "scikit-learn==1.7.2", "joblib==1.5.2", "threadpoolctl==3.6.0"),
        *("pyarrow==22.0.0", "opencv-python-headless==4.12.0.88"),
        *("plotly==5.24.1", "tenacity==9.1.2", "packaging==25.0", "jedi==0.19.2", "parso==0.8.5"),
        *("sympy==1.14.0", "mpmath==1.3.0", "botocore==1.40.60", "jmespath==1.0.1", "urllib3==2.5.0"),
        *("google-api-python-client==2.185.0", "babel==2.17.0"),
    ),
)
"""What ``big_image`` has on top: one ``pip install -r requirements.txt`` is one layer."""


def debian_image() -> Image:
    """Debian's minbase with Python, in two layers."""
    return cached("debian", lambda layout: _add(layout, _system_layers()))


def python_image() -> Image:
    """Debian, Python, numpy and pandas: about 250 MB in four layers."""
    return cached("python", lambda layout: _stacked(layout, debian_image(), WHEELS))


def tools_image() -> Image:
    """``debian_image`` and rsync, git and restic: programs for which it matters what files look like."""
    return cached("tools", lambda layout: _with_packages(layout, debian_image(), _TOOLS))


def builders_image() -> Image:
    """``debian_image`` with what builds images inside of a container: podman, buildah, Docker with its BuildKit."""
    packages = (*_BUILDERS, *_BUILDERS_OF.get(release(), ()))
    return cached("builders", lambda layout: _with_packages(layout, debian_image(), packages, _BUILDERS_KEEP))


def big_image() -> Image:
    """``python_image`` and more of what people install: over 900 MB and 20,000 files in five layers."""
    return cached("big", lambda layout: _stacked(layout, python_image(), MORE_WHEELS))


def release() -> str:
    """The Debian release to make: this host's, bookworm elsewhere."""
    words = platform.freedesktop_os_release()
    return words.get("VERSION_CODENAME", "bookworm") if words.get("ID") == "debian" else "bookworm"


def cached(name: str, make: Callable[[Layout], Image]) -> Image:
    """The image from the cache, or made now; several processes may ask at once.

    ``name`` differs for everything that the image is made from and that ``RECIPE`` does not cover.
    """
    final = cache() / "images" / f"{name}-{release()}-{platform.machine()}-{RECIPE}"
    with locked(name):
        if not final.exists():
            partial = final.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            make(Layout(partial))
            partial.rename(final)
    return load(final)


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """One process at a time makes an image."""
    images = cache() / "images"
    images.mkdir(parents=True, exist_ok=True)
    with (images / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _add(layout: Layout, layers: Iterator[Path]) -> Image:
    stored = [layout.add_layer(LayerSpec(tar, level=LEVEL)) for tar in layers]
    return layout.add_manifest([blob for blob, _ in stored], [diff for _, diff in stored], _config())


def _config() -> ImageConfig:
    return ImageConfig(cmd=("/usr/bin/python3",))


def _stacked(layout: Layout, below: Image, groups: Sequence[Sequence[str]]) -> Image:
    """``below`` with one layer of wheels for each group."""
    share_layers(layout, below)
    blobs, diff_ids = list(below.layers), list(below.diff_ids)
    for group in groups:
        with scratch_folder() as scratch:
            tar = wheels_tar(fetch_wheels(group), scratch / "layer.tar")
            blob, diff_id = layout.add_layer(LayerSpec(tar, level=LEVEL))
        blobs.append(blob)
        diff_ids.append(diff_id)
    return layout.add_manifest(blobs, diff_ids, _config())


def share_layers(layout: Layout, below: Image) -> None:
    """Hard links to the layers of another image of the cache."""
    for blob in below.layers:
        os.link(below.blob(blob.digest), layout.directory / "blobs" / "sha256" / blob.digest.hex)


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=cache() / "images", prefix="scratch-") as name:
        yield Path(name)


# Debian


def _mirror() -> str:
    """The package mirror that this machine's apt uses for Debian itself."""
    listed = run(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"])
    return next((line for line in listed.split() if line.rstrip("/").endswith("/debian")), "")


def _system_layers() -> Iterator[Path]:
    """Tars of the base system and of Python's packages."""
    with scratch_folder() as scratch:
        root = scratch / "root"
        mirror = [word for word in [_mirror()] if word]
        options = ["--variant=minbase", "--include=python3"]
        environment = {**os.environ, "LC_ALL": "C.UTF-8"}  # proxies of this machine included
        try:
            run([find("debootstrap"), *options, release(), root, *mirror], env=environment, seconds=600)
        finally:
            unmount_below(root)
        paths = sorted(path.relative_to(root) for path in root.rglob("*") if not _unwanted(path.relative_to(root)))
        upper = _python_files(root)
        yield tree_tar(root, _with_parents(paths, set(paths) - upper), scratch / "base.tar")
        yield tree_tar(root, [path for path in paths if path in upper], scratch / "python.tar")


def _with_packages(layout: Layout, below: Image, packages: Sequence[str], keep: Sequence[str] = ()) -> Image:
    """``below`` with one layer more: the packages' programs, of their documents and settings those of ``keep``."""
    share_layers(layout, below)
    with scratch_folder() as scratch:
        run(["apt-get", "--quiet", "download", *packages], cwd=scratch, env={**os.environ, "LC_ALL": "C.UTF-8"})
        root = scratch / "root"
        for package in sorted(scratch.glob("*.deb")):
            run([find("dpkg-deb"), "--extract", package, root])
        for folder in ("bin", "lib", "sbin"):
            # a link in the image (merged /usr): a layer with that directory would hide all of it
            if (root / folder).is_dir():
                shutil.copytree(root / folder, root / "usr" / folder, symlinks=True, dirs_exist_ok=True)
        paths = sorted(path.relative_to(root) for path in root.rglob("*"))
        chosen = {path for path in paths if _is_program(path) or any(fnmatch.fnmatch(str(path), each) for each in keep)}
        tar = tree_tar(root, _with_parents(paths, chosen), scratch / "packages.tar")
        blob, diff_id = layout.add_layer(LayerSpec(tar, level=LEVEL))
    return layout.add_manifest([*below.layers, blob], [*below.diff_ids, diff_id], _config())


def _is_program(path: Path) -> bool:
    """Of a package: what is not a document, and not a service."""
    return path.parts[0] == "usr" and not any(
        fnmatch.fnmatch(str(path), pattern) for pattern in ("usr/share/*", "usr/lib/systemd/*")
    )


def _with_parents(paths: Sequence[Path], chosen: set[Path]) -> list[Path]:
    """``chosen`` and every directory above, as any base image's layer has them."""
    parents = {parent for path in chosen for parent in path.parents}
    return [path for path in paths if path in chosen or path in parents]


def _unwanted(path: Path) -> bool:
    return any(fnmatch.fnmatch(str(path), pattern) for pattern in _UNWANTED)


def _python_files(root: Path) -> set[Path]:
    """What Python's packages brought, and the directories above each file, as a build step's layer has them."""
    files = set()
    for listing in (root / "var/lib/dpkg/info").glob("*.list"):
        package = listing.name.removesuffix(".list").partition(":")[0]
        if any(fnmatch.fnmatch(package, pattern) for pattern in _PYTHON_PACKAGES):
            files |= {Path(line.lstrip("/")) for line in listing.read_text().splitlines()}
    files |= {path.relative_to(root) for path in root.glob("usr/lib/python3*/**/*")}
    real = {path.parent for path in files}
    resolved = {folder: (root / folder).resolve().relative_to(root.resolve()) for folder in real}
    placed = {resolved[path.parent] / path.name for path in files}
    chosen = {path for path in placed if not (root / path).is_dir() or (root / path).is_symlink()}
    return chosen | {parent for path in chosen for parent in path.parents if parent != Path()}


def tree_tar(root: Path, paths: Sequence[Path], target: Path) -> Path:
    """A tar of ``paths`` of a real tree: owners, modes, devices and hard links as they are, times not after EPOCH."""
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in paths:
            info = tar.gettarinfo(root / path, arcname=str(path))
            info.mtime = min(int(info.mtime), EPOCH)
            info.uname = info.gname = ""
            if info.isreg():
                with (root / path).open("rb") as file:
                    tar.addfile(info, file)
            else:
                tar.addfile(info)
    return target


# wheels


def fetch_wheels(requirements: Sequence[str]) -> list[Path]:
    """Wheels for Debian's Python, downloaded once."""
    version = ".".join(map(str, _PYTHONS.get(release(), (3, 11))))
    machine = platform.machine()
    folder = cache() / "wheels" / f"{version}-{machine}"
    folder.mkdir(parents=True, exist_ok=True)
    tags = [
        f"manylinux{tag}_{machine}" for tag in ("_2_28", "_2_27", "_2_26", "_2_17", "2014", "_2_12", "2010", "_2_5")
    ]
    platforms = [f"--platform={tag}" for tag in tags]
    options = ["--no-deps", "--only-binary=:all:", "--implementation=cp", f"--python-version={version}", *platforms]
    found = []
    for requirement in requirements:
        pattern = requirement.replace("==", "-").replace("-", "[-_]") + "-*.whl"
        if not _matching(folder, pattern):
            words = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", *options]
            subprocess.run([*words, "--dest", folder, requirement], check=True)
        found.append(_matching(folder, pattern)[0])
    return found


def _matching(folder: Path, pattern: str) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if fnmatch.fnmatch(path.name.lower(), pattern)]


def unpack(tar: Path, root: Path) -> None:
    """A tar of ours as files, with owners, modes and times."""
    with tarfile.open(tar) as archive:
        archive.extraction_filter = lambda member, _path: member  # Debian 12's Python has no argument for it
        archive.extractall(root)  # noqa: S202 - made here, from wheels


def compile_all(root: Path) -> None:
    """Bytecode beside each module, as pip leaves it, when this Python is the image's.

    A process of its own: order and sharing of constants depend on the hash seed, and on what was compiled before.
    """
    if sys.version_info[:2] == _PYTHONS.get(release()):
        words = [sys.executable, "-S", "-m", "compileall", "-qq", "--invalidation-mode", "unchecked-hash"]
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        subprocess.run([*words, "-s", root, "-p", "/", root], env=environment, check=False)  # some wheels have Python 2


def installed(path: PurePosixPath) -> PurePosixPath:
    """Where pip would put a wheel's file (PEP 427, the .data directory)."""
    first, *rest = path.parts
    if not first.endswith(".data"):
        return _DIST_PACKAGES / path
    kind, *inner = rest
    places = {"scripts": PurePosixPath("usr/local/bin"), "data": PurePosixPath("usr/local")}
    return places.get(kind, _DIST_PACKAGES).joinpath(*inner)


def wheels_tar(
    wheels: Sequence[Path],
    target: Path,
    place: Callable[[PurePosixPath], PurePosixPath] = installed,
    change: Callable[[bytes], bytes] | None = None,
) -> Path:
    """A layer that installs the wheels, each directory with an entry of its own.

    ``place`` says where a wheel's file goes, ``change`` makes another content of the same size from its own.
    """
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        made: set[PurePosixPath] = {PurePosixPath()}
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                for item in sorted(archive.infolist(), key=lambda entry: entry.filename):
                    if not item.is_dir():
                        path = place(PurePosixPath(item.filename))
                        _add_parents(tar, path, made)
                        with archive.open(item) as file:
                            tar.addfile(_wheel_entry(path, item), io.BytesIO(change(file.read())) if change else file)
    return target


def _add_parents(tar: tarfile.TarFile, path: PurePosixPath, made: set[PurePosixPath]) -> None:
    for parent in [*path.parents][::-1]:
        if parent not in made:
            made.add(parent)
            folder = tarfile.TarInfo(str(parent))
            folder.type, folder.mode, folder.mtime = tarfile.DIRTYPE, 0o755, EPOCH
            tar.addfile(folder)


def _wheel_entry(path: PurePosixPath, item: zipfile.ZipInfo) -> tarfile.TarInfo:
    info = tarfile.TarInfo(str(path))
    info.size, info.mtime = item.file_size, EPOCH
    info.mode = (item.external_attr >> 16) & 0o777 or 0o644
    return info
