"""Write config/crd/ from ``imagecache.api.crd``; ``--check`` only says whether the files are current."""

from __future__ import annotations

import sys
from pathlib import Path

from imagecache.api import crd, dump

FOLDER = Path(__file__).resolve().parent.parent / "config" / "crd"
GENERATED = "# made by tools/render.py from src/imagecache/api/crd.py; do not edit\n"


def files() -> dict[Path, str]:
    """Every file with the text that it should have."""
    return {FOLDER / name: GENERATED + dump.to_yaml(document) for name, document in crd.all_documents().items()}


def main() -> None:
    stale = []
    for path, text in files().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(path.name)
            if "--check" not in sys.argv:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
    if "--check" in sys.argv and stale:
        sys.exit(f"not current: {', '.join(stale)}; run .venv/bin/python tools/render.py")


if __name__ == "__main__":
    main()
