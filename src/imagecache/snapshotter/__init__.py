"""containerd's snapshots service over the store: cached layers need no pull, all others are plain overlayfs.

``snapshot`` has the values, ``database`` and ``transactions`` keep them, ``mounts`` decides what to mount,
``snapshotter`` has the ten operations, ``grpc_service`` is their gRPC adapter. Read ``docs/architecture.md`` first. It
must never call back into containerd, never break a node (a miss is an ordinary overlay snapshot), and never unmount
when it stops.
"""
