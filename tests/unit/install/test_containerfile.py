"""What our container image must have besides Python and ourselves."""

from __future__ import annotations

from pathlib import Path

CONTAINERFILE = Path(__file__).resolve().parents[3] / "packaging" / "Containerfile"


def test_the_controller_can_tell_who_signs_public_registries() -> None:
    """Debian's slim image has no authorities, and Python brings none. Those of the build stage stay there."""
    final = CONTAINERFILE.read_text().rpartition("\nFROM ")[2]

    assert "ca-certificates" in final
