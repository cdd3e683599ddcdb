"""Time limits of 0: aiohttp takes them for none, so that a registry that is silent is waited for without end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from imagecache.errors import InvalidSetting
from imagecache.registry.config import RegistryConfig
from imagecache.settings.load import load

LIMITS = ["registry_connect_timeout", "registry_read_timeout"]


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("value", ["0", "0.0", "-0", "1e-400"])
def test_a_setting_of_nothing_is_refused(tmp_path: Path, name: str, value: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f"{name} = {value}\n")
    variable, flag = f"IMAGECACHE_{name.upper()}", "--" + name.replace("_", "-")

    for origin, flags, environ, path in (
        (variable, {}, {variable: value}, None),
        (flag, {name: value}, {}, None),
        (f"{file}: {name}", {}, {}, str(file)),
    ):
        with pytest.raises(InvalidSetting, match="it must be more than 0") as caught:
            load(flags, environ, path)
        assert str(caught.value).startswith(f"{origin}: ")
        assert caught.value.hint.startswith("expected seconds: ")


@pytest.mark.parametrize("name", ["trim_delay", "taint_timeout", "tag_check_interval"])
def test_a_setting_of_nothing_that_has_a_meaning(name: str) -> None:
    assert getattr(load({name: "0"}, {}), name) == 0


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_registry_client_without_a_limit(name: str, value: float) -> None:
    limit: dict[str, Any] = {name.removeprefix("registry_"): value}
    with pytest.raises(ValueError, match="greater than 0"):
        RegistryConfig(**limit)
