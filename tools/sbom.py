"""The Python packages of our container image as CycloneDX: ``./dev sbom``, which runs it with requirements/sbom.lock.

cyclonedx-bom says what is installed in an environment that was made as ``packaging/Containerfile`` makes the image's.
Added here is what it cannot know: the files that requirements/runtime.lock allows for each package, and our wheel. Of
one commit it writes the same bytes each time.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def completed(found: Mapping[str, Any], allowed: Mapping[str, Any], wheel_digest: str) -> dict[str, Any]:
    """``found`` (of an environment) with the hashes of ``allowed`` (of the lock), and with our own.

    Our purl is generic: nothing of that name on PyPI is ours. Raises KeyError for a package that the lock has not.
    """
    files = {each["purl"]: each["externalReferences"] for each in allowed["components"]}
    components = [
        {**each, "externalReferences": [*each.get("externalReferences", []), *files[each["purl"]]]}
        for each in found["components"]
    ]
    own = found["metadata"]["component"]
    known = {
        "purl": f"pkg:generic/{own['name']}@{own['version']}",
        "hashes": [{"alg": "SHA-256", "content": wheel_digest}],
    }
    return {**found, "components": components, "metadata": {**found["metadata"], "component": {**own, **known}}}


def described(*arguments: str) -> Any:
    """What cyclonedx-bom says of something, without anything random."""
    words = [sys.executable, "-W", "ignore", "-m", "cyclonedx_py", *arguments, "--output-reproducible"]
    return json.loads(subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)


def main() -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    python, wheel = sys.argv[1], Path(sys.argv[2])
    found = described("environment", "--pyproject", "pyproject.toml", python)
    allowed = described("requirements", "requirements/runtime.lock")
    text = json.dumps(completed(found, allowed, hashlib.sha256(wheel.read_bytes()).hexdigest()), indent=1) + "\n"
    if problem := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise SystemExit(f"this is not valid CycloneDX 1.6: {problem}")
    wheel.with_name("imagecache.cdx.json").write_text(text)


if __name__ == "__main__":
    main()
