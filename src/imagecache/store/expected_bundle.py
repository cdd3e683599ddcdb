"""What a node knows of a bundle without any store, and the comparison of a store's document with it. Pure.

The API server has the digest of the bundle document in the ImageCache's status. So a document is read only when its
bytes have that digest, and no store is believed anything: not which images there are, nor their names, nor whether one
is private. The images are compared besides, with what people see in that status: the two must not tell different
stories. It must not know Kubernetes, nor what a document leads to (``fetch.trust``).
"""

from __future__ import annotations

from dataclasses import dataclass

from imagecache.digest import Digest
from imagecache.errors import DigestMismatch, InvalidReference, StoreCorrupt
from imagecache.oci.reference import Reference
from imagecache.store import bundle_document
from imagecache.store.bundle_document import Bundle, ImageRecord

_HINT = "a store of imagecache does not write this: see who else can write to the controller's store"


@dataclass(frozen=True, slots=True)
class ExpectedImage:
    """One image for one platform, as ``status.images`` has it."""

    reference: str
    """As the user wrote it."""
    platform: str
    """Of the nodes that it is for: ``linux/amd64``."""
    digest: str
    """Of the index or manifest that the reference named."""
    private: bool = False
    """A credential was needed to read it."""


@dataclass(frozen=True, slots=True)
class ExpectedBundle:
    """A bundle as the API server has it."""

    id: str
    digest: Digest
    """Of the bundle document."""
    images: frozenset[ExpectedImage]

    def read(self, body: bytes) -> Bundle:
        """The document, whole. Nothing of other bytes is parsed.

        Raises DigestMismatch, MalformedDocument, StoreCorrupt.
        """
        self._check_digest(Digest.sha256(body))
        document = bundle_document.decode(body)
        self._check(document)
        return document

    def check(self, document: Bundle) -> None:
        """As ``read``, for a document that a store of this host has decoded. Raises DigestMismatch, StoreCorrupt."""
        self._check_digest(bundle_document.digest_of(document))
        self._check(document)

    def _check_digest(self, found: Digest) -> None:
        if found != self.digest:
            raise DigestMismatch(
                f"the store's document of bundle {self.id} is {found}; the ImageCache has {self.digest}",
                hint="the store has another bundle than the controller has built: see who else can write there",
            )

    def _check(self, document: Bundle) -> None:
        if document.id != self.id:
            raise StoreCorrupt(f"the store returned bundle {document.id[:80]!r} for {self.id}", hint=_HINT)
        for image in document.images:
            _check_names(image)
        found = frozenset(map(expected_image, document.images))
        if found != self.images:
            odd = sorted({f"{each.reference} ({each.platform})" for each in found ^ self.images})
            raise StoreCorrupt(
                f"the store's bundle {self.id} has other images than the ImageCache: {', '.join(odd)[:400]}", hint=_HINT
            )


def expected_image(image: ImageRecord) -> ExpectedImage:
    """What ``status.images`` has of an image."""
    return ExpectedImage(image.reference, str(image.platform), str(image.target.digest), image.private)


def expected_bundle(document: Bundle) -> ExpectedBundle:
    """What is to be expected of a document that is believed: by the controller that has built it."""
    images = frozenset(map(expected_image, document.images))
    return ExpectedBundle(document.id, bundle_document.digest_of(document), images)


def _check_names(image: ImageRecord) -> None:
    """A record under another name than the reference's would be that image for every pod of the node."""
    try:
        named = Reference.parse(image.reference)
    except InvalidReference as error:
        raise StoreCorrupt(f"the store's bundle has {error.message}", hint=_HINT) from error
    if (image.name, image.repository) != (named.name, named.repository):
        raise StoreCorrupt(
            f"the store's bundle has {image.name[:160]!r} of {image.repository[:160]!r}, not {named.name}",
            hint=_HINT,
            image=image.reference,
        )
    if named.digest is not None and named.digest != image.target.digest:
        raise StoreCorrupt(
            f"the store's bundle has {image.target.digest} for another digest", hint=_HINT, image=image.reference
        )
