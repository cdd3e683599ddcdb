"""containerd's snapshots service over the store: layers that are cached need no pull, the rest is plain overlayfs.

``model`` and ``metadata`` are the rows and their transactions, ``mounts`` says what to mount, ``snapshotter`` has the
ten operations, ``service`` is the gRPC adapter. Read ``docs/architecture.md`` first. It must never call back into
containerd, never fail a node because of us (a miss is an ordinary overlay snapshot), and never unmount on stop.
"""
