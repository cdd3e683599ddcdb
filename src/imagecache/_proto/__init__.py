"""Generated from ``proto/`` by ``./dev proto``; never edited."""
