"""References: the table of what Docker and containerd accept, and how they normalise it."""

from __future__ import annotations

import pytest

from imagecache.errors import InvalidReference
from imagecache.oci.reference import Reference

HEX = "a1" * 32
DIGEST = f"sha256:{HEX}"

ACCEPTED = [
    ("nginx", "docker.io", "library/nginx", "latest", None),
    (" nginx:1.25\n", "docker.io", "library/nginx", "1.25", None),
    ("team/app", "docker.io", "team/app", "latest", None),
    ("docker.io/nginx", "docker.io", "library/nginx", "latest", None),
    ("index.docker.io/library/nginx:1", "docker.io", "library/nginx", "1", None),
    ("index.docker.io/nginx", "docker.io", "library/nginx", "latest", None),
    ("localhost/app", "localhost", "app", "latest", None),
    ("localhost:5000/app:v1", "localhost:5000", "app", "v1", None),
    ("127.0.0.1:5000/team/app:1.4", "127.0.0.1:5000", "team/app", "1.4", None),
    ("[::1]:5000/app", "[::1]:5000", "app", "latest", None),
    ("[2001:db8::1]/a/b/c", "[2001:db8::1]", "a/b/c", "latest", None),
    ("Registry/app", "Registry", "app", "latest", None),
    ("gcr.io/google-containers/pause:3.9", "gcr.io", "google-containers/pause", "3.9", None),
    ("a__b/c--d", "docker.io", "a__b/c--d", "latest", None),
    ("localhost5000/app", "docker.io", "localhost5000/app", "latest", None),
    (f"nginx@{DIGEST}", "docker.io", "library/nginx", "", DIGEST),
    (f"nginx:1@{DIGEST}", "docker.io", "library/nginx", "1", DIGEST),
    (f"quay.io/a/b@sha512:{'0f' * 64}", "quay.io", "a/b", "", f"sha512:{'0f' * 64}"),
    (f"host:1/{'x' * 255}:{'t' * 128}", "host:1", "x" * 255, "t" * 128, None),
    (f"{HEX[1:]}", "docker.io", f"library/{HEX[1:]}", "latest", None),
    (f"docker.io/library/{HEX}", "docker.io", f"library/{HEX}", "latest", None),
]


@pytest.mark.parametrize(("text", "domain", "path", "tag", "digest"), ACCEPTED)
def test_accepted(text: str, domain: str, path: str, tag: str, digest: str | None) -> None:
    reference = Reference.parse(text)

    assert (reference.domain, reference.path, reference.tag, reference.digest) == (domain, path, tag, digest)
    assert reference.original == text.strip()
    assert reference.host == domain
    assert reference.repository == f"{domain}/{path}"
    assert str(reference) == text.strip()


REFUSED = {
    "empty": ("", "empty"),
    "blank": ("  ", "empty"),
    "image id": (HEX, "image id"),
    "scheme": ("https://quay.io/a", "no scheme"),
    "upper-case repository": ("Nginx", "lower case"),
    "upper-case path": ("quay.io/Team/app", "lower case"),
    "no path": ("quay.io/", "not a repository"),
    "only a slash": ("/", "not a repository"),
    "leading slash": ("/nginx", "not a repository"),
    "trailing slash": ("quay.io/a/", "not a repository"),
    "double slash": ("quay.io/a//b", "not a repository"),
    "dot dot": ("quay.io/../b", "not a repository"),
    "three underscores": ("a___b", "not a repository"),
    "leading dash": ("-nginx", "not a repository"),
    "empty tag": ("nginx:", "not a tag"),
    "long tag": ("nginx:" + "t" * 129, "not a tag"),
    "tag with a dash first": ("nginx:-x", "not a tag"),
    "two tags": ("nginx:1:2", "not a tag"),
    "bad port": ("quay.io:port/a", "not a registry host"),
    "bad label": ("-quay.io/a", "not a registry host"),
    "bracket": ("[::1/a", "not a registry host"),
    "blank inside": ("ngi nx", "U\\+0020 .SPACE. after 'ngi'"),
    "no-break space inside": ("nginx:\u00a01", "U\\+00A0 .NO-BREAK SPACE. after 'nginx:'"),
    "zero width space inside": ("nginx\u200b:1", "U\\+200B .ZERO WIDTH SPACE. after 'nginx'"),
    "letter of another script": ("\u0441entos", "CYRILLIC SMALL LETTER ES"),
    "newline inside": ("nginx\n:1", "U\\+000A"),
    "control character": ("nginx\x00", "U\\+0000"),
    "digits that only look like digits": ("nginx\u0661", "ARABIC-INDIC DIGIT ONE"),
    "no digest": ("nginx@", "not a digest"),
    "short digest": ("nginx@sha256:abcd", "not a digest"),
    "upper-case digest": (f"nginx@sha256:{HEX.upper()}", "not a digest"),
    "unknown algorithm": (f"nginx@md5:{HEX}", "not a digest"),
    "two digests": (f"nginx@{DIGEST}@{DIGEST}", "not a digest"),
    "only a digest": (f"@{DIGEST}", "not a repository"),
    "long path": ("quay.io/" + "x" * 256, "longer than 255"),
    "long text": ("x" * 2000, "longer than 1024"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    text, why = REFUSED[case]

    with pytest.raises(InvalidReference, match=why) as caught:
        Reference.parse(text)

    assert caught.value.hint
    assert len(str(caught.value)) < 600


def test_the_library_prefix_counts_for_the_length() -> None:
    with pytest.raises(InvalidReference, match="longer than 255"):
        Reference.parse("x" * 255)
    assert Reference.parse("x" * 247).path == "library/" + "x" * 247


def test_names() -> None:
    assert Reference.parse("nginx").name == "docker.io/library/nginx:latest"
    assert Reference.parse(f"nginx@{DIGEST}").name == f"docker.io/library/nginx@{DIGEST}"
    both = Reference.parse(f"nginx:1@{DIGEST}")
    assert both.name == f"docker.io/library/nginx:1@{DIGEST}"
    assert both.cri_name == f"docker.io/library/nginx@{DIGEST}"
    assert Reference.parse("nginx:1").cri_name == "docker.io/library/nginx:1"


def test_references_are_values() -> None:
    assert {Reference.parse("nginx"), Reference.parse("nginx")} == {Reference.parse("nginx")}


@pytest.mark.parametrize("around", [" ", "\u00a0", "\u3000", "\u200b", "\ufeff", "\r\n"])
def test_what_is_around_a_reference_is_not_part_of_it(around: str) -> None:
    assert Reference.parse(f"{around}nginx:1.25{around}") == Reference.parse("nginx:1.25")
