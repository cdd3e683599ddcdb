"""The fixtures of ``origin``."""

from __future__ import annotations

from tests.unit.fetch.origin import fetchers, node, origin, remote, verifier

__all__ = ["fetchers", "node", "origin", "remote", "verifier"]
