"""imagePullSecrets, read by name from a directory of Secret manifests."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from imagecache.api.pull_secrets import PullSecret
from imagecache.controller import pull_secrets
from imagecache.errors import ImageCacheError, InvalidInput, ObjectNotFound, PullSecretUnavailable
from imagecache.kube.files import FileKube
from imagecache.kube.object_files import ObjectFiles
from imagecache.kube.secret_directory import SecretDirectory
from imagecache.store.paths import StorePaths
from testkit.clock import FakeClock

CONFIG = {"auths": {"registry.example.com": {"username": "u", "password": "hunter2-very-secret"}}}
CODED = base64.b64encode(json.dumps(CONFIG).encode()).decode()


def secret(name: str, body: str, kind: str = "kubernetes.io/dockerconfigjson", namespace: str = "default") -> str:
    return f"apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}}}\ntype: {kind}\n{body}\n"


async def read(folder: Path, *names: str) -> tuple[PullSecret, ...]:
    return (await pull_secrets.read(kube(folder), names)).secrets


def kube(folder: Path) -> FileKube:
    return FileKube(ObjectFiles(StorePaths(folder / "store")), SecretDirectory(folder), FakeClock())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    legacy = base64.b64encode(json.dumps(CONFIG["auths"]).encode()).decode()
    documents = [
        secret("one", f"data: {{.dockerconfigjson: {CODED}}}"),
        "# nothing",
        "just: something else",
        "kind: Secret\nmetadata: 3",
        secret("old", f"data: {{.dockercfg: {legacy}}}", "kubernetes.io/dockercfg", "kube-system"),
    ]
    (tmp_path / "some.yaml").write_text("---\n".join(f"{document}\n" for document in documents))
    plain = {
        "kind": "Secret",
        "metadata": {"name": "plain"},
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": json.dumps(CONFIG)},
    }
    (tmp_path / "plain.json").write_text(json.dumps(plain))
    (tmp_path / "README").write_text("not: [read")
    return tmp_path


async def test_both_types_in_any_file(folder: Path) -> None:
    found = await read(folder, "kube-system:old", "default:one", "default:plain")

    assert [item.name for item in found] == ["kube-system:old", "default:one", "default:plain"]
    assert [json.loads(item.config) for item in found] == [CONFIG, CONFIG, CONFIG]


@pytest.mark.parametrize("payload", [r'{"auths":{"a":null},"x":"\ud800"}', '{"Auths":null}', '{"auths":{},"auths":{}}'])
async def test_payloads_that_kubelet_reads(tmp_path: Path, payload: str) -> None:
    """The registry's part makes sense of them (``registry.docker_config``)."""
    coded = base64.b64encode(payload.encode()).decode()
    (tmp_path / "a.yaml").write_text(secret("one", f"data: {{.dockerconfigjson: {coded}}}\nstringData: null"))

    (found,) = await read(tmp_path, "default:one")

    assert found.config == payload.encode()


async def test_a_version_changes_with_a_secret_and_says_nothing_of_it(folder: Path) -> None:
    before = await pull_secrets.read(kube(folder), ["default:one", "default:plain"])
    versions = {name: await pull_secrets.read_version(kube(folder), name) for name in ("default:one", "default:plain")}
    assert before.version == pull_secrets.version(versions)
    assert pull_secrets.version({}) == (await pull_secrets.read(kube(folder), ())).version == ""

    file = folder / "plain.json"
    file.write_text(file.read_text().replace("hunter2", "hunter3"))
    after = await pull_secrets.read(kube(folder), ["default:one", "default:plain"])
    assert after.version != before.version
    assert await pull_secrets.read_version(kube(folder), "default:one") == versions["default:one"]


async def test_nothing_wanted_reads_nothing(tmp_path: Path) -> None:
    assert await read(tmp_path / "missing") == ()


@pytest.mark.parametrize("directory", ["", "missing"])
async def test_a_missing_secret_names_itself_and_the_directory(folder: Path, directory: str) -> None:
    name = "default:one" if directory else "team:two"
    with pytest.raises(PullSecretUnavailable) as caught:
        await read(folder / directory, name)

    assert str(caught.value) == f"imagePullSecret {name} is not in {folder / directory}"
    assert "kubectl get secret -n" in caught.value.hint
    assert isinstance(caught.value.__cause__, ObjectNotFound)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (secret("one", "data: {}", "Opaque"), "default:one is no pull secret"),
        (secret("one", "data: {}", "[a]"), "default:one is no pull secret"),
        (secret("one", f"data: {{.dockercfg: {CODED}}}"), "default:one has no valid .dockerconfigjson"),
        (secret("one", "data: {.dockerconfigjson: aHVudGVyMi12ZXJ5LXNlY3JldA==}"), "no valid .dockerconfigjson"),
        (secret("one", "data: {.dockerconfigjson: hunter2}"), "no valid .dockerconfigjson"),
        (secret("one", 'stringData: {.dockerconfigjson: "[1]"}'), "no valid .dockerconfigjson"),
        (secret("one", "stringData: 4"), "no valid .dockerconfigjson"),
        (secret("one", "data: {.dockerconfigjson: !!int hunter2-very-secret}"), "value does not match its tag"),
    ],
)
async def test_bad_secrets_are_refused_without_showing_them(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.yml").write_text(text)
    with pytest.raises(PullSecretUnavailable) as caught:
        await read(tmp_path, "default:one")

    assert isinstance(caught.value.__cause__, InvalidInput)

    assert message in str(caught.value)
    assert str(tmp_path / "bad.yml") in str(caught.value)
    assert _leaks(caught.value) == []


async def test_a_secret_does_not_show_itself(folder: Path) -> None:
    found = await read(folder, "default:one")

    assert "hunter2" not in repr(found)


def _leaks(error: BaseException | None) -> list[str]:
    """Texts in the chain of an error that hold a secret's value."""
    found = []
    while error is not None:
        texts = [str(error), getattr(error, "hint", "")] if isinstance(error, ImageCacheError) else [str(error)]
        found += [text for text in texts if "hunter2" in text or CODED in text]
        error = error.__cause__ or error.__context__
    return found
