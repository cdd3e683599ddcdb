"""imagePullSecrets from a directory of Secret manifests."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from imagecache.errors import ImageCacheError, InvalidInput, InvalidManifest, NotFound
from imagecache.standalone.secrets import SecretDirectory

CONFIG = {"auths": {"registry.example.com": {"username": "u", "password": "hunter2-very-secret"}}}
CODED = base64.b64encode(json.dumps(CONFIG).encode()).decode()


def secret(name: str, body: str, kind: str = "kubernetes.io/dockerconfigjson", namespace: str = "default") -> str:
    return f"apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}}}\ntype: {kind}\n{body}\n"


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


def test_both_types_in_any_file(folder: Path) -> None:
    found = SecretDirectory(folder).load(["kube-system:old", "default:one", "default:plain"])

    assert [item.name for item in found] == ["kube-system:old", "default:one", "default:plain"]
    assert [json.loads(item.config) for item in found] == [CONFIG, CONFIG, CONFIG]


def test_nothing_wanted_reads_nothing(tmp_path: Path) -> None:
    assert SecretDirectory(tmp_path / "missing").load([]) == ()


@pytest.mark.parametrize("directory", ["", "missing"])
def test_a_missing_secret_names_itself_and_the_directory(folder: Path, directory: str) -> None:
    place = folder / directory
    with pytest.raises(NotFound) as caught:
        SecretDirectory(place).load(["default:one"] if directory else ["team:two"])

    assert str(place) in str(caught.value)
    assert "kubectl get secret -n" in caught.value.hint


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
def test_bad_secrets_are_refused_without_showing_them(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.yml").write_text(text)
    with pytest.raises((InvalidInput, InvalidManifest)) as caught:
        SecretDirectory(tmp_path).load(["default:one"])

    assert message in str(caught.value)
    assert str(tmp_path / "bad.yml") in str(caught.value)
    assert _leaks(caught.value) == []


def test_a_secret_does_not_show_itself(folder: Path) -> None:
    found = SecretDirectory(folder).load(["default:one"])

    assert "hunter2" not in repr(found)


def _leaks(error: BaseException | None) -> list[str]:
    """Texts in the chain of an error that hold a secret's value."""
    found = []
    while error is not None:
        texts = [str(error), getattr(error, "hint", "")] if isinstance(error, ImageCacheError) else [str(error)]
        found += [text for text in texts if "hunter2" in text or CODED in text]
        error = error.__cause__ or error.__context__
    return found
