"""Log lines: form, level, and no credential in any of them."""

from __future__ import annotations

import io
import json

import pytest
import structlog

from imagecache.telemetry import log

PRIVATE = "hunter2-very-secret"


def lines(values: dict[str, object] | None = None, *, level: str = "info", log_format: str = "json") -> str:
    stream = io.StringIO()
    log.configure(log_format=log_format, level=level, stream=stream)
    log.get_logger("registry").info("asked", **(values or {}))
    log.get_logger("registry").debug("details")
    return stream.getvalue()


def test_json() -> None:
    line = json.loads(lines({"host": "example.com", "count": 3}))

    assert (line["event"], line["level"], line["logger"]) == ("asked", "info", "registry")
    assert (line["host"], line["count"]) == ("example.com", 3)
    assert line["timestamp"].endswith("Z")


def test_levels_and_formats() -> None:
    assert lines(level="warning") == ""
    assert len(lines(level="debug").splitlines()) == 2
    console = lines({"host": "x"}, log_format="console")
    assert "asked" in console
    assert "host=x" in console
    assert lines(log_format="auto").startswith("{")


def test_a_logger_without_a_name() -> None:
    stream = io.StringIO()
    log.configure(log_format="json", stream=stream)
    structlog.get_logger().info("x")

    assert "logger" not in json.loads(stream.getvalue())


@pytest.mark.parametrize(
    "values",
    [
        {"Authorization": f"Bearer {PRIVATE}"},
        {"registry_password": PRIVATE},
        {"identity_token": PRIVATE},
        {"headers": {"authorization": PRIVATE, "accept": "x"}},
        {"request": [{"Cookie": PRIVATE}, (f"Basic {PRIVATE}",)]},
        {"url": f"https://user:{PRIVATE}@example.com/v2/"},
        {"detail": f"sent Authorization: bearer {PRIVATE}"},
    ],
)
def test_credentials_never_reach_a_line(values: dict[str, object]) -> None:
    for log_format in ("json", "console"):
        line = lines(values, log_format=log_format)
        assert PRIVATE not in line
        assert log.REDACTED in line


def test_credentials_in_tracebacks_are_redacted() -> None:
    stream = io.StringIO()
    log.configure(log_format="json", stream=stream)
    try:
        int(f"Bearer {PRIVATE}")
    except ValueError:
        log.get_logger("x").exception("failed")

    assert "ValueError" in stream.getvalue()
    assert PRIVATE not in stream.getvalue()
