"""Settings that are one of a few words, and what each word means."""

from __future__ import annotations

import enum


class Mode(enum.Enum):
    """How layers reach containerd (``docs/architecture.md``, "On a node")."""

    AUTO = "auto"
    """What containerd is configured for; where we configure it, PROXY."""
    PROXY = "proxy"
    NATIVE = "native"
    PREPULL = "prepull"
    """Only for the agent in a cluster."""


class InodeNumbers(enum.Enum):
    """What stat(2) says of files in containers."""

    STABLE = "stable"
    """As on one filesystem: numbers that stay, one device. They need 64 bits."""
    SHORT = "short"
    """Numbers of 32 bits; those of directories change, and files have other devices than their directories."""


class MountFrom(enum.Enum):
    """What layer images are mounted from (ADR 21)."""

    AUTO = "auto"
    """The file where the kernel does that well, else a loop device."""
    FILE = "file"
    """The file, also where the kernel's version says that it may read zeros: the distribution has mended it."""
    LOOP = "loop"
    """A loop device with direct I/O, so that programs can read with O_DIRECT."""


class StoreCompression(enum.Enum):
    """How layers travel from the served store to a node."""

    AUTO = "auto"
    """In the form that brings more of them in a second, as measured."""
    ALWAYS = "always"
    NEVER = "never"


class Repair(enum.Enum):
    """What the host's agent does when containerd's configuration has lost our part."""

    AUTO = "auto"
    REPORT = "report"


class LogFormat(enum.Enum):
    AUTO = "auto"
    """``console`` on a terminal, ``json`` otherwise."""
    JSON = "json"
    CONSOLE = "console"


class LogLevel(enum.Enum):
    AUTO = "auto"
    """``info`` for services, ``warning`` for all other commands."""
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
