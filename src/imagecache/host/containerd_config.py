"""Write our drop-in beside containerd's main configuration file, import it there, and undo both.

The administrator's text is never rewritten: one line, or one element of the ``imports`` list, is added, and undo
removes exactly that. It must not restart anything: containerd reads its configuration when it starts.
"""

from __future__ import annotations

import contextlib
import enum
import os
import re
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from imagecache.containerd.modes import version_of
from imagecache.errors import ContainerdMisconfigured, PrivilegeMissing
from imagecache.host.dropin import DropInSettings, default_snapshotter, drop_in
from imagecache.host.user_config import UserConfig, read_user_config
from imagecache.oserrors import from_os_error
from imagecache.toml import dumps

# TOML by regular expressions, since a parser loses comments and order, which must survive our change
_IMPORTS = re.compile(r"^[ \t]*imports[ \t]*=[ \t]*\[", re.MULTILINE)
_TOKEN = re.compile(r"""#[^\n]*|"(?:\\.|[^"\\\n])*"|'[^'\n]*'|[\],]|\s+""")
_MARK = "  # added by imagecache"


class Action(enum.Enum):
    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Change:
    path: Path
    action: Action


class ContainerdConfig:
    """containerd's configuration with our drop-in. ``main`` is its main file, which need not exist."""

    def __init__(self, main: Path, settings: DropInSettings) -> None:
        self._main = main
        self._settings = settings

    @property
    def path(self) -> Path:
        """Of the drop-in."""
        return self._main.parent / "imagecache.toml"

    def text(self) -> str:
        """The drop-in as ``install`` would write it now. Raises ContainerdMisconfigured, PrivilegeMissing."""
        return drop_in(self._settings, self._user())

    def default_snapshotter(self) -> str:
        """The snapshotter of new containers without the drop-in. Raises ContainerdMisconfigured, PrivilegeMissing."""
        return default_snapshotter(self._user())

    def _user(self) -> UserConfig:
        major = version_of(self._settings.containerd)[0]
        return read_user_config(self._main, ours=self.path, major=major)

    def install(self) -> list[Change]:
        """Write the drop-in, then import it. Idempotent.

        Raises PrivilegeMissing, ContainerdMisconfigured, StoreError (NoSpace).
        """
        with _converted(self._main):
            drop_in_text, main_text = self.text(), self._importing()  # both may refuse, so before anything is written
            return [self._write(self.path, drop_in_text), self._write(self._main, main_text)]

    def undo(self) -> list[Change]:
        """Remove the import, then the drop-in. Idempotent."""
        with _converted(self._main):
            return [self._forget(), self._remove(self.path)]

    def _importing(self) -> str:
        """The main file's text with our import."""
        if not self._main.exists():
            version = 2 if version_of(self._settings.containerd)[0] == 1 else 3
            return f"{self._line}version = {version}\n"
        text = self._main.read_text()
        if self._is_imported(text):
            return text
        changed = with_import(text, self.path)
        if not self._is_imported(changed):
            raise ContainerdMisconfigured(
                f"the imports of {self._main} cannot be extended automatically",
                hint=f'add "{self.path}" to imports by hand',
            )
        return changed

    def _forget(self) -> Change:
        if not self._main.exists():
            return Change(self._main, Action.UNCHANGED)
        text = self._main.read_text()
        if re.fullmatch(re.escape(self._line) + r"version = [23]\n", text):
            return self._remove(self._main)
        return self._write(self._main, without_import(text, self.path))

    @property
    def _line(self) -> str:
        return import_line(self.path)

    def _is_imported(self, text: str) -> bool:
        with contextlib.suppress(tomllib.TOMLDecodeError):
            imports = tomllib.loads(text).get("imports", [])
            return isinstance(imports, list) and str(self.path) in imports
        return False

    def _write(self, path: Path, text: str) -> Change:
        existed = path.exists()
        if existed and path.read_text() == text:
            return Change(path, Action.UNCHANGED)
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        replace_text(path, text, path.stat().st_mode & 0o7777 if existed else 0o644)
        return Change(path, Action.UPDATED if existed else Action.CREATED)

    def _remove(self, path: Path) -> Change:
        if not path.exists():
            return Change(path, Action.UNCHANGED)
        path.unlink()
        return Change(path, Action.REMOVED)


def import_line(path: Path) -> str:
    return dumps({"imports": [str(path)]}).rstrip("\n") + _MARK + "\n"


def with_import(text: str, path: Path) -> str:
    """The configuration's text with ``path`` as its last import: later files win."""
    start = _list_start(text)
    if start is None:
        return import_line(path) + text
    end, separator = _end_of_list(text, start, path)
    element = dumps({"x": str(path)}).removeprefix("x = ").rstrip("\n")
    return text[:end] + separator.format(element) + text[end:]


def without_import(text: str, path: Path) -> str:
    """Exactly the text before ``with_import``."""
    element = dumps({"x": str(path)}).removeprefix("x = ").rstrip("\n")
    for added in (import_line(path), f", {element}", f" {element},", element):
        if added in text:
            return text.replace(added, "", 1)
    return text


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


def replace_text(path: Path, text: str, mode: int) -> None:
    """Replace the file atomically; a symbolic link stays a link."""
    path = path.resolve()
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            os.fchmod(file.fileno(), mode)  # mkstemp made it 0600
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).rename(path)
    except BaseException:
        Path(temporary).unlink()
        raise


@contextlib.contextmanager
def _converted(path: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise PrivilegeMissing(f"no permission to change {path.parent}", hint="run as root") from error
    except OSError as error:
        raise from_os_error(error, path) from error
