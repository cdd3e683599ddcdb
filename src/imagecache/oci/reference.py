"""Image references: the user's text, normalised as in Docker and containerd.

Grammar and defaults (``docker.io``, ``library/``, ``latest``) are those of distribution's ``reference`` package, which
containerd uses; the original text is kept for messages. It must not look anything up.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn, Self

from imagecache.digest import Digest
from imagecache.errors import ImageCacheError, InvalidDigest, InvalidReference
from imagecache.written import strange, trimmed

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"
PATH_LENGTH = 255
"""Characters of a repository path, the host not counted (distribution/reference: RepositoryNameTotalLengthMax)."""
TEXT_LENGTH = 1024
"""More than any valid reference: host 255, path 255, tag 128, digest 135 and separators. Bounds the regexes' work."""

_LEGACY_DOMAIN = "index.docker.io"
_OFFICIAL = "library/"
# The expressions of distribution's reference/regexp.go.
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?")
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}")
_IDENTIFIER = re.compile(r"[a-f0-9]{64}")
_FORM = (
    "expected [HOST[:PORT]/]PATH[:TAG][@sha256:HEX], for example nginx:1.25 or registry.example.com:5000/team/app:1.4"
)


@contextlib.contextmanager
def naming_image(image: str) -> Iterator[None]:
    """Errors of the block name the image that they concern, unless they name one already."""
    try:
        yield
    except ImageCacheError as error:
        error.image = error.image or image
        raise


@dataclass(frozen=True, slots=True)
class Reference:
    """A parsed reference. Two are equal when the user wrote the same text."""

    original: str
    """As written, without what ``written.trimmed`` takes away."""
    domain: str
    """``docker.io``, ``127.0.0.1:5000``."""
    path: str
    """``library/nginx``."""
    tag: str = ""
    """Empty only for a reference with a digest and no tag."""
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a user's text. Raises InvalidReference."""
        original = trimmed(text)
        _check_text(original)
        rest, digest = _split_digest(original)
        domain, remote = _split_domain(rest)
        path, tag = _split_tag(remote, original)
        if domain == DEFAULT_DOMAIN and "/" not in path:  # Docker Hub's official images have no user
            path = _OFFICIAL + path
        _check_names(domain, path, original)
        if not tag and digest is None:  # a digest needs no tag, and "latest" beside one would be a lie
            tag = DEFAULT_TAG
        return cls(original=original, domain=domain, path=path, tag=tag, digest=digest)

    @property
    def host(self) -> str:
        """The registry as references name it. Docker Hub is ``docker.io``; its API has another address."""
        return self.domain

    @property
    def repository(self) -> str:
        return f"{self.domain}/{self.path}"

    @property
    def name(self) -> str:
        """Normalised text: ``repository:tag``, ``repository@digest`` or ``repository:tag@digest``."""
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.repository}{tag}{digest}"

    @property
    def cri_name(self) -> str:
        """The name of the image record after a pull through CRI: with a digest, containerd drops the tag."""
        return f"{self.repository}@{self.digest}" if self.digest else self.name

    def __str__(self) -> str:
        return self.original


def _refuse(original: str, why: str, hint: str = _FORM) -> NoReturn:
    raise InvalidReference(f"not an image reference: {original[:160]!r}: {why}", hint=hint)


def _check_text(original: str) -> None:
    if not original:
        _refuse(original, "it is empty")
    if len(original) > TEXT_LENGTH:
        _refuse(original, f"it is longer than {TEXT_LENGTH} characters")
    if found := strange(original):
        _refuse(original, found)
    if "://" in original:
        _refuse(original, "a reference has no scheme", f"write {original.partition('://')[2][:160]}")
    if _IDENTIFIER.fullmatch(original):  # ambiguous: docker run takes it for an id (reference.ParseNormalizedNamed)
        _refuse(
            original,
            "64 hex digits are an image id, not a repository",
            "name the repository: REPOSITORY@sha256:<the digits>",
        )


def _split_digest(original: str) -> tuple[str, Digest | None]:
    rest, at, digest = original.partition("@")
    if not at:
        return rest, None
    try:
        return rest, Digest(digest)
    except InvalidDigest as error:
        message = f"not an image reference: {original[:160]!r}: {error.message}"
        raise InvalidReference(message, hint=error.hint) from error


def _split_domain(rest: str) -> tuple[str, str]:
    """``splitDockerDomain``: a first component that cannot be a Docker Hub user is a host."""
    first, slash, remote = rest.partition("/")
    is_host = first == "localhost" or "." in first or ":" in first or first != first.lower()
    if not slash or not is_host:
        return DEFAULT_DOMAIN, rest
    return (DEFAULT_DOMAIN if first == _LEGACY_DOMAIN else first), remote


def _split_tag(remote: str, original: str) -> tuple[str, str]:
    path, colon, tag = remote.partition(":")
    if colon and not _TAG.fullmatch(tag):
        _refuse(
            original,
            f"{tag[:140]!r} is not a tag",
            "a tag has up to 128 letters, digits, '_', '.' and '-', and does not start with '.' or '-'",
        )
    return path, tag


def _check_names(domain: str, path: str, original: str) -> None:
    if not _DOMAIN.fullmatch(domain):
        _refuse(original, f"{domain[:160]!r} is not a registry host")
    if path != path.lower():
        _refuse(original, "a repository must be lower case", f"write {path.lower()[:160]}")
    if not _PATH.fullmatch(path):
        _refuse(
            original,
            f"{path[:160]!r} is not a repository",
            "components of a-z and 0-9, joined by one '.', one or two '_' or dashes, separated by '/'",
        )
    if len(path) > PATH_LENGTH:
        _refuse(original, f"the repository is longer than {PATH_LENGTH} characters")
