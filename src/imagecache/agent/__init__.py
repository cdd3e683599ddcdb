"""A node's agent in a cluster: which caches belong here, fetch what is missing, attach, report.

Decisions (``sync``, ``budget``, ``patience``, ``taint``, ``report``) are pure; everything outside is behind ``ports``:
the API server (``adapters``), the remote store, the runtime, the disk. It must not speak HTTP or gRPC itself, and must
not build anything.
"""
