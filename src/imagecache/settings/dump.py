"""Settings as the text of a configuration file, for another process of the same program."""

from __future__ import annotations

import enum

from imagecache.settings.table import SETTINGS, Settings
from imagecache.toml import dumps


def config_text(settings: Settings) -> str:
    """The values that differ from the defaults, as ``settings.load`` reads them."""
    values = {name: getattr(settings, name) for name in SETTINGS}
    return dumps({name: _plain(value) for name, value in values.items() if value != SETTINGS[name].default})


def _plain(value: object) -> object:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, tuple):
        return list(value)
    return value if isinstance(value, int | float) else str(value)
