"""Settings: flag, environment, file, default; every wrong value names its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagecache.errors import InvalidSetting
from imagecache.settings.choices import LogFormat, Mode
from imagecache.settings.load import load
from imagecache.settings.table import SETTINGS, Settings

from .conftest import Shell


def loaded(tmp_path: Path, text: str = "", environ: dict[str, str] | None = None, **flags: str | None) -> Settings:
    file = tmp_path / "config.toml"
    file.write_text(text)
    return load(flags, {"IMAGECACHE_CONFIG": str(file), **(environ or {})})


def test_defaults_are_the_documented_ones(tmp_path: Path) -> None:
    settings = loaded(tmp_path)

    assert settings == Settings()
    assert settings.store == Path("/var/lib/imagecache")
    assert settings.address == Path("/run/containerd/containerd.sock")
    assert settings.namespace == "k8s.io"


def test_precedence(tmp_path: Path) -> None:
    text = 'store = "/file"\njobs = 3\ntrim_delay = 2\nmode = "native"\n'
    environ = {"IMAGECACHE_STORE": "/env", "IMAGECACHE_JOBS": "4"}

    settings = loaded(tmp_path, text, environ, store="/flag", jobs=None)

    assert (settings.store, settings.jobs, settings.trim_delay, settings.mode) == (Path("/flag"), 4, 2.0, Mode.NATIVE)


def test_types(tmp_path: Path) -> None:
    text = 'allow_private_names = ["k8s.io", "moby"]\nlog_format = "json"\nmetrics_address = "1.2.3.4:5"\n'
    settings = loaded(tmp_path, text, {"IMAGECACHE_METRICS_ADDRESS": "", "IMAGECACHE_JOBS": ""}, store="rel")

    assert settings.allow_private_names == ("k8s.io", "moby")
    assert settings.log_format is LogFormat.JSON
    assert settings.metrics_address == ""
    assert settings.jobs == 0
    assert settings.store == Path.cwd() / "rel"
    assert loaded(tmp_path, "", {}, allow_private_names="a, b,").allow_private_names == ("a", "b")
    assert loaded(tmp_path, "", {}, allow_private_names="\u00a0a,\u200bb\u3000").allow_private_names == ("a", "b")
    assert loaded(tmp_path, 'allow_private_names = ["\u00a0a", " "]').allow_private_names == ("a",)
    assert not loaded(tmp_path, "pods = false").pods
    assert loaded(tmp_path, "pods = false", {"IMAGECACHE_PODS": "true"}).pods
    assert not loaded(tmp_path, "pods = true", {"IMAGECACHE_PODS": "true"}, pods="false").pods


BAD = {
    "unknown-key": ("flavour = 1", {}, {}, "config.toml: unknown setting 'flavour'"),
    "not-toml": ("store = ", {}, {}, "config.toml: Invalid value"),
    "not-a-number": ("", {"IMAGECACHE_JOBS": "many"}, {}, "IMAGECACHE_JOBS: 'many' is not valid"),
    "negative": ("jobs = -1", {}, {}, "config.toml: jobs: -1 is not valid"),
    "fraction": ("jobs = 1.5", {}, {}, "config.toml: jobs: 1.5"),
    "bool": ("jobs = true", {}, {}, "config.toml: jobs: True"),
    "number-for-truth": ("pods = 1", {}, {}, "config.toml: pods: 1 is not valid"),
    "word-for-truth": ("", {"IMAGECACHE_PODS": "yes"}, {}, "IMAGECACHE_PODS: 'yes' is not valid"),
    "infinite": ("trim_delay = inf", {}, {}, "config.toml: trim_delay: inf"),
    "nan": ("trim_delay = nan", {}, {}, "config.toml: trim_delay: nan"),
    "number-for-text": ("namespace = 3", {}, {}, "config.toml: namespace: 3"),
    "choice": ("", {}, {"mode": "magic"}, "--mode: 'magic' is not valid"),
    "empty-path": ("", {}, {"store": ""}, "--store: '' is not valid"),
    "texts": ("allow_private_names = [1]", {}, {}, "config.toml: allow_private_names: [1]"),
}


@pytest.mark.parametrize(("text", "environ", "flags", "message"), BAD.values(), ids=BAD)
def test_bad_values_name_their_place(
    tmp_path: Path, text: str, environ: dict[str, str], flags: dict[str, str], message: str
) -> None:
    with pytest.raises(InvalidSetting) as caught:
        loaded(tmp_path, text, environ, **flags)

    assert message in str(caught.value)
    assert caught.value.hint


def test_the_file_itself(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="no such file"):
        load({}, {}, str(tmp_path / "missing.toml"))
    with pytest.raises(InvalidSetting, match="Is a directory"):
        load({}, {}, str(tmp_path))


def test_every_setting_says_what_it_is() -> None:
    for setting in SETTINGS.values():
        assert setting.unit
        assert setting.help.endswith(".")
        assert (setting.flag, setting.env) == (
            f"--{setting.name.replace('_', '-')}",
            f"IMAGECACHE_{setting.name.upper()}",
        )


def test_flags_reach_the_command(imagecache: Shell, tmp_path: Path) -> None:
    imagecache("create", "-f", imagecache.manifest(), "--store", str(tmp_path / "other"), "--log-level", "error")

    assert imagecache("get", "-o", "name", "--store", str(tmp_path / "other")).stdout.endswith("/a\n")
    assert imagecache("get", "-o", "name").stdout == ""
    assert "--mode: 'x' is not valid" in imagecache("create", "-f", imagecache.manifest(), "--mode", "x", code=2).stderr
