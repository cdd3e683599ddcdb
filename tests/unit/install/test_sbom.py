"""What ``./dev sbom`` adds to what it was told."""

from __future__ import annotations

from typing import Any

import pytest

from tools.sbom import completed

WHEEL = 64 * "a"
DISTRIBUTION = {"type": "distribution", "url": "x", "hashes": [{"alg": "SHA-256", "content": 64 * "b"}]}
WEBSITE = {"type": "website", "url": "y"}


def document(*components: dict[str, Any]) -> dict[str, Any]:
    own = {"bom-ref": "root-component", "name": "imagecache", "version": "0.1.0"}
    return {"bomFormat": "CycloneDX", "metadata": {"component": own}, "components": [*components]}


def package(name: str, *references: dict[str, Any]) -> dict[str, Any]:
    return {"name": name.upper(), "version": "1", "purl": f"pkg:pypi/{name}@1", "externalReferences": [*references]}


def test_a_package_has_the_hashes_that_the_lock_allows() -> None:
    """And what the lock has beside, for another system, is not in the image."""
    allowed = document(package("h11", DISTRIBUTION), package("colorama", DISTRIBUTION))

    made = completed(document(package("h11", WEBSITE)), allowed, WHEEL)

    assert made["components"] == [package("h11", WEBSITE, DISTRIBUTION)]
    assert made["bomFormat"] == "CycloneDX"


def test_what_the_lock_has_not_is_an_error() -> None:
    with pytest.raises(KeyError, match="pkg:pypi/h11@1"):
        completed(document(package("h11")), document(package("h2", DISTRIBUTION)), WHEEL)


def test_we_are_in_it_ourselves() -> None:
    own = completed(document(), document(), WHEEL)["metadata"]["component"]

    assert own == {
        "bom-ref": "root-component",
        "name": "imagecache",
        "version": "0.1.0",
        "purl": "pkg:generic/imagecache@0.1.0",
        "hashes": [{"alg": "SHA-256", "content": WHEEL}],
    }
