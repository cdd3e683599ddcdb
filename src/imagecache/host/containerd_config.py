"""Write our drop-in for containerd, have it imported, look whether it still is, and undo both.

Where the main file imports a directory last, the drop-in goes there and the main file stays as it is: k3s and RKE2
write that file anew at each start, with the same import. Otherwise the drop-in is beside the main file, where one line,
or one element of the ``imports`` list, is added; undo removes exactly that. The administrator's text is never
rewritten. It must not restart anything: containerd reads its configuration when it starts.
"""

from __future__ import annotations

import contextlib
import enum
import fnmatch
import functools
import operator
import os
import re
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from imagecache.containerd.modes import version_of
from imagecache.digest import Digest
from imagecache.errors import ContainerdMisconfigured, PrivilegeMissing
from imagecache.host.dropin import DropInSettings, default_snapshotter, drop_in
from imagecache.host.user_config import UserConfig, exact_text, read_toml, read_user_config
from imagecache.oserrors import from_os_error
from imagecache.toml import Table, dumps

# TOML by regular expressions, since a parser loses comments and order, which must survive our change
_IMPORTS = re.compile(r"^[ \t]*imports[ \t]*=[ \t]*\[", re.MULTILINE)
_TOKEN = re.compile(r"""#[^\n]*|"(?:\\.|[^"\\\n])*"|'[^'\n]*'|[\],]|\s+""")
_MARK = "  # added by imagecache"
_BESIDE, _INSIDE = "imagecache.toml", "zz-imagecache.toml"
"""The drop-in's name beside the main file, and in an imported directory: of its files the last one wins."""


_MADE = "# Made by imagecache, which removes this file with its drop-in.\n"
"""In a main file that did not exist before: one that a person has written may say the same otherwise."""


class Action(enum.Enum):
    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Change:
    path: Path
    action: Action


class ConfigState(enum.Enum):
    """What containerd would read at its next start. The values are for people."""

    OK = "the drop-in is imported"
    ABSENT = "there is no drop-in"
    STALE = "the drop-in was made from other files than those of now"
    NOT_IMPORTED = "the drop-in is not imported"


@dataclass(frozen=True, slots=True)
class Found:
    """containerd's files at one moment."""

    state: ConfigState
    changed: float = 0.0
    """When the main file or one that it imports changed last, in seconds since the epoch; 0 without one.

    Our drop-in does not count: it is made from the others.
    """
    fingerprint: str = ""
    """Names what ``install`` would write: it changes with the main file and with the drop-in's text."""


class ContainerdConfig:
    """containerd's configuration with our drop-in.

    Args:
        main: its main file, which need not exist.
        settings: of the drop-in.
        maps_ids: tries whether the kernel maps ids where the snapshotter writes; called when the drop-in is written.
    """

    def __init__(self, main: Path, settings: DropInSettings, maps_ids: Callable[[], bool] = lambda: False) -> None:
        self._main = main
        self._settings = settings
        self._maps_ids = maps_ids
        self._beside = main.parent / _BESIDE

    @property
    def path(self) -> Path:
        """Of the drop-in: in the directory that the main file imports last, else beside that file."""
        try:
            document = read_toml(self._main) if self._main.exists() else {}
        except ContainerdMisconfigured:
            return self._beside
        pattern = imported_pattern(document, self._beside)
        if pattern is None or any(found.name > _INSIDE for found in pattern.parent.glob(pattern.name)):
            return self._beside
        return pattern.parent / _INSIDE

    def text(self) -> str:
        """The drop-in as ``install`` would write it now. Raises ContainerdMisconfigured, PrivilegeMissing."""
        return self._text(self._user(), maps_ids=self._maps_ids())

    def _text(self, user: UserConfig, *, maps_ids: bool) -> str:
        return drop_in(replace(self._settings, maps_ids=maps_ids), user)

    def default_snapshotter(self) -> str:
        """The snapshotter of new containers without the drop-in. Raises ContainerdMisconfigured, PrivilegeMissing."""
        return default_snapshotter(self._user())

    def _user(self) -> UserConfig:
        major = version_of(self._settings.containerd)[0]
        return read_user_config(self._main, ours=self._places(), major=major)

    def _places(self) -> set[Path]:
        """Wherever a drop-in of ours may be: before the main file was written anew, it may have imported another."""
        folder = self._main.parent
        return {self._beside, self.path, *folder.glob(_INSIDE), *folder.glob(f"*/{_INSIDE}")}

    def look(self) -> Found:
        """Compare the files with what ``install`` would write.

        Raises ContainerdMisconfigured when they cannot be read, PrivilegeMissing, StoreError.
        """
        with _converted(self._main):
            user = self._user()
            # either is in order: to try it again costs mounts, and may turn out otherwise in another process
            texts = [self._text(user, maps_ids=maps_ids) for maps_ids in (False, True)]
            main = exact_text(self._main) if user.files else ""
            name = Digest.sha256((without_import(main, self._beside) + texts[0]).encode())
            # directories too: a file of conf.d that was deleted has changed what containerd would read
            changed = max((path.stat().st_ctime for path in user.sources), default=0.0)
            return Found(self._state(texts, main), changed, str(name))

    def _state(self, texts: Sequence[str], main: str) -> ConfigState:
        path = self.path
        if not any(place.exists() for place in self._places()):
            return ConfigState.ABSENT
        if not path.exists() or (path == self._beside and not self._is_imported(main)):
            return ConfigState.NOT_IMPORTED
        return ConfigState.OK if _text_of(path) in texts else ConfigState.STALE

    def install(self) -> list[Change]:
        """Write the drop-in, import it, then remove it from where it was before. Idempotent.

        Raises PrivilegeMissing, ContainerdMisconfigured, StoreError (NoSpace).
        """
        with _converted(self._main):
            path, user = self.path, self._user()
            before = exact_text(self._main) if self._main.exists() else ""
            # both may refuse: before anything is written
            text, main = self._text(user, maps_ids=self._maps_ids()), self._importing(path, before)
            changes = [self._write(path, text, _mode(user)), self._write_main(before, main)]
            return changes + self._remove_all(self._places() - {path})

    def undo(self) -> list[Change]:
        """Remove the import, then the drop-in. Idempotent. A directory that ``install`` made for it stays."""
        with _converted(self._main):
            path, places = self.path, self._places()  # before the main file is changed, perhaps removed
            return [self._forget(), self._remove(path), *self._remove_all(places - {path})]

    def _importing(self, path: Path, text: str) -> str:
        """The main file's ``text`` with ``path`` imported."""
        if not self._main.exists():
            version = 2 if version_of(self._settings.containerd)[0] == 1 else 3
            return f"{self._line}{_MADE}version = {version}\n"
        if path != self._beside:
            return without_import(text, self._beside) if self._is_imported(text) else text
        if self._is_imported(text):
            return text
        changed = with_import(text, path)
        if not self._is_imported(changed):
            raise ContainerdMisconfigured(
                f"the imports of {self._main} cannot be extended automatically",
                hint=f'add "{path}" to imports by hand',
            )
        return changed

    def _forget(self) -> Change:
        if not self._main.exists():
            return Change(self._main, Action.UNCHANGED)
        text = exact_text(self._main)
        if re.fullmatch(re.escape(self._line + _MADE).replace("\\\n", r"\r?\n") + r"version = [23]\r?\n", text):
            return self._remove(self._main)
        return self._write_main(text, without_import(text, self._beside))

    @property
    def _line(self) -> str:
        return import_line(self._beside)

    def _is_imported(self, text: str) -> bool:
        """Whether the main file's text names the drop-in beside it."""
        with contextlib.suppress(tomllib.TOMLDecodeError):
            imports = tomllib.loads(text).get("imports", [])
            return isinstance(imports, list) and str(self._beside) in imports
        return False

    def _write(self, path: Path, text: str, mode: int) -> Change:
        existed = path.exists()
        if existed and _text_of(path) == text:
            path.chmod(mode)
            return Change(path, Action.UNCHANGED)
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        replace_text(path, text, mode)
        return Change(path, Action.UPDATED if existed else Action.CREATED)

    def _write_main(self, before: str, text: str) -> Change:
        """Raises ContainerdMisconfigured when somebody else has written it since ``before`` was read."""
        existed = self._main.exists()
        if existed and text == before:
            return Change(self._main, Action.UNCHANGED)
        self._main.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        mode = self._main.stat().st_mode & 0o7777 if existed else 0o644
        replace_text(self._main, text, mode, before=before)
        return Change(self._main, Action.UPDATED if existed else Action.CREATED)

    def _remove(self, path: Path) -> Change:
        if not path.exists():
            return Change(path, Action.UNCHANGED)
        path.unlink()
        return Change(path, Action.REMOVED)

    def _remove_all(self, paths: set[Path]) -> list[Change]:
        return [self._remove(path) for path in sorted(paths) if path.exists()]


def imported_pattern(document: Table, beside: Path) -> Path | None:
    """The pattern that a main file imports last, if our drop-in's name matches it; None otherwise.

    The last one only, since later files win. ``beside`` is our own import, which does not count. Relative patterns do
    not count either: containerd 1.6 looks for them in its working directory.
    """
    imports = document.get("imports", [])
    others = [str(text) for text in imports if text != str(beside)] if isinstance(imports, list) else []
    last = Path(os.path.normpath(others[-1])) if others else Path()
    if last.is_absolute() and "*" in last.name and "*" not in str(last.parent) and fnmatch.fnmatch(_INSIDE, last.name):
        return last
    return None


def import_line(path: Path, end: str = "\n") -> str:
    return dumps({"imports": [str(path)]}).rstrip("\n") + _MARK + end


def with_import(text: str, path: Path) -> str:
    """The configuration's text with ``path`` as its last import: later files win."""
    start = _list_start(text)
    if start is None:
        return import_line(path, _line_end(text)) + text
    end, separator = _end_of_list(text, start, path)
    element = dumps({"x": str(path)}).removeprefix("x = ").rstrip("\n")
    return text[:end] + separator.format(element) + text[end:]


def without_import(text: str, path: Path) -> str:
    """Exactly the text before ``with_import``, also when an editor has changed every line's end since."""
    element = dumps({"x": str(path)}).removeprefix("x = ").rstrip("\n")
    for added in (import_line(path), import_line(path, "\r\n"), f", {element}", f" {element},", element):
        if added in text:
            return text.replace(added, "", 1)
    return text


def _line_end(text: str) -> str:
    """Of its first line; LF where there is none."""
    return "\r\n" if text.partition("\n")[0].endswith("\r") else "\n"


def _list_start(text: str) -> int | None:
    """Offset of the first element of the top-level ``imports``; None without such a list."""
    match = _IMPORTS.search(text)
    first_table = re.search(r"^[ \t]*\[", text, re.MULTILINE)
    if match is None or (first_table is not None and first_table.start() < match.start()):
        return None
    return match.end()


def _end_of_list(text: str, start: int, path: Path) -> tuple[int, str]:
    """Offset behind the last element or comma, and the form of a further element there."""
    end, separator, position = start, "{}", start
    while (token := _TOKEN.match(text, position)) is not None and token[0] != "]":
        position = token.end()
        if token[0] == ",":
            end, separator = position, " {},"  # a trailing comma stays one
        elif token[0][0] in "\"'":
            end, separator = position, ", {}"
    if token is None:
        raise ContainerdMisconfigured(
            "the imports of containerd's configuration are not a list of strings", hint=f'add "{path}" there by hand'
        )
    return end, separator


def replace_text(path: Path, text: str, mode: int, *, before: str | None = None) -> None:
    """Replace the file atomically; a symbolic link stays a link.

    Raises ContainerdMisconfigured when its text is not ``before``: another program writes the file now.
    """
    path = path.resolve()
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            os.fchmod(file.fileno(), mode)  # mkstemp made it 0600
            file.flush()
            os.fsync(file.fileno())
        if before is not None:
            _check_unchanged(path, before)
        Path(temporary).rename(path)
    except BaseException:
        Path(temporary).unlink()
        raise


def _check_unchanged(path: Path, before: str) -> None:
    if (_text_of(path) if path.exists() else "") != before:
        raise ContainerdMisconfigured(
            f"{path} was changed by another program while it was extended", hint="try again when that has finished"
        )


def _text_of(path: Path) -> str:
    """Of a file that anybody may have damaged: bytes that are no UTF-8 make it another text, and no error."""
    return path.read_bytes().decode(errors="replace")


def _mode(user: UserConfig) -> int:
    """Of the drop-in: it repeats what it replaces, registry credentials too, so nobody else may read it either."""
    return functools.reduce(operator.and_, (path.stat().st_mode for path in user.files), 0o644)


@contextlib.contextmanager
def _converted(path: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise PrivilegeMissing(f"no permission to change {path.parent}", hint="run as root") from error
    except UnicodeDecodeError as error:
        raise ContainerdMisconfigured(f"{path}: {error}", hint="repair containerd's configuration") from error
    except OSError as error:
        raise from_os_error(error, path) from error
