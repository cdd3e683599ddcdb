from __future__ import annotations

import os
from pathlib import Path

from imagecache.file_version import file_version


def test_a_missing_file_has_no_version(tmp_path: Path) -> None:
    assert file_version(tmp_path / "a") is None
    assert file_version("") is None
    assert file_version(tmp_path / "a" / "b") is None


def test_an_untouched_file_keeps_its_version(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one")
    assert file_version(tmp_path / "a") == file_version(str(tmp_path / "a")) is not None


def test_a_file_that_was_replaced_has_another_version_even_with_the_same_time_and_size(tmp_path: Path) -> None:
    file, other = tmp_path / "a", tmp_path / "b"
    for path in (file, other):
        path.write_text("one")
        os.utime(path, ns=(1, 1))
    before = file_version(file)
    other.replace(file)
    assert file_version(file) != before


def test_a_file_that_was_written_to_has_another_version(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("one")
    os.utime(file, ns=(1, 1))
    before = file_version(file)
    file.write_text("longer")
    os.utime(file, ns=(1, 1))
    longer = file_version(file)
    os.utime(file, ns=(2, 2))
    assert len({before, longer, file_version(file)}) == 3


def test_a_link_is_followed(tmp_path: Path) -> None:
    """Secret volumes replace the link ``..data``, not the files."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_text(name)
    link = tmp_path / "data"
    link.symlink_to("one")
    before = file_version(link / "token")
    (tmp_path / "new").symlink_to("two")
    (tmp_path / "new").replace(link)
    assert file_version(link / "token") != before
