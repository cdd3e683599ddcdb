"""The rules of HTTP_PROXY, HTTPS_PROXY and NO_PROXY: Go's, from httpproxy's documentation and tests."""

from __future__ import annotations

import pytest
from yarl import URL

from imagecache.errors import InvalidSetting
from imagecache.registry.http_proxy import Proxies, parse_proxies

BOTH = {"HTTP_PROXY": "http://one:3128", "HTTPS_PROXY": "http://two:3129"}


def direct(url: str, exempt: str) -> bool:
    return parse_proxies({**BOTH, "NO_PROXY": exempt}).of(URL(url)) is None


def test_each_scheme_has_its_own() -> None:
    proxies = parse_proxies(BOTH)
    assert proxies.of(URL("http://registry.example/v2/")) == URL("http://one:3128")
    assert proxies.of(URL("https://registry.example/v2/")) == URL("http://two:3129")


def test_nothing_is_asked_through_a_proxy_that_is_not_there() -> None:
    assert parse_proxies({}) == parse_proxies({"HTTP_PROXY": " ", "https_proxy": ""}) == Proxies()
    assert Proxies().of(URL("https://registry.example/v2/")) is None


def test_small_letters_and_addresses_without_a_scheme() -> None:
    proxies = parse_proxies({"https_proxy": "joe:word@proxy.example:3128", "no_proxy": "other.example"})
    assert proxies.of(URL("https://registry.example/")) == URL("http://joe:word@proxy.example:3128")
    assert proxies.of(URL("https://other.example/")) is None


@pytest.mark.parametrize(
    ("url", "exempt"),
    [
        ("https://registry.example/", "registry.example"),
        ("https://registry.example/", "a.example, Registry.Example ,b.example"),
        ("https://deep.registry.example/", "registry.example"),
        ("https://deep.registry.example/", ".registry.example"),
        ("https://deep.registry.example/", "*.registry.example"),
        ("https://registry.example:5000/", "registry.example:5000"),
        ("https://registry.example/", "registry.example:443"),
        ("http://10.1.2.3:5000/", "10.1.2.3"),
        ("http://10.1.2.3:5000/", "10.0.0.0/8"),
        ("http://10.1.2.3:5000/", "10.1.2.3:5000"),
        ("http://[fd00::1]:5000/", "fd00::1"),
        ("http://[fd00::1]:5000/", "[fd00::1]:5000"),
        ("http://[fd00::1]:5000/", "fd00::/8"),
        ("https://registry.example./", "registry.example"),
        ("https://registry.example/", "*"),
        ("http://localhost:5000/", ""),
        ("http://127.8.9.1:5000/", ""),
        ("http://[::1]:5000/", ""),
    ],
)
def test_asked_directly(url: str, exempt: str) -> None:
    assert direct(url, exempt)


@pytest.mark.parametrize(
    ("url", "exempt"),
    [
        ("https://registry.example/", ""),
        ("https://registry.example/", ".registry.example"),
        ("https://registry.example/", "*.registry.example"),
        ("https://myregistry.example/", "registry.example"),
        ("https://registry.example:5001/", "registry.example:5000"),
        ("http://11.1.2.3:5000/", "10.0.0.0/8"),
        ("http://10.1.2.3:5000/", "10.1.2.3:5001"),
        ("https://registry.example/", "10.0.0.0/8,not/a/network,:443"),
    ],
)
def test_asked_through_the_proxy(url: str, exempt: str) -> None:
    assert not direct(url, exempt)


@pytest.mark.parametrize("text", ["socks5://proxy:1080", "https://proxy:443", "http://", "http://proxy:port"])
def test_what_is_no_http_proxy_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(InvalidSetting, match="HTTPS_PROXY is not the address of an HTTP proxy") as caught:
        parse_proxies({"HTTPS_PROXY": text.replace("://", "://joe:s3cr3t@")})
    assert "s3cr3t" not in f"{caught.value} {caught.value.hint}"
