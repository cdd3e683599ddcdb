"""The settings in force: flag before environment before configuration file before default.

The same rules check a value from any source, and an error names the source. It must not open any file but the
configuration file.
"""

from __future__ import annotations

import enum
import tomllib
from collections.abc import Mapping
from pathlib import Path

from imagecache.errors import InvalidSetting
from imagecache.settings.table import CONFIG_ENVIRONMENT, CONFIG_FILE, SETTINGS, Setting, Settings
from imagecache.written import listed, trimmed


def load(flags: Mapping[str, str | None], environ: Mapping[str, str], config: str | None = None) -> Settings:
    """Settings from all sources. ``flags`` by name of the setting, None when not given. Raises InvalidSetting."""
    values: dict[str, object] = {}
    path = config or environ.get(CONFIG_ENVIRONMENT)
    file = Path(path or CONFIG_FILE)
    for name, value in _file(file, required=path is not None).items():
        if name not in SETTINGS:
            raise InvalidSetting(f"{file}: unknown setting {name!r}", hint="docs/settings.md lists all settings")
        values[name] = check(SETTINGS[name], value, f"{file}: {name}")
    for setting in SETTINGS.values():
        text = environ.get(setting.env)
        if text or (text is not None and setting.kind is str):  # an empty variable is unset, unless text may be empty
            values[setting.name] = check(setting, text, setting.env)
        flag = flags.get(setting.name)
        if flag is not None:
            values[setting.name] = check(setting, flag, setting.flag)
    return Settings(**values)  # type: ignore[arg-type]  # check() returns the type of the field


def _file(path: Path, *, required: bool) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if not required:
            return {}
        raise InvalidSetting(f"{path}: no such file", hint="check --config or IMAGECACHE_CONFIG") from error
    except OSError as error:
        raise InvalidSetting(f"{path}: {error.strerror}", hint="check --config or IMAGECACHE_CONFIG") from error
    except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError
        raise InvalidSetting(f"{path}: {error}", hint="the file is TOML: one name = value per line") from error


def check(setting: Setting, value: object, origin: str) -> object:
    """The value converted to its setting's type. Raises InvalidSetting that names ``origin``."""
    checked = _converted(setting.kind, value)
    if checked is None:
        raise InvalidSetting(f"{origin}: {value!r} is not valid", hint=f"expected {setting.unit}: {setting.help}")
    if setting.positive and not checked:
        raise InvalidSetting(
            f"{origin}: {value!r} is not valid: it must be more than 0",
            hint=f"expected {setting.unit}: {setting.help}",
        )
    return checked


def _converted(kind: object, value: object) -> object | None:
    if kind in {int, float}:
        return _number(value, whole=kind is int)
    if kind is bool:
        return _truth(value)
    if kind == tuple[str, ...]:
        return _texts(value)
    return _from_text(kind, value) if isinstance(value, str) else None


def _from_text(kind: object, text: str) -> object | None:
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        members: dict[object, object] = {member.value: member for member in kind.__members__.values()}
        return members.get(text)
    if kind is Path:
        return Path(text).expanduser().absolute() if text else None
    return text


def _number(value: object, *, whole: bool) -> int | float | None:
    """A finite number of at least 0, from text or from a number of the file."""
    # bool is a subclass of int
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = int(value) if whole and isinstance(value, str | int) else float(value)
    except ValueError:
        return None
    if whole and isinstance(number, float):
        return None
    return number if 0 <= number < float("inf") else None


def _truth(value: object) -> bool | None:
    """From ``true`` and ``false``, as text or as the file has them."""
    if isinstance(value, bool):
        return value
    return {"true": True, "false": False}.get(value) if isinstance(value, str) else None


def _texts(value: object) -> tuple[str, ...] | None:
    if isinstance(value, str):
        return listed(value)
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return tuple(filter(None, map(trimmed, value)))
    return None
