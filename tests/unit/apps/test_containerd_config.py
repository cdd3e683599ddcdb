"""Which modes have a drop-in for containerd."""

from __future__ import annotations

import pytest

from imagecache.apps.containerd_config import config_for
from imagecache.errors import InvalidSetting
from imagecache.settings.choices import InodeNumbers, Mode
from imagecache.settings.table import Settings


def test_prepull_has_none() -> None:
    with pytest.raises(InvalidSetting, match="prepull") as caught:
        config_for(Settings(mode=Mode.PREPULL), "2.4.2")

    assert "proxy or native" in caught.value.hint


@pytest.mark.parametrize(("mode", "word"), [(Mode.AUTO, "proxy_plugins"), (Mode.NATIVE, "layer_content_caches")])
def test_the_others_have_one(mode: Mode, word: str) -> None:
    assert word in config_for(Settings(mode=mode), "2.4.2").text()


@pytest.mark.parametrize("numbers", InodeNumbers)
def test_inode_numbers_of_native_mode(numbers: InodeNumbers) -> None:
    text = config_for(Settings(mode=Mode.NATIVE, inode_numbers=numbers), "2.4.2").text()

    assert ("xino=on" in text) == (numbers is InodeNumbers.STABLE)
