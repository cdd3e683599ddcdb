"""hosts.toml: which file is for a host, what it says, and the registry itself when there is none."""

from __future__ import annotations

import shutil
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

from .conftest import Certificate

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


def test_settings_of_the_registry_itself(tmp_path: Path, certificate: Certificate) -> None:
    folder = write(tmp_path, "r.example", 'ca = "c.pem"\nclient = ["both.pem", ["c.pem", "k.pem"]]\n')
    certificate.copy(folder)

    (own,) = configured_endpoints(tmp_path, "r.example")

    assert own.host == "r.example"
    assert own.trust.authorities == (folder / "c.pem",)
    assert own.trust.clients == ((folder / "both.pem", None), (folder / "c.pem", folder / "k.pem"))


def test_a_server_without_a_scheme_and_with_its_own_path(tmp_path: Path, certificate: Certificate) -> None:
    ca = certificate.authority
    write(tmp_path, "a.example", f'server = "b.example/v2/upstream"\noverride_path = true\nca = ["{ca}"]\n')

    (own,) = configured_endpoints(tmp_path, "a.example")

    assert str(own.url("r")) == "https://b.example/v2/upstream/r?ns=a.example"
    assert own.trust.authorities == (ca,)


def test_settings_have_no_case_but_host_has(tmp_path: Path) -> None:
    """As go-toml reads them; containerd itself looks for ``host``."""
    mirror = '[host."https://m.example"]\nCAPABILITIES = ["resolve"]\n[HOST."https://never.example"]\n'
    write(tmp_path, "r.example", f'SERVER = "https://own.example"\nSkip_Verify = true\n{mirror}')

    mirrored, own = configured_endpoints(tmp_path, "r.example")

    assert (mirrored.host, mirrored.capabilities) == ("m.example", Capability.RESOLVE)
    assert (own.host, own.trust.verify) == ("own.example", False)


@pytest.mark.parametrize("server", ["", 'server = ""\n'])
def test_a_server_that_is_absent_has_neither_path_nor_capabilities(tmp_path: Path, server: str) -> None:
    """To containerd an empty one is absent, and it then uses the registry for everything."""
    more = 'capabilities = ["pull"]\noverride_path = true\nskip_verify = true\n[host."https://m.example"]\n'
    write(tmp_path, "r.example", server + more)

    mirror, own = configured_endpoints(tmp_path, "r.example")

    assert mirror.host == "m.example"
    assert (str(own.url("a")), own.capabilities, own.trust.verify) == ("https://r.example/v2/a", ALL, False)


@pytest.mark.parametrize(("written", "seconds"), [("1m30s", 90.0), ("50000us", 0.05), ("0s", 0.0), ("", None)])
def test_how_long_a_mirror_is_dialled(tmp_path: Path, written: str, seconds: float | None) -> None:
    write(tmp_path, "r.example", f'[host."https://m.example"]\ndial_timeout = "{written}"\n')

    mirror, _ = configured_endpoints(tmp_path, "r.example")

    assert mirror.dial_timeout == seconds


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
def test_a_volume_of_a_configmap(tmp_path: Path, certificate: Certificate, host: str, key: str) -> None:
    """Its keys are files, which kubelet links to another directory."""
    shutil.copy(certificate.authority, tmp_path / "ca.crt")
    (tmp_path / "..data").mkdir()
    (tmp_path / "..data" / key).write_text('server = "https://m.example"\nca = "ca.crt"\n')
    (tmp_path / key).symlink_to(tmp_path / "..data" / key)

    (own,) = configured_endpoints(tmp_path, host)

    assert (own.host, own.trust.authorities) == ("m.example", (tmp_path / "ca.crt",))


@pytest.mark.parametrize("empty", [True, False])
def test_certificate_files_of_docker(tmp_path: Path, certificate: Certificate, *, empty: bool) -> None:
    """They count where hosts.toml does not exist, or is empty."""
    folder = tmp_path / "r.example"
    (folder / "dir.crt").mkdir(parents=True)
    files = {"a.crt": certificate.authority, "c.cert": certificate.authority, "c.key": certificate.key}
    for name, file in {**files, "b.crt": certificate.authority, "d.cert": certificate.both}.items():
        shutil.copy(file, folder / name)
    (folder / "readme").touch()
    if empty:
        (folder / "hosts.toml").touch()

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
        'server = "https://r.example/%zz"',
        '[host."https://r%example"]',
        '[host."https://r.example "]',
        '[host."https://r.example:+5/v2"]',
        '[host."https://r.example/v2?a#%zz"]',
        'server = "https://r.example/\\u0001"',
        'server = "https://r.example/a%25zz"',
        'server = "httpbin.org"',
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


MIRROR = '[host."http://m.example:5000"]\n'
WRONG_VALUES = {
    'skip_verify = "true"': "skip_verify is neither true nor false",
    "skip_verify = 1": "skip_verify is neither true nor false",
    'override_path = "true"': "override_path is neither true nor false",
    "override_path = 1": "override_path is neither true nor false",
    "dial_timeout = 5": "dial_timeout is not text",
    'dial_timeout = "1d"': "dial_timeout: '1d' is not a duration",
    'capabilities = "pull"': "capabilities is not a list",
    'capabilities = ["pull", 3]': "capabilities is not text",
    "header = 3": "header is not a table",
    "ca = true": "ca is not text",
    'ca = ""': "ca names a file without a name",
    'ca = [""]': "ca names a file without a name",
    'ca = "missing.crt"': "ca: cannot use the authorities in .*/missing.crt: .*No such file",
    'ca = ["c.pem", "empty.pem"]': "ca: cannot use the authorities in .*/empty.pem",
    'ca = "k.pem"': "ca: cannot use the authorities in .*/k.pem",
    "client = true": "client is not text",
    'client = ""': "client names a file without a name",
    'client = ["c.pem", "k.pem"]': "client: cannot use the client certificate .*/c.pem",
    'client = ["missing.crt", "missing.key"]': "client: cannot use the client certificate .*/missing.crt: .*No such",
    'client = [["c.pem", "missing.key"]]': "client: cannot use .*/c.pem with the key .*/missing.key: .*No such file",
    'client = [["both.pem"]]': "client: a pair is",
    'client = [["both.pem", ""]]': "client: a pair is",
}
"""What containerd 2.4 refuses, or fails with, at whichever server it stands."""


@pytest.mark.parametrize("root", [False, True])
@pytest.mark.parametrize("line", WRONG_VALUES)
def test_values_that_containerd_refuses(tmp_path: Path, certificate: Certificate, line: str, *, root: bool) -> None:
    folder = write(tmp_path, "r.example", f"{line}\n{MIRROR}" if root else f"{MIRROR}{line}\n")
    certificate.copy(folder)
    (folder / "empty.pem").touch()

    with pytest.raises(InvalidSetting, match=WRONG_VALUES[line]) as caught:
        configured_endpoints(tmp_path, "r.example")

    assert str(folder / "hosts.toml") in str(caught.value)
    assert ('[host."http://m.example:5000"]: ' in str(caught.value)) is not root
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "content"), [("a.crt", ""), ("a.cert", "the certificate alone"), ("a.cert", "nothing")]
)
def test_certificate_files_of_docker_that_cannot_be_used(
    tmp_path: Path, certificate: Certificate, name: str, content: str
) -> None:
    folder = tmp_path / "r.example"
    folder.mkdir()
    alone = certificate.authority.read_text()
    (folder / name).write_text(alone if content == "the certificate alone" else content)

    with pytest.raises(InvalidSetting, match=str(folder / name)):
        configured_endpoints(tmp_path, "r.example")


@pytest.mark.parametrize("case", ["a name that is too long", "a loop", "a file instead of the directory"])
def test_a_place_that_cannot_be_looked_at_is_not_passed_over(tmp_path: Path, case: str) -> None:
    directory, host = tmp_path / "certs.d", "registry.example.com"
    directory.mkdir()
    (directory / "_default").mkdir()
    (directory / "_default" / "hosts.toml").write_text('[host."https://mirror.example.com"]\n')
    if case == "a loop":
        (directory / host).symlink_to(host)
    elif case == "a name that is too long":
        host = ".".join(["a" * 63] * 4) + ".example.com"
    else:
        directory = directory / "_default" / "hosts.toml"

    with pytest.raises(InvalidSetting, match="cannot look for the registry's configuration"):
        configured_endpoints(directory, host)


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


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("https://r.example//v2/proxy", "/v2/proxy"),
        ("https://r.example/a%2Fb", "/a/b"),
        ("https://r.example/a b/../c/", "/c"),
        ("https://r.example/a b", "/a%20b"),
        ("https://r.example", ""),
    ],
)
def test_a_path_is_read_as_by_go(tmp_path: Path, address: str, path: str) -> None:
    write(tmp_path, "r.example", f'server = "{address}"\noverride_path = true\n')

    (own,) = configured_endpoints(tmp_path, "r.example")

    assert own.path == path
