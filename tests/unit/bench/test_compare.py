"""Ours stands beside every peer of a table, those that are faster included."""

from __future__ import annotations

from bench import cold, warm
from bench.figures import Line, Samples, Table


def line(key: str, **figures: float) -> Line:
    return Line(
        key, key.title(), durable=False, figures={name: Samples([value] * 5) for name, value in figures.items()}
    )


def test_a_cold_node_is_compared_with_each_peer() -> None:
    lines = [line("overlayfs-tuned", hello=6.0), line("stargz", hello=1.0), line("imagecache-proxy", hello=3.0)]

    rows = cold.compare(Table("cold", "Cold", cold.COLUMNS, lines)).rows

    assert [(row.note, row.ratio, row.verdict) for row in rows] == [
        ("beside overlayfs-tuned", 0.5, "✓"),
        ("beside stargz", 3.0, "✗"),
    ]


def test_a_warm_node_is_compared_with_overlayfs_and_the_prebuilt_cache() -> None:
    keys = [column.key for column in warm.COLUMNS]
    lines = [
        line("overlayfs-tuned", **dict.fromkeys(keys, 2.0)),
        line("erofs-prebuilt", **dict.fromkeys(keys, 0.5)),
        line("imagecache-proxy", **dict.fromkeys(keys, 1.0)),
        line("imagecache-native", **dict.fromkeys(keys, 1.0)),
    ]

    found = warm.compare(Table("warm", "Warm", warm.COLUMNS, lines), "")

    imports = [row for row in found.rows if row.measure.startswith("import")]
    assert [(row.note, row.ratio, row.verdict) for row in imports] == [
        ("proxy", 2.0, "✓"),
        ("native", 2.0, ""),
        ("proxy, beside erofs", 0.5, "✗"),
    ]
    assert len({row.name for row in found.rows}) == len(found.rows)


def test_a_table_without_the_prebuilt_cache_is_compared_with_overlayfs_alone() -> None:
    keys = [column.key for column in warm.COLUMNS]
    lines = [line(key, **dict.fromkeys(keys, 1.0)) for key in ("overlayfs-tuned", "imagecache-proxy")]

    rows = warm.compare(Table("warm-128", "Warm", warm.COLUMNS, lines), ", read-ahead 128 KiB").rows

    assert {row.note for row in rows} == {"proxy, read-ahead 128 KiB"}
