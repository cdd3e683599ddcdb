"""The administrator's part of containerd's configuration, with all imported files.

containerd merges files in the order it reads them: the main file, then its imports, then theirs. containerd 1.x
replaces a plugin's whole section by that of a later file; 2.x merges tables and replaces lists. So our drop-in must
repeat what it would replace, and this module finds that. Source: ``cmd/containerd/server/config``
(2.x), ``services/server/config`` (1.x), function mergeConfig of each. It must not write.
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


@dataclass(frozen=True, slots=True)
class UserConfig:
    """The configuration without our drop-in."""

    version: int = 0
    """Of the main file; 0 when it does not exist."""
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
    while pending:
        path = pending.pop(0)
        if path in done:  # containerd, too, reads a file once
            continue
        done.add(path)
        files.append(path)
        document = read_toml(path)
        version = version or _version(document, path)
        for name, section in _tables(document.get("plugins")).items():
            plugins[name] = section if major == 1 else merged(plugins.get(name, {}), section)
        pending += _imports(path, document)
    return UserConfig(version, plugins, tuple(files))


def read_toml(path: Path) -> Table:
    try:
        return tomllib.loads(path.read_text())
    except PermissionError as error:
        raise PrivilegeMissing(f"no permission to read {path}", hint="run as root") from error
    except OSError as error:
        raise ContainerdMisconfigured(f"{path}: {error.strerror}", hint="repair containerd's configuration") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ContainerdMisconfigured(f"{path}: {error}", hint="repair containerd's configuration") from error


def merged(below: Table, above: Table) -> Table:
    """Tables merged key by key; any other value of ``above`` replaces that of ``below``."""
    result = dict(below)
    for key, value in above.items():
        found = result.get(key)
        result[key] = merged(found, value) if isinstance(found, dict) and isinstance(value, dict) else value
    return result


def _version(document: Table, path: Path) -> int:
    version = document.get("version", 1)
    if not isinstance(version, int) or version < 2:
        raise ContainerdMisconfigured(
            f"{path}: a drop-in needs configuration version 2 or later, this is {version}",
            hint="convert it: containerd config migrate",
        )
    return version


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
