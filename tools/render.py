"""Write config/ and charts/ from ``tools.install``; ``--check`` only says whether the files are current."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.install.render import files

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    stale = []
    for path, text in files().items():
        target = ROOT / path
        if not target.exists() or target.read_text(encoding="utf-8") != text:
            stale.append(str(path))
            if "--check" not in sys.argv:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text, encoding="utf-8")
    if "--check" in sys.argv and stale:
        sys.exit(f"not current: {', '.join(stale)}; run .venv/bin/python tools/render.py")


if __name__ == "__main__":
    main()
