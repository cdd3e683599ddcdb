"""Settings as their flags would give them, for another process of the same program."""

from __future__ import annotations

import dataclasses
import enum

from imagecache.settings.table import Settings


def as_flags(settings: Settings) -> dict[str, str]:
    """``settings.load.load`` makes the same settings from it."""
    return {field.name: as_text(getattr(settings, field.name)) for field in dataclasses.fields(settings)}


def as_text(value: object) -> str:
    """One value as its flag or the environment has it."""
    if isinstance(value, enum.Enum):
        return str(value.value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(value) if isinstance(value, tuple) else str(value)
