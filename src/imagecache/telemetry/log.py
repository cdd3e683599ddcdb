"""Structured logs on stderr: constant messages with key/values, as JSON or as text.

Values under a key that looks like a credential are replaced before anything is written, in every logger, and texts
become printable lines of bounded length: they may be a registry's. It must not decide what is logged.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import TextIO

import structlog

from imagecache.written import printable

_SECRET = re.compile(r"authorization|password|passwd|secret|token|credential|api_?key|cookie", re.IGNORECASE)
_HEADER = re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_USERINFO = re.compile(r"(?<=://)[^/@\s]+@")
REDACTED = "[redacted]"
_TRACE = "exception"
"""The key of structlog's ``format_exc_info``."""
_TRACE_LINES = 200
"""The last ones: what was raised is at the end."""
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

Event = MutableMapping[str, object]


def configure(*, log_format: str = "auto", level: str = "info", stream: TextIO | None = None) -> None:
    """Send all logs of this process to ``stream`` (stderr). ``auto``: text on a terminal, else JSON."""
    target = stream or sys.stderr
    people = log_format == "console" or (log_format == "auto" and target.isatty())
    structlog.configure(
        processors=[
            _named,
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            redact,
            # plain: a traceback is a text by then, which is redacted as every other one
            structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
            if people
            else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=lambda *names: _Logger(target, str(names[0]) if names else ""),
        cache_logger_on_first_use=False,  # tests and build processes configure again
    )


def get_logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """The logger of a package; ``name`` is the key ``logger`` of its lines."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(name)
    return logger


class _Logger(structlog.PrintLogger):
    """Writes lines, and keeps the name that ``get_logger`` was called with."""

    def __init__(self, stream: TextIO, name: str) -> None:
        super().__init__(stream)
        self.name = name


def _named(logger: _Logger, _method: str, event: Event) -> Event:
    if logger.name:
        event["logger"] = logger.name
    return event


def redact(_logger: object, _method: str, event: Event) -> Event:
    """The last processor before output: replaces what looks like a credential, and what a terminal would obey.

    By key and inside texts, at any depth.
    """
    return {key: _lines(value) if key == _TRACE else _item(key, value) for key, value in event.items()}


def _item(key: str, value: object) -> object:
    return REDACTED if _SECRET.search(key) else _clean(value)


def _lines(trace: object) -> str:
    """The lines of a stack trace, indented: what was raised may have line breaks, and behind one a line like ours.

    Cleaned as a whole too: a credential may begin at the end of one line.
    """
    text = _USERINFO.sub(f"{REDACTED}@", _HEADER.sub(rf"\1 {REDACTED}", str(trace)))
    return "\n".join(f"  {_clean(line)}" for line in text.split("\n")[-_TRACE_LINES:])


def _clean(value: object) -> object:
    if isinstance(value, str):
        return printable(_USERINFO.sub(f"{REDACTED}@", _HEADER.sub(rf"\1 {REDACTED}", value)))
    if isinstance(value, dict):
        return {printable(str(key)): _item(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float) else _clean(str(value))
