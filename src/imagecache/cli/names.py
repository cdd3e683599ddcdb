"""Shell completion of ImageCache names. It must never fail and never print."""

from __future__ import annotations

import os


def complete(incomplete: str) -> list[str]:
    """Names in the store that environment and configuration file name; a ``--store`` on the line is ignored."""
    from imagecache.errors import ImageCacheError
    from imagecache.kube.object_files import ObjectFiles
    from imagecache.settings.load import load
    from imagecache.store.paths import StorePaths

    try:
        files = ObjectFiles(StorePaths(load({}, os.environ).store))
        return [cache.name for cache in files.caches() if cache.name.startswith(incomplete)]
    except ImageCacheError:
        return []
