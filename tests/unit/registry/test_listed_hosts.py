"""``insecure_registries``: which hosts the administrator lists."""

from __future__ import annotations

import pytest

from imagecache.errors import InvalidSetting, RegistryUntrusted
from imagecache.registry.config import RegistryConfig
from imagecache.registry.listed_hosts import AUTO, ListedHosts


@pytest.mark.parametrize(
    ("entry", "host", "listed"),
    [
        ("reg.example:5000", "reg.example:5000", True),
        ("Reg.Example:5000", "reg.example:5000", True),
        ("reg.example:5000", "REG.example:5000", True),
        ("reg.example:5000", "reg.example", False),
        ("reg.example:5000", "reg.example:5001", False),
        ("reg.example", "reg.example:443", False),
        ("reg.example", "a.reg.example", False),
        ("reg.example", "reg.example.evil.example", False),
        ("docker.io", "docker.io", True),
        ("docker.io", "registry-1.docker.io", True),
        ("10.0.0.0/8", "10.1.2.3:5000", True),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3:5000", False),
        ("10.0.0.0/8", "10.evil.example:5000", False),
        ("0.0.0.0/0", "[::1]:5000", False),
        ("fd00::/8", "[fd00::1]:5000", True),
        ("fd00::/8", "[fe80::1]:5000", False),
        ("[::1]:5000", "[::1]:5000", True),
        (AUTO, "localhost:5000", True),
        (AUTO, "127.0.0.1:5000", True),
        (AUTO, "127.1.2.3", True),
        (AUTO, "[::1]:5000", True),
        (AUTO, "localhost.evil.example:5000", False),
        (AUTO, "127.0.0.1.evil.example", False),
        (AUTO, "2130706433:5000", False),
        (AUTO, "10.0.0.1:5000", False),
    ],
)
def test_what_an_entry_lists(entry: str, host: str, listed: bool) -> None:
    assert (host in ListedHosts.parse([entry])) is listed


def test_nothing_is_listed_by_itself() -> None:
    for empty in (ListedHosts(), ListedHosts.parse([])):
        assert not [host for host in ("localhost:5000", "127.0.0.1", "docker.io", "") if host in empty]


@pytest.mark.parametrize("entry", ["https://reg.example", "reg example", "10.0.0.1/8", "10.0.0.0/33", "a/b", "*", "-a"])
def test_what_is_neither_host_nor_network(entry: str) -> None:
    with pytest.raises(InvalidSetting, match="insecure_registries"):
        ListedHosts.parse([entry])


@pytest.mark.parametrize("field", ["plain_http", "insecure"])
def test_only_listed_hosts_go_without_verification(field: str) -> None:
    hosts = frozenset({"registry.k8s.io"})

    with pytest.raises(RegistryUntrusted, match=r"registry\.k8s\.io") as caught:
        RegistryConfig(listed=ListedHosts.parse([AUTO, "other.example"]), **{field: hosts})  # type: ignore[arg-type]

    assert "insecure_registries" in caught.value.hint
    assert "insecureRegistries" in caught.value.hint
    RegistryConfig(listed=ListedHosts.parse(["registry.k8s.io"]), **{field: hosts})  # type: ignore[arg-type]
