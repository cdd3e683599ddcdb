"""Images of random layers with everything that layers can have, for differential tests.

Whiteouts, opaque directories, replaced types, hard links, implied and symlinked parents, capabilities, devices, odd
names, odd spellings of paths, all tar formats. A generator keeps a small model of the layer that it makes, so that
nearly every image is one that containerd unpacks; the few that it refuses are wanted too. Same seed, same bytes.
"""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Callable
from typing import TYPE_CHECKING

from testkit.images import EPOCH
from testkit.oci_layout import Compression, LayerSpec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet

_NAMES = (
    *("a", "b", "c", "d", "bin", "lib", "tmp", "etc"),
    *("x.y", "sp ace", "new\nline", "-dash", ".hidden", "back\\slash", "colon:comma,"),
)
_LONG = "A" * 150
_UNICODE = "\u00fcn\u00efc\u00f6de"
_NOT_UTF8 = b"\xff\xfe-latin".decode("utf-8", "surrogateescape")
_NAMES_FOR = {"ustar": _NAMES, "gnu": (*_NAMES, _LONG), "pax": (*_NAMES, _LONG, _UNICODE, _NOT_UTF8)}
"""ustar takes 100 bytes at most; only PAX says how other names than ASCII are meant."""
_MODES = (0o755, 0o700, 0o1777, 0o2775, 0o4755, 0o644, 0o600, 0o000, 0o444, 0o6711, 0o511)
_OWNERS = (0, 0, 0, 1, 33, 1000, 65534, 2_000_000)
_SIZES = (0, 0, 1, 5, 511, 512, 513, 1024, 4095, 4096, 4097, 10_000, 70_000)
_CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
"""security.capability, revision 2: cap_net_bind_service, effective."""
_FORMATS = {"pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT, "ustar": tarfile.USTAR_FORMAT}

Path = tuple[str, ...]


class LayerGenerator:
    """Writes one random layer. ``bottom`` layers have whiteouts too, now and then (unpack-rules §11)."""

    def __init__(self, rng: random.Random, *, bottom: bool, below: AbstractSet[Path] = frozenset()) -> None:
        """``below`` has the paths that are not directories in one of the layers below."""
        self._rng = rng
        self._bottom = bottom
        self._below = below
        self._format = rng.choice(["pax", "pax", "gnu", "ustar"])
        self._names = _NAMES_FOR[self._format]
        self._kinds: dict[Path, str] = {(): "directory"}
        """What this layer has at each real path."""
        self._timed: set[Path] = set()
        """Directories with an entry: times are set at the end, or the pull fails (unpack-rules §8)."""
        self._marked: set[Path] = set()
        """Directories with an opaque marker."""
        self._written: Path = ()
        """The last entry's path as written, through symlinks."""
        self._links: dict[Path, Path] = {}
        """Symlinks of this layer that lead to directories of this layer."""
        self._buffer = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._buffer, mode="w", format=_FORMATS[self._format])  # noqa: SIM115

    def make(self, entries: int) -> bytes:
        """An uncompressed tar of about ``entries`` entries."""
        makers: list[tuple[Callable[[], None], int]] = [
            (self._file, 30),
            (self._directory, 20),
            (self._symlink, 12),
            (self._hardlink, 12),
            (self._special, 5),
            (self._replacement, 8),
            (self._whiteout, 4 if self._bottom else 14),
            (self._opaque, 2 if self._bottom else 6),
            (self._root, 1),
        ]
        chosen = self._rng.choices([maker for maker, _ in makers], [weight for _, weight in makers], k=entries)
        for maker in chosen:
            maker()
        self._tar.close()
        return self._buffer.getvalue()

    def files(self) -> set[Path]:
        """Everything in this layer that is not a directory."""
        return {path for path, kind in self._kinds.items() if kind != "directory"}

    def _mostly(self) -> bool:
        return self._rng.random() < 0.995

    # kinds of entries

    def _file(self) -> None:
        self._add_file(self._new_path())

    def _add_file(self, path: Path) -> None:
        info = self._info(path, tarfile.REGTYPE)
        content = self._rng.randbytes(self._rng.choice(_SIZES))
        info.size = len(content)
        if self._rng.random() < 0.15:
            self._xattr(info, "security.capability", _CAPABILITY)
        self._place(path, "file")
        self._tar.addfile(info, io.BytesIO(content))

    def _directory(self) -> None:
        again = [path for path, kind in self._kinds.items() if kind == "directory" and path]
        path = self._rng.choice(again) if again and self._rng.random() < 0.3 else self._new_path()
        self._add_directory(path)

    def _add_directory(self, path: Path) -> None:
        info = self._info(path, tarfile.DIRTYPE)
        if self._kinds.get(path) != "directory":
            self._place(path, "directory")
        self._timed |= {path, self._written}
        self._tar.addfile(info)

    def _symlink(self) -> None:
        path = self._new_path()
        info = self._info(path, tarfile.SYMTYPE)
        folders = [folder for folder, kind in self._kinds.items() if kind == "directory" and folder]
        targets = ["dangling", "/absolute/dangling", "../../../../up", "b", "./c", "t" * 90]
        led = self._rng.choice(folders) if folders and self._rng.random() < 0.5 else None
        info.linkname = "/" + "/".join(led) if led else self._rng.choice(targets)
        self._place(path, "symlink")
        if led:
            self._links[path] = led
        self._tar.addfile(info)

    def _hardlink(self) -> None:
        there = [path for path, kind in self._kinds.items() if kind in {"file", "symlink", "special"}]
        if not there:
            return
        target = self._rng.choice(there)
        path = self._new_path()
        info = self._info(path, tarfile.LNKTYPE)
        info.linkname = "/".join(target)
        if path[: len(target)] == target:
            return
        self._place(path, self._kinds[target])
        self._tar.addfile(info)

    def _special(self) -> None:
        path = self._new_path()
        kind = self._rng.choice([tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
        info = self._info(path, kind)
        if kind != tarfile.FIFOTYPE:
            info.devmajor, info.devminor = self._rng.choice([(1, 3), (8, 1), (4, 300), (259, 70000)])
        self._place(path, "special")
        self._tar.addfile(info)

    def _replacement(self) -> None:
        """Another thing at a path that this layer already has."""
        there = [path for path in self._kinds if path and not self._timed_below(path)]
        if there:
            path = self._rng.choice(there)
            self._rng.choice([self._add_file, self._add_directory])(path)

    def _whiteout(self) -> None:
        folder = self._folder()
        name = self._rng.choice(_NAMES[:9])
        hidden = (*folder, name)
        if hidden in self._timed or self._timed_below(hidden) or (hidden in self._kinds and not self._bottom):
            return  # containerd fails: ENOENT for the times, or EEXIST for the device
        info = self._info((*folder, ".wh." + name), tarfile.REGTYPE)
        self._imply(folder)
        if self._bottom:
            self._forget(hidden)
        else:
            self._kinds[hidden] = "whiteout"
        self._tar.addfile(info)

    def _opaque(self) -> None:
        folder = self._folder()
        if folder in self._marked:
            return  # at the bottom, containerd 1.6 empties a directory again at its second mark, 2.4 does not
        if self._bottom and self._timed_below(folder):
            return  # containerd fails
        self._marked.add(folder)
        info = self._info((*folder, ".wh..wh..opq"), tarfile.REGTYPE)
        self._imply(folder)
        if self._bottom:
            for path in [path for path in self._kinds if len(path) > len(folder) and path[: len(folder)] == folder]:
                self._forget(path)
        self._tar.addfile(info)

    def _root(self) -> None:
        info = self._info((), tarfile.DIRTYPE)
        info.name = "./"
        self._tar.addfile(info)

    # places

    def _folder(self) -> Path:
        """A directory for a new entry: one of this layer, one below it, or a new one without an entry (implied)."""
        folders = [path for path, kind in self._kinds.items() if kind == "directory" and len(path) < 6]
        folder = self._rng.choice(folders)
        while self._rng.random() < 0.3:
            deeper = (*folder, self._rng.choice(_NAMES[:8]))
            if self._kinds.get(deeper, "directory") != "directory" or self._stumbles(deeper):
                break
            folder = deeper
        return folder

    def _stumbles(self, implied: Path) -> bool:
        """Whether containerd would look for the new directory below a non-directory: then the pull fails."""
        prefixes = [implied[:length] for length in range(1, len(implied))]
        return implied not in self._kinds and any(prefix in self._below for prefix in prefixes) and self._mostly()

    def _new_path(self) -> Path:
        while True:
            path = (*self._folder(), self._rng.choice(self._names))
            if path not in self._kinds:
                return path

    def _imply(self, folder: Path) -> None:
        for length in range(1, len(folder) + 1):
            self._kinds.setdefault(folder[:length], "directory")

    def _place(self, path: Path, kind: str) -> None:
        self._forget(path)
        self._imply(path[:-1])
        self._kinds[path] = kind

    def _timed_below(self, path: Path) -> bool:
        return any(len(timed) > len(path) and timed[: len(path)] == path for timed in self._timed)

    def _forget(self, path: Path) -> None:
        for other in [other for other in self._kinds if other[: len(path)] == path]:
            del self._kinds[other]
            self._links.pop(other, None)

    # headers

    def _info(self, path: Path, kind: bytes) -> tarfile.TarInfo:
        info = tarfile.TarInfo(self._spelled(path))
        info.type = kind
        info.mode = self._rng.choice(_MODES)
        info.uid, info.gid = self._rng.choice(_OWNERS), self._rng.choice(_OWNERS)
        info.mtime = EPOCH - self._rng.randrange(10**8)
        if self._format == "pax":
            if self._rng.random() < 0.4:
                times = [f"{info.mtime}.{self._rng.randrange(10**9):09}", f"{info.mtime}.5", "0", "-5", "-1.25"]
                info.pax_headers = {"mtime": self._rng.choice(times)}
            if self._rng.random() < 0.2:
                self._xattr(info, self._rng.choice(["user.color", "user.empty", "user.x.y"]), self._rng.randbytes(9))
        return info

    def _xattr(self, info: tarfile.TarInfo, name: str, value: bytes) -> None:
        if self._format == "pax":
            text = value.decode("utf-8", "surrogateescape")
            info.pax_headers = {**info.pax_headers, f"SCHILY.xattr.{name}": text}

    def _spelled(self, path: Path) -> str:
        """The path as text: sometimes through a symlink of this layer, and not always in its shortest form."""
        for link, folder in self._links.items():
            if path[: len(folder)] == folder and len(path) > len(folder) and self._rng.random() < 0.5:
                path = link + path[len(folder) :]
                break
        self._written = path
        text = "/".join(path)
        return self._rng.choice([text, text, text, "./" + text, "/" + text, text.replace("/", "//", 1), "x/../" + text])


def random_layers(seed: int) -> list[LayerSpec]:
    """The layers of one image, bottom first: 1 to 6, of 5 to 60 entries, in any compression, some of them twice."""
    rng = random.Random(seed)
    compressions: Sequence[Compression] = ("gzip", "gzip", "zstd", "none")
    twice = rng.random() < 0.15
    layers: list[LayerSpec] = []
    below: set[Path] = set()
    for number in range(rng.choice([1, 2, 3, 3, 4, 6])):
        generator = LayerGenerator(rng, bottom=number == 0 and not twice, below=below)
        layer = LayerSpec(generator.make(rng.randint(5, 60)), rng.choice(compressions))
        repeat = number > 0 and rng.random() < 0.2
        layers.append(rng.choice(layers if twice else [*layers[1:], layer]) if repeat else layer)
        below |= generator.files()
    return layers
