"""A node's agent in a cluster: which caches belong here, fetch what is missing, attach, report.

Decisions (``sync.plan``, ``budget``, ``taint``) are pure; everything outside is behind ``ports``: the API server, the
remote store, containerd, the disk. It must not speak HTTP, gRPC or Kubernetes itself, and must not build anything.
"""
