from pathlib import Path

from imagecache.host.mountinfo import Mount, mounted_at, parse

TEXT = """\
21 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
42 21 0:39 / /srv/m/7 ro,nosuid,nodev,relatime shared:3 master:1 - erofs /srv/layers/a\\040b.erofs ro,user_xattr
43 21 0:40 / /srv/m/7 ro - erofs /dev/loop3 ro
44 21 0:41 / /srv/odd\\134name ro - tmpfs tmpfs rw
"""


def test_fields_are_taken_apart_and_unescaped() -> None:
    assert parse(TEXT)[1] == Mount(
        "/srv/m/7", "erofs", "/srv/layers/a b.erofs", "ro,nosuid,nodev,relatime", "ro,user_xattr"
    )
    assert parse(TEXT)[3].target == "/srv/odd\\name"


def test_the_last_mount_at_a_target_is_the_one_that_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "mountinfo"
    file.write_text(TEXT)
    found = mounted_at(Path("/srv/m/7"), file)
    assert found is not None
    assert found.source == "/dev/loop3"
    assert mounted_at(Path("/srv/m"), file) is None


def test_a_line_that_is_no_mount_is_left_out() -> None:
    assert parse("nonsense\n") == []


def test_a_symbolic_link_to_the_target_is_followed(tmp_path: Path) -> None:
    file = tmp_path / "mountinfo"
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    file.write_text(f"1 1 0:1 / {real} ro - erofs /x ro\n")
    assert mounted_at(tmp_path / "link", file) is not None
