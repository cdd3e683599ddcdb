"""hosts.toml: which file is for a host, what it says, and the registry itself when there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from yarl import URL

from imagecache.errors import InvalidSetting
from imagecache.registry.endpoint import (
    Capability,
    Endpoint,
    Trust,
    default_endpoint,
    host_of,
    is_loopback,
    with_user_lists,
)
from imagecache.registry.hosts_toml import configured_endpoints

ALL = Capability.PULL | Capability.RESOLVE


def write(directory: Path, name: str, text: str) -> Path:
    folder = directory / name
    folder.mkdir(exist_ok=True)
    (folder / "hosts.toml").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("localhost:5000", True),
        ("127.0.0.1:5000", True),
        ("127.9.9.9", True),
        ("[::1]:5000", True),
        ("128.0.0.1", False),
        ("localhost.example.com", False),
        ("127.0.0.1.example.com", False),
        ("[2001:db8::1]", False),
        ("docker.io", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
    assert default_endpoint(host).plain_fallback is loopback


def test_the_registry_itself() -> None:
    assert str(default_endpoint("quay.io").url("a/b/manifests/1")) == "https://quay.io/v2/a/b/manifests/1"
    assert default_endpoint("docker.io").host == "registry-1.docker.io"


def test_what_the_user_says_about_hosts() -> None:
    def applied(host: str, plain: str = "", insecure: str = "") -> Endpoint:
        return with_user_lists(default_endpoint(host), frozenset({plain}), frozenset({insecure}))

    assert applied("r.example:5000", plain="r.example:5000").scheme == "http"
    assert applied("r.example:5000", plain="r.example").scheme == "https"
    assert not applied("r.example", insecure="r.example").trust.verify
    assert applied("r.example", insecure="other.example").trust.verify
    assert applied("docker.io", plain="docker.io").scheme == "http"
    assert not applied("docker.io", insecure="docker.io").trust.verify
    assert not applied("localhost:5000", plain="localhost:5000").plain_fallback


def test_no_file(tmp_path: Path) -> None:
    assert configured_endpoints(tmp_path, "quay.io") == (default_endpoint("quay.io"),)


def test_mirrors_in_order_then_the_registry(tmp_path: Path) -> None:
    write(
        tmp_path,
        "docker.io",
        """
        server = "https://registry-1.docker.io"
        [host."https://z-first.example"]
          capabilities = ["pull"]
        [host."http://a-second.example:5000/prefix"]
          capabilities = ["pull", "resolve", "push"]
          skip_verify = true
          dial_timeout = "1.5s"
          [host."http://a-second.example:5000/prefix".header]
            x-one = "1"
            x-many = ["2", "3"]
        """,
    )

    first, second, own = configured_endpoints(tmp_path, "docker.io")

    assert str(first.url("a/b")) == "https://z-first.example/v2/a/b?ns=docker.io"
    assert first.capabilities == Capability.PULL
    assert str(second.url("a/b")) == "http://a-second.example:5000/prefix/v2/a/b?ns=docker.io"
    assert second.capabilities == ALL
    assert not second.trust.verify
    assert second.dial_timeout == 1.5
    assert second.headers == (("x-one", "1"), ("x-many", "2"), ("x-many", "3"))
    assert str(own.url("a/b")) == "https://registry-1.docker.io/v2/a/b"


def test_without_a_server_the_registry_is_last(tmp_path: Path) -> None:
    write(tmp_path, "_default", '[host."https://mirror.example/v2/"]\n')

    mirror, own = configured_endpoints(tmp_path, "quay.io")

    assert str(mirror.url("a")) == "https://mirror.example/v2/a?ns=quay.io"
    assert mirror.capabilities == ALL
    assert own == default_endpoint("quay.io")


def test_settings_of_the_registry_itself(tmp_path: Path) -> None:
    folder = write(tmp_path, "r.example", 'ca = "ca.pem"\nclient = ["both.pem", ["c.pem", "k.pem"], ["d.pem", ""]]\n')

    (own,) = configured_endpoints(tmp_path, "r.example")

    assert own.host == "r.example"
    assert own.trust.authorities == (folder / "ca.pem",)
    assert own.trust.clients == (
        (folder / "both.pem", None),
        (folder / "c.pem", folder / "k.pem"),
        (folder / "d.pem", None),
    )


def test_a_server_without_a_scheme_and_with_its_own_path(tmp_path: Path) -> None:
    write(tmp_path, "a.example", 'server = "b.example/v2/upstream"\noverride_path = true\nca = ["/x.pem"]\n')

    (own,) = configured_endpoints(tmp_path, "a.example")

    assert str(own.url("r")) == "https://b.example/v2/upstream/r?ns=a.example"
    assert own.trust.authorities == (Path("/x.pem"),)


@pytest.mark.parametrize(
    ("folders", "used"),
    [
        (["r.example_5000_", "r.example:5000", "_default"], "r.example_5000_"),
        (["r.example:5000", "_default"], "r.example:5000"),
        (["r.example", "_default"], "_default"),
    ],
)
def test_directories_for_a_host_with_a_port(tmp_path: Path, folders: list[str], used: str) -> None:
    for folder in folders:
        write(tmp_path, folder, f'server = "https://{folder.strip("_").replace("_", "-").replace(":", "-")}.used"')

    (own,) = configured_endpoints(tmp_path, "r.example:5000")

    assert own.host.removesuffix(".used") == used.strip("_").replace("_", "-").replace(":", "-")


@pytest.mark.parametrize(
    ("host", "key"), [("docker.io", "docker.io"), ("r.example:5000", "r.example_5000_"), ("quay.io", "_default")]
)
def test_a_volume_of_a_configmap(tmp_path: Path, host: str, key: str) -> None:
    """Its keys are files, which kubelet links to another directory."""
    (tmp_path / "..data").mkdir()
    (tmp_path / "..data" / key).write_text('server = "https://m.example"\nca = "ca.crt"\n')
    (tmp_path / key).symlink_to(tmp_path / "..data" / key)

    (own,) = configured_endpoints(tmp_path, host)

    assert (own.host, own.trust.authorities) == ("m.example", (tmp_path / "ca.crt",))


def test_certificate_files_of_docker(tmp_path: Path) -> None:
    folder = tmp_path / "r.example"
    folder.mkdir()
    for name in ("a.crt", "b.crt", "c.cert", "c.key", "d.cert", "readme"):
        (folder / name).touch()

    (own,) = configured_endpoints(tmp_path, "r.example")

    assert own.trust == Trust(
        authorities=(folder / "a.crt", folder / "b.crt"),
        clients=((folder / "c.cert", folder / "c.key"), (folder / "d.cert", None)),
    )


@pytest.mark.parametrize(
    "text",
    [
        "server = ",
        "server = 5",
        'server = "https://"',
        'capabilities = ["fly"]',
        "capabilities = 3",
        "ca = [1]",
        'client = [["a", "b", "c"]]',
        "host = 3",
        "[host]\na = 3",
        'dial_timeout = "soon"',
        "[header]\nx = 3",
        '[header]\n"bad name" = "x"',
        '[header]\nx = "a\\r\\nb"',
    ],
)
def test_malformed_files(tmp_path: Path, text: str) -> None:
    folder = write(tmp_path, "r.example", text)

    with pytest.raises(InvalidSetting, match=str(folder / "hosts.toml")):
        configured_endpoints(tmp_path, "r.example")


def test_an_unreadable_file(tmp_path: Path) -> None:
    (tmp_path / "r.example" / "hosts.toml").mkdir(parents=True)

    with pytest.raises(InvalidSetting, match="cannot read"):
        configured_endpoints(tmp_path, "r.example")


def test_headers_are_not_shown(tmp_path: Path) -> None:
    write(tmp_path, "r.example", '[header]\nauthorization = "Bearer hidden-word"\n')

    (own,) = configured_endpoints(tmp_path, "r.example")

    assert own.headers == (("authorization", "Bearer hidden-word"),)
    assert "hidden-word" not in repr(own)


@pytest.mark.parametrize(
    ("written", "host"),
    [
        ("https://Registry.Example:5000/v2", "registry.example:5000"),
        ("https://[::1]:5000/", "[::1]:5000"),
        ("https://user:word@r.example/", "r.example"),
        ("https://r.example:443/", "r.example:443"),
    ],
)
def test_the_host_of_an_address(written: str, host: str) -> None:
    assert host_of(URL(written, encoded=True)) == host


def test_hosts_have_no_case() -> None:
    endpoint = default_endpoint("Registry.Example:5000")

    assert endpoint.host == "registry.example:5000"
    assert with_user_lists(endpoint, frozenset({"Registry.Example:5000"}), frozenset()).scheme == "http"
    assert not with_user_lists(endpoint, frozenset(), frozenset({"Registry.Example:5000"})).trust.verify
