"""ImageCache: container images pulled once, mounted everywhere.

The packages follow one layer from the registry to a running container, and imports point upstream only:
``oci`` (names and documents) -> ``registry`` (verified bytes) -> ``layer`` (bytes to a tree) -> ``erofs`` (tree to a
mountable file) -> ``store`` (where it is kept) -> ``build`` (joins the five) -> ``snapshotter`` (store to mounts) ->
``node`` (images usable in containerd). ``api`` and ``standalone`` hold the ImageCache resource itself.
"""

__version__ = "0.1.0"
