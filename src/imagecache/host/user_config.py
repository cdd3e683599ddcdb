"""The administrator's part of containerd's configuration, with all imported files.

containerd merges files in the order it reads them: the main file, then its imports, then theirs. containerd 1.x
replaces a plugin's whole section by that of a later file; 2.x merges tables and replaces lists. So our drop-in must
repeat what it would replace, and this module finds that.

The version that a file says is that of its names of plugins. containerd 2.x translates each file by itself, and one
that says none is of version 1. containerd 1.x takes all files for the version that the last of them says, 1 when none
does, and refuses short names in version 2: with our drop-in, which says 2, everything is version 2. So a file without
plugins, and the empty file most of all, may say any version or none. Source: ``cmd/containerd/server/config`` (2.x),
``services/server/config`` (1.x), functions LoadConfig and mergeConfig of each. It must not write.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from imagecache.errors import ContainerdMisconfigured, PrivilegeMissing
from imagecache.toml import Table

_LISTS = ("disabled_plugins", "required_plugins")
_WHOLE_NAMES = 2
"""The version since which names of plugins are whole."""
_SHORT = {"cri": "io.containerd.grpc.v1.cri"}
"""Names of version 1 that we look for, and what 2.x makes of them (function v1MigratePluginName)."""


@dataclass(frozen=True, slots=True)
class UserConfig:
    """The configuration without our drop-in."""

    version: int = 0
    """The highest that a file says; 0 when none does."""
    plugins: dict[str, Table] = field(default_factory=dict)
    """Sections of ``plugins``, merged as this containerd merges them."""
    files: tuple[Path, ...] = ()
    """That were read."""

    @property
    def sources(self) -> set[Path]:
        """Files, and the directories that imports have found some in."""
        return {*self.files, *(path.parent for path in self.files[1:])}

    def section(self, plugin: str, *path: str) -> Table:
        """A table in a plugin's section; empty when it does not exist."""
        table: object = self.plugins.get(plugin, {})
        for key in path:
            table = table.get(key, {}) if isinstance(table, dict) else {}
        return cast("Table", table) if isinstance(table, dict) else {}


def read_user_config(main: Path, *, ours: Collection[Path], major: int) -> UserConfig:
    """Read ``main`` and what it imports, but for ``ours``. Raises ContainerdMisconfigured, PrivilegeMissing."""
    if not main.exists():
        return UserConfig()
    version = 0
    plugins: dict[str, Table] = {}
    pending, done, files = [main], set(ours), []
    naming: Path | None = None
    while pending:
        path = pending.pop(0)
        if path in done:  # containerd, too, reads a file once
            continue
        done.add(path)
        files.append(path)
        document = read_toml(path)
        said = _version(document, path)
        version = max(version, said)
        naming = naming or (path if _names_plugins(document) else None)
        for name, section in _tables(document.get("plugins")).items():
            whole = name if said >= _WHOLE_NAMES or major == 1 else _SHORT.get(name, name)
            plugins[whole] = section if major == 1 else merged(plugins.get(whole, {}), section)
        pending += _imports(path, document)
    if major == 1 and version < _WHOLE_NAMES and naming is not None:
        raise ContainerdMisconfigured(
            f"{naming}: a drop-in needs configuration version 2, this is {version or 1}",
            hint="write version = 2, and whole names of plugins (docs/PLUGINS.md of containerd): "
            "io.containerd.grpc.v1.cri for cri",
        )
    return UserConfig(version, plugins, tuple(files))


def read_toml(path: Path) -> Table:
    try:
        return tomllib.loads(exact_text(path))
    except PermissionError as error:
        raise PrivilegeMissing(f"no permission to read {path}", hint="run as root") from error
    except OSError as error:
        raise ContainerdMisconfigured(f"{path}: {error.strerror}", hint="repair containerd's configuration") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ContainerdMisconfigured(f"{path}: {error}", hint="repair containerd's configuration") from error


def exact_text(path: Path) -> str:
    """With its line ends, which ``Path.read_text`` changes; UTF-8 in any locale. Raises OSError, UnicodeDecodeError."""
    return path.read_bytes().decode()


def merged(below: Table, above: Table) -> Table:
    """Tables merged key by key; any other value of ``above`` replaces that of ``below``."""
    result = dict(below)
    for key, value in above.items():
        found = result.get(key)
        result[key] = merged(found, value) if isinstance(found, dict) and isinstance(value, dict) else value
    return result


def _version(document: Table, path: Path) -> int:
    """0 when the file says none."""
    version = document.get("version", 0)
    if not isinstance(version, int):
        raise ContainerdMisconfigured(
            f"{path}: version is {version!r} and not a number", hint="repair containerd's configuration"
        )
    return version


def _names_plugins(document: Table) -> bool:
    return bool(_tables(document.get("plugins")) or any(document.get(name) for name in _LISTS))


def _tables(value: object) -> dict[str, Table]:
    return (
        {key: section for key, section in value.items() if isinstance(section, dict)} if isinstance(value, dict) else {}
    )


def _imports(path: Path, document: Table) -> list[Path]:
    """Relative to the file; patterns expand in order. Missing files are ignored: containerd reports them."""
    found: list[Path] = []
    imports = document.get("imports", [])
    for text in imports if isinstance(imports, list) else []:
        imported = Path(os.path.normpath(path.parent / str(text)))
        matches = sorted(imported.parent.glob(imported.name)) if "*" in imported.name else [imported]
        found += [match for match in matches if match.is_file()]
    return found
