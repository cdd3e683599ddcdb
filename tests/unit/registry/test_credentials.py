"""Credentials: which one is for a repository, in which format it was written, and that it is never shown."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from imagecache.api.pull_secrets import PullSecret
from imagecache.apps.build import host_credentials
from imagecache.errors import InvalidSetting
from imagecache.registry.credentials import Credential, CredentialChain, Credentials, NoCredentials, sources
from imagecache.registry.docker_config import (
    DockerConfig,
    config_path,
    load_docker_config,
    parse_docker_config,
    parse_docker_config_json,
)
from imagecache.registry.keyring import Keyring

SECRET = "s3cr3t-Pässword:with:colons"  # noqa: S105 - what must not be shown


def auth(user: str, password: str = SECRET) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def config_of(auths: dict[str, object], source: str = "secret default/pull") -> Keyring:
    return parse_docker_config_json(json.dumps({"auths": auths}).encode(), source)


async def one(credentials: Credentials, host: str, repository: str = "x") -> Credential | None:
    """The only one, or None."""
    found = await credentials.credentials_for(host, repository)
    assert len(found) < 2
    return found[0] if found else None


async def users(credentials: Credentials, host: str, repository: str) -> list[str]:
    return [each.username for each in await credentials.credentials_for(host, repository)]


async def test_forms_of_an_entry() -> None:
    config = config_of(
        {
            "a.example": auth("alice"),
            "b.example": {"username": "bob", "password": SECRET},
            "c.example": {**auth("ignored", ""), "identitytoken": SECRET},
            "d.example": {},
            "g.example": {"username": "", "password": "", "auth": ""},
            "h.example": {"auth": base64.b64encode(b":").decode()},
            "e.example": {"auth": auth("eve")["auth"].rstrip("=")},
            "f.example": {"auth": auth("fox")["auth"] + "\n"},
        }
    )

    found = {name: await one(config, f"{name}.example") for name in "abcdefgh"}

    assert found["a"] == Credential(username="alice", password=SECRET, source="secret default/pull")
    assert found["b"] == Credential(username="bob", password=SECRET, source="secret default/pull")
    assert found["c"] is not None
    assert found["c"].identity_token == SECRET
    assert [found[name] for name in "dgh"] == [None, None, None]
    assert found["e"] is not None
    assert found["e"].username == "eve"
    assert found["f"] is not None
    assert found["f"].password == SECRET


def test_basic() -> None:
    encoded = Credential(username="alice", password=SECRET).basic().removeprefix("Basic ")

    assert base64.b64decode(encoded).decode() == f"alice:{SECRET}"


def test_the_text_of_a_credential_has_no_secret() -> None:
    credential = Credential(username="alice", password=SECRET, identity_token=SECRET, source="here")

    assert SECRET not in f"{credential!r} {credential}"
    assert "alice" in repr(credential)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"auths": ["' + SECRET.encode() + b'"]}',
        b'{"auths": "' + SECRET.encode() + b'"}',
        b'{"auths": {}, "x": "' + SECRET.encode() + b"x" * (4 << 20) + b'"}',
    ],
)
def test_malformed_files_are_named_and_not_quoted(data: bytes) -> None:
    with pytest.raises(InvalidSetting, match="secret a/b") as caught:
        parse_docker_config_json(data, "secret a/b")

    shown = f"{caught.value} {caught.value.hint} {caught.value.__cause__!r}"
    assert SECRET not in shown
    assert SECRET[:6] not in shown


BROKEN: list[object] = [
    {"auth": 5},
    SECRET,
    ["a", SECRET],
    {"username": [SECRET]},
    {"auth": "!" + SECRET},
    {"auth": base64.b64encode(b"no colon " + SECRET[:6].encode()).decode()},
    {"auth": base64.b64encode(b"\xff:" + SECRET.encode()).decode()},
    # what kubelet refuses too
    {**auth("bob"), "email": 5},
    {"auth": f" {auth('bob')['auth']}"},
    {"auth": f"{auth('bob')['auth']}\u00a0"},
    {"auth": auth("bob")["auth"].rstrip("=") + "==="},
    {"auth": base64.b64encode(b"bob:secret12").decode() + "="},
]


async def test_an_identity_token_that_is_none_takes_no_password_away() -> None:
    config = config_of({"a.example": {**auth("bob"), "identitytoken": 5}, "b.example": {"identitytoken": 5}})

    assert await users(config, "a.example", "x") == ["bob"]
    with pytest.raises(InvalidSetting, match=r"'identitytoken' of 'b\.example' is not text"):
        await config.credentials_for("b.example", "x")


async def test_an_identity_token_takes_no_password_away() -> None:
    """Docker takes the token, kubelet the password: a registry of Basic wants the one, a token server either."""
    config = config_of({"a.example": {**auth("bob"), "identitytoken": "t"}})

    found = await config.credentials_for("a.example", "x")

    assert [(each.username, bool(each.password), each.identity_token) for each in found] == [
        ("bob", True, ""),
        ("bob", False, "t"),
    ]


async def test_a_password_in_another_character_set_is_named() -> None:
    config = config_of({"a.example": {"auth": base64.b64encode(b"bob:p\xe4ss").decode()}})

    with pytest.raises(InvalidSetting, match="holds no UTF-8 text"):
        await config.credentials_for("a.example", "x")


@pytest.mark.parametrize("entry", BROKEN)
async def test_a_broken_entry_is_an_error_for_its_own_registry_only(entry: object) -> None:
    config = config_of({"a.example": entry, "b.example": auth("bob")})

    assert await users(config, "b.example", "x") == ["bob"]
    assert await users(config, "c.example", "x") == []
    for _ in range(2):
        with pytest.raises(InvalidSetting, match=r"secret default/pull.*a\.example") as caught:
            await config.credentials_for("a.example", "x")
        shown = f"{caught.value} {caught.value.hint} {caught.value.__cause__!r} {caught.value.__context__!r}"
        assert SECRET not in shown
        assert SECRET[:6] not in shown


@pytest.mark.parametrize("entry", BROKEN)
async def test_a_broken_entry_does_not_keep_others_from_being_tried(entry: object) -> None:
    config = config_of({"a.example": entry, "*.example": auth("any")})

    assert await users(config, "a.example", "x") == ["any"]


FOREIGN = {
    "null where Go writes it": b'{"auths":{"a.example":%s,"b.example":null},"credHelpers":null,"credsStore":null}',
    "null fields": b'{"auths":{"b.example":{"auth":null,"username":null,"identitytoken":null},"a.example":%s}}',
    "another case": b'{"Auths":{"a.example":%s}}',
    "half a surrogate pair beside it": b'{"auths":{"a.example":%s},"detachKeys":"\\ud800"}',
    "the last of two": b'{"auths":{},"auths":{"a.example":{"auth":"x"},"a.example":%s}}',
}


@pytest.mark.parametrize("case", FOREIGN)
async def test_what_kubelet_and_docker_read(case: str) -> None:
    entry = {"Username": "alice", "PASSWORD": SECRET, "email": None}
    config = parse_docker_config(FOREIGN[case] % json.dumps(entry).encode(), "config.json")

    assert await one(config, "a.example") == Credential(username="alice", password=SECRET, source="config.json")
    assert await one(config, "b.example") is None


async def test_null_behind_a_text_and_a_nul_in_a_password() -> None:
    """As Go's null changes no text, and docker alone takes NULs off a password."""
    entry = b'{"username":"alice","password":"%s","password":null}' % SECRET.encode()
    config = parse_docker_config_json(b'{"auths":{"a.example":%s}}' % entry, "secret")
    assert await one(config, "a.example") == Credential(username="alice", password=SECRET, source="secret")

    coded = json.dumps({"auths": {"a.example": auth("alice", "pass\0")}}).encode()
    secret, file = parse_docker_config_json(coded, "s"), parse_docker_config(coded, "s")
    for parsed, password in ((secret, "pass\0"), (file, "pass")):
        found = await one(parsed, "a.example")
        assert found is not None
        assert found.password == password


async def test_line_breaks_in_an_auth() -> None:
    """``base64`` of coreutils breaks lines after 76 characters, and Go passes over them."""
    coded = base64.encodebytes(f"alice:{SECRET * 4}".encode()).decode()
    assert coded.count("\n") > 1
    for text in (coded, coded.replace("\n", "\r\n")):
        found = await one(config_of({"a.example": {"auth": text}}), "a.example")
        assert found is not None
        assert found.password == SECRET * 4


@pytest.mark.parametrize("content", [b"", b" \n"])
async def test_an_empty_file_is_an_empty_configuration(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)

    config = load_docker_config(path)

    assert config is not None
    assert await one(config, "a.example") is None


def test_a_missing_file_is_no_configuration(tmp_path: Path) -> None:
    assert load_docker_config(tmp_path / "config.json") is None


def test_an_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="cannot read"):
        load_docker_config(tmp_path)


async def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"auths": {"a.example": auth("alice")}, "HttpHeaders": {}}))

    config = load_docker_config(path)

    assert config is not None
    found = await one(config, "a.example")
    assert found is not None
    assert found.source == str(path)


async def test_a_chain_has_all_of_its_sources_in_order() -> None:
    first, second = config_of({"a.example": auth("one")}), config_of({"a.example": auth("x"), "b.example": auth("two")})
    chain = CredentialChain([NoCredentials(), first, second])

    assert await users(chain, "a.example", "r") == ["one", "x"]
    assert await users(chain, "b.example", "r") == ["two"]
    assert await users(chain, "c.example", "r") == []


async def test_a_secret_that_several_sources_have_is_tried_once() -> None:
    first, second = (config_of({"a.example": auth("one")}, source) for source in ("secret a:first", "secret a:second"))

    found = await one(CredentialChain([first, second]), "a.example")

    assert found is not None
    assert found.source == "secret a:first"


async def test_pull_secrets_are_one_keyring_as_in_kubelet() -> None:
    """kubelet sorts the entries of all secrets by key; equal keys stay in the order of the secrets."""
    secrets = [
        config_of({"r.example": auth("first"), "r.example/team": auth("first-team")}, "secret a:first"),
        config_of({"r.example": auth("second"), "r.example/team/app": auth("second-app")}, "secret a:second"),
        config_of({"*.example": auth("third")}, "secret a:third"),
    ]
    keyring = Keyring.joined(secrets)

    assert await users(keyring, "r.example", "team/app") == ["second-app", "first-team", "first", "second", "third"]
    assert await users(keyring, "r.example", "other") == ["first", "second", "third"]
    assert sources(await keyring.credentials_for("r.example", "team/app")) == [
        "secret a:second",
        "secret a:first",
        "secret a:third",
    ]
    assert SECRET not in repr(keyring)


async def test_what_the_host_has_comes_after_every_pull_secret(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"auths": {"r.example/team/app": auth("host")}}))
    secrets = [
        PullSecret(f"a:{name}", json.dumps({"auths": {key: auth(name)}}).encode())
        for name, key in (("wide", "r.example"), ("narrow", "r.example/team"))
    ]

    found = await CredentialChain(host_credentials(secrets, path)).credentials_for("r.example", "team/app")

    assert [each.username for each in found] == ["narrow", "wide", "host"]
    assert sources(found) == ["secret a:narrow", "secret a:wide", str(path)]


class Helpers:
    """A directory on PATH for credential helpers made of shell."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def add(self, name: str, script: str) -> None:
        path = self.directory / f"docker-credential-{name}"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)


@pytest.fixture
def helpers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Helpers:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return Helpers(tmp_path)


ECHO = (
    """test "$1" = get || exit 9; read server; printf '{"ServerURL":"%s","Username":"%s","Secret":"pw"}' x "$server" """
)


def with_helpers(document: dict[str, object], timeout: float = 30) -> DockerConfig:
    return parse_docker_config(json.dumps(document).encode(), "config.json", timeout)


async def test_a_helper_for_a_host(helpers: Helpers) -> None:
    helpers.add("one", ECHO)
    config = with_helpers({"credHelpers": {"a.example:5000": "one"}})

    found = await one(config, "a.example:5000")

    assert found == Credential(username="a.example:5000", password="pw", source="docker-credential-one")  # noqa: S106
    assert await one(config, "b.example") is None


@pytest.mark.parametrize("name", ["../sh", 5, ["one"]])
async def test_a_helper_that_cannot_be_one_concerns_its_own_registry_only(helpers: Helpers, name: object) -> None:
    helpers.add("one", ECHO)
    config = with_helpers({"credHelpers": {"a.example": name, "b.example": "one", "c.example": "", "d.example": None}})

    assert await one(config, "b.example") is not None
    assert await one(config, "c.example") is None
    assert await one(config, "d.example") is None
    with pytest.raises(InvalidSetting, match=r"credHelpers of 'a\.example'"):
        await config.credentials_for("a.example", "x")


async def test_a_helper_that_writes_other_keys(helpers: Helpers) -> None:
    helpers.add("odd", """printf '{"ServerURL":null,"username":"bob","SECRET":"pw"}'""")

    found = await one(with_helpers({"credsStore": "odd"}), "a.example")

    assert found == Credential(username="bob", password="pw", source="docker-credential-odd")  # noqa: S106


async def test_the_default_store_comes_last(helpers: Helpers) -> None:
    helpers.add("all", ECHO)
    config = with_helpers({"credsStore": "all", "auths": {"a.example": auth("file"), "docker.io": {}}})

    assert await users(config, "a.example", "x") == ["file", "a.example"]
    assert await users(config, "docker.io", "library/x") == ["https://index.docker.io/v1/"]


async def test_a_helper_that_fails_does_not_keep_others_from_being_tried(helpers: Helpers) -> None:
    helpers.add("bad", "exit 3")
    config = with_helpers(
        {"credHelpers": {"a.example": "bad"}, "credsStore": "nowhere", "auths": {"a.example": auth("file")}}
    )

    assert await users(config, "a.example", "x") == ["file"]
    assert await users(CredentialChain([config, config_of({"b.example": auth("b")})]), "b.example", "x") == ["b"]
    with pytest.raises(InvalidSetting, match="nowhere cannot be started"):
        await config.credentials_for("c.example", "x")


async def test_a_helper_with_an_identity_token(helpers: Helpers) -> None:
    helpers.add("token", """printf '{"Username":"<token>","Secret":"tok"}'""")

    found = await one(with_helpers({"credsStore": "token"}), "a.example")

    assert found == Credential(identity_token="tok", source="docker-credential-token")  # noqa: S106


async def test_a_helper_that_has_nothing(helpers: Helpers) -> None:
    helpers.add("none", "echo credentials not found in native keychain; exit 1")
    config = with_helpers({"credHelpers": {"a.example": "none"}, "auths": {"a.example": auth("file")}})

    found = await one(config, "a.example")

    assert found is not None
    assert found.username == "file"


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (f"echo '{SECRET}'; exit 3", "exit code 3"),
        (f"echo '{SECRET}'", "did not answer in JSON"),
        ("exec tail -f /dev/null", "did not answer within 0.2 s"),
    ],
)
async def test_a_failing_helper_is_named_and_not_quoted(helpers: Helpers, script: str, why: str) -> None:
    helpers.add("bad", script)

    with pytest.raises(InvalidSetting, match=why) as caught:
        await with_helpers({"credsStore": "bad"}, timeout=0.2 if "tail" in script else 30).credentials_for("a", "x")

    assert "docker-credential-bad" in str(caught.value)
    assert SECRET not in f"{caught.value} {caught.value.hint} {caught.value.__cause__!r}"


async def test_an_absent_helper() -> None:
    with pytest.raises(InvalidSetting, match="cannot be started"):
        await with_helpers({"credsStore": "nowhere"}).credentials_for("a", "x")


HELPERS_OF_OTHER_TYPES: list[dict[str, object]] = [
    {"credsStore": 5},
    {"credsStore": {}},
    {"credHelpers": []},
    {"credHelpers": "one"},
]


@pytest.mark.parametrize("fields", HELPERS_OF_OTHER_TYPES)
async def test_helpers_of_other_types_concern_docker_alone(fields: dict[str, object]) -> None:
    """kubelet reads neither field of a pull secret."""
    data = json.dumps({"auths": {"a.example": auth("bob")}, **fields}).encode()

    assert await users(parse_docker_config_json(data, "secret a/b"), "a.example", "x") == ["bob"]
    with pytest.raises(InvalidSetting, match="is not a Docker configuration"):
        parse_docker_config(data, "config.json")


async def test_auths_twice_are_one() -> None:
    """Go reads the second object into the map that it has made for the first."""
    first, second = (json.dumps({"a.example": auth(name)}) for name in ("bob", "eve"))
    other = json.dumps({"b.example": auth("eve")})

    keyring = parse_docker_config_json(f'{{"auths": {first}, "auths": {other}}}'.encode(), "secret a/b")
    assert await users(keyring, "a.example", "x") == ["bob"]
    assert await users(keyring, "b.example", "x") == ["eve"]
    keyring = parse_docker_config_json(f'{{"auths": {first}, "auths": {second}}}'.encode(), "secret a/b")
    assert await users(keyring, "a.example", "x") == ["eve"]


@pytest.mark.parametrize("name", ["../../bin/sh", "a b", "", "-x"])
def test_names_of_helpers(name: str) -> None:
    if not name:
        assert with_helpers({"credsStore": name}) is not None
        return
    with pytest.raises(InvalidSetting, match="not the name"):
        with_helpers({"credsStore": name})


async def test_a_secret_starts_no_program(helpers: Helpers) -> None:
    helpers.add("one", ECHO)
    config = parse_docker_config_json(b'{"credsStore": "one", "credHelpers": {"a.example": "one"}}', "secret a/b")

    assert await one(config, "a.example") is None


def test_docker_looks_here_for_its_configuration(tmp_path: Path) -> None:
    assert config_path("/named", {"DOCKER_CONFIG": "/d"}, tmp_path) == Path("/named")
    assert config_path("", {"DOCKER_CONFIG": "/d"}, tmp_path) == Path("/d/config.json")
    assert config_path("", {}, tmp_path) == tmp_path / ".docker/config.json"
