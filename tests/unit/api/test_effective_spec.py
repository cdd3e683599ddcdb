"""Defaults, limits and annotations: what a document asks for."""

from __future__ import annotations

import pytest

from imagecache.api import annotations as known
from imagecache.api.effective_spec import EffectiveSpec, effective_spec
from imagecache.api.types import API_VERSION, KIND, ImageCache, Metadata, Spec
from imagecache.errors import InvalidManifest
from imagecache.limits import GIB


def cache(
    *images: str,
    keys: dict[str, str] | None = None,
    size: int | None = None,
    days: int | None = None,
    secrets: tuple[str, ...] = (),
) -> ImageCache:
    return ImageCache(
        api_version=API_VERSION,
        kind=KIND,
        metadata=Metadata(name="a", annotations=keys or {}),
        spec=Spec(images=images or ("nginx",), image_pull_secrets=secrets, image_cache_size=size, retention_days=days),
    )


def wanted(**changes: object) -> EffectiveSpec:
    return effective_spec(cache(**changes), architectures=("amd64",))  # type: ignore[arg-type]


def test_defaults() -> None:
    result = effective_spec(cache("nginx"), architectures=("arm64",))

    assert result.images == ("nginx",)
    assert (result.size_gib, result.size_limit) == (20, 20 * GIB)
    assert result.retention_days is None
    assert list(map(str, result.platforms)) == ["linux/arm64"]
    assert (result.plain_http, result.insecure, result.notes) == (frozenset(), frozenset(), ())


@pytest.mark.parametrize(
    ("size", "used", "notes"),
    [(25, 25, 0), (20, 20, 0), (10, 20, 1), (0, 20, 1), (-5, 20, 1), (32768, 32768, 0), (40000, 40000, 1)],
)
def test_size_is_raised_to_20_and_never_refused(size: int, used: int, notes: int) -> None:
    result = wanted(size=size)

    assert result.size_gib == used
    assert len(result.notes) == notes


@pytest.mark.parametrize(("days", "used"), [(7, 7), (1, 1), (65536, 65536), (0, None)])
def test_retention(days: int, used: int | None) -> None:
    assert wanted(days=days).retention_days == used


@pytest.mark.parametrize("days", [-1, 65537])
def test_retention_out_of_range(days: int) -> None:
    with pytest.raises(InvalidManifest, match=r"spec\.retentionDays: .* is not between 1 and 65536"):
        wanted(days=days)


def test_annotations_count_where_the_spec_says_nothing() -> None:
    result = wanted(
        keys={
            known.SIZE: "30",
            known.RETENTION_DAYS: " 3 ",
            known.CPU_ARCH: "arm64",
            known.OS_TYPE: "Linux",
            known.PLAIN_HTTP: "harbor.pre.com, 192.168.0.1:5000,reg.test.com:80,",
            known.INSECURE: "[::1]:5000",
            known.REUSE: "true",
            known.REUSE_LEGACY: "true",
            known.FLASH: "false",
            "example.com/mine": "x",
        }
    )

    assert (result.size_gib, result.retention_days) == (30, 3)
    assert list(map(str, result.platforms)) == ["linux/arm64"]
    assert result.plain_http == {"harbor.pre.com", "192.168.0.1:5000", "reg.test.com:80"}
    assert result.insecure == {"[::1]:5000"}
    assert result.notes == ()


def test_the_spec_wins_over_annotations() -> None:
    result = wanted(size=40, days=5, keys={known.SIZE: "30", known.RETENTION_DAYS: "5"})

    assert (result.size_gib, result.retention_days) == (40, 5)
    assert result.notes == ("metadata.annotations[k8s.aliyun.com/imc-size]: 30 is ignored, spec.imageCacheSize is 40",)


def test_cloud_only_and_unknown_keys_are_noted() -> None:
    result = wanted(keys={"k8s.aliyun.com/vswitch-ids": "vsw-a", "k8s.aliyun.com/new-thing": "1", "other/x": "y"})

    assert result.notes == (
        "metadata.annotations[k8s.aliyun.com/vswitch-ids]: only used on Alibaba Cloud, ignored",
        "metadata.annotations[k8s.aliyun.com/new-thing]: unknown, ignored",
    )


@pytest.mark.parametrize("key", sorted(known.CLOUD_ONLY))
def test_every_cloud_only_key_is_accepted(key: str) -> None:
    assert len(wanted(keys={key: "anything"}).notes) == 1


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (known.OS_TYPE, "windows", "Windows images cannot be cached"),
        (known.OS_TYPE, "plan9", "'plan9' is not supported"),
        (known.CPU_ARCH, "sparc", "'sparc' is not supported"),
        (known.SIZE, "25Gi", "'25Gi' is not a whole number"),
        (known.RETENTION_DAYS, "-1", "'-1' is not a whole number"),
        (known.PLAIN_HTTP, "http://a", "'http://a' is not host"),
        (known.INSECURE, "a/b", "'a/b' is not host"),
    ],
)
def test_bad_annotations_name_the_key(key: str, value: str, message: str) -> None:
    with pytest.raises(InvalidManifest) as caught:
        wanted(keys={key: value})

    assert str(caught.value).startswith(f"metadata.annotations[{key}]: ")
    assert message in str(caught.value)


def test_at_most_20_images() -> None:
    assert len(effective_spec(cache(*(f"a:{n}" for n in range(20))), architectures=("amd64",)).images) == 20
    with pytest.raises(InvalidManifest, match=r"spec\.images: 21 images, at most 20"):
        effective_spec(cache(*(f"a:{n}" for n in range(21))), architectures=("amd64",))


def test_a_repeated_image_is_built_once() -> None:
    result = effective_spec(cache("nginx", "redis", "nginx"), architectures=("amd64",))

    assert result.images == ("nginx", "redis")
    assert result.notes == ("spec.images[2]: nginx is repeated",)


def test_a_bad_reference_names_its_place() -> None:
    with pytest.raises(InvalidManifest, match=r"spec\.images\[1\]: .*Nginx") as caught:
        effective_spec(cache("nginx", "Nginx"), architectures=("amd64",))
    assert caught.value.hint


@pytest.mark.parametrize("secret", ["secret1", "a:b:c", ":x", "default:", "Default:x", "default:-x", "a/b:c"])
def test_secrets_are_namespace_and_name(secret: str) -> None:
    with pytest.raises(InvalidManifest, match=r"spec\.imagePullSecrets\[0\]: .* is not namespace:name"):
        wanted(secrets=(secret,))


def test_good_secrets() -> None:
    assert wanted(secrets=("default:secret1", "kube-system:a.b", "default:secret1")).pull_secrets == (
        "default:secret1",
        "kube-system:a.b",
    )


AROUND = "\u00a0{}\u200b"
"""What a copy out of a page brings with it."""


def test_annotations_have_nothing_around_them() -> None:
    keys = {
        known.SIZE: AROUND.format("30"),
        known.OS_TYPE: AROUND.format("Linux"),
        known.CPU_ARCH: AROUND.format("arm64"),
        known.PLAIN_HTTP: AROUND.format("Reg.example.com:80,\u3000[::1]:5000"),
        "imagecache.dev/node-selector": AROUND.format("pool=gpu"),
    }
    plain = {key: text.strip("\u00a0\u200b").replace("\u3000", "").lower() for key, text in keys.items()}

    assert wanted(keys=keys) == wanted(keys=plain)
    assert wanted(keys=keys).plain_http == {"reg.example.com:80", "[::1]:5000"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (known.SIZE, "3\u00a00"),
        (known.CPU_ARCH, "arm\u00a064"),
        (known.PLAIN_HTTP, "a,reg\u00a0.example"),
        ("imagecache.dev/node-selector", "pool=\u00e4\u00a0"),
    ],
)
def test_what_is_inside_an_annotation_is_named(key: str, value: str) -> None:
    with pytest.raises(InvalidManifest, match=r"it contains U\+00(A0|E4) \("):
        wanted(keys={key: value})


def test_what_is_inside_a_reference_or_a_secret_is_named() -> None:
    with pytest.raises(
        InvalidManifest, match=r"spec\.images\[0\]: .*: it contains U\+00A0 \(NO-BREAK SPACE\) after 'n'"
    ):
        effective_spec(cache("n\u00a0ginx"), architectures=("amd64",))
    with pytest.raises(InvalidManifest, match=r"imagePullSecrets\[0\]: .*: it contains U\+200B \(ZERO WIDTH SPACE\)"):
        wanted(secrets=("default:\u200bsecret1",))
