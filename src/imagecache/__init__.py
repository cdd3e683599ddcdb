"""ImageCache: container images pulled once, mounted everywhere.

The packages follow one layer from the registry to a running container, and imports point upstream only:
``oci`` (names and documents) -> ``registry`` (verified bytes) -> ``layer`` (bytes to a tree) -> ``erofs`` (tree to a
mountable file) -> ``store`` (where it is kept) -> ``builder`` (joins the five) -> ``served`` and ``fetch`` (a store
elsewhere to this node's own) -> ``snapshotter`` (store to mounts) -> ``containerd`` (images usable without a pull) ->
``host`` (this machine). ``api`` is the ImageCache resource, ``kube`` where its objects are kept, ``controller`` and
``agent`` decide what becomes of it, ``plain_host`` is a host without Kubernetes, ``apps`` and ``cli`` are the rim. See
``docs/architecture.md``.
"""

__version__ = "0.1.0"
