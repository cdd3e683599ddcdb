"""Where bundles and layer images live: content-addressed, crash-safe, shared by several processes.

A local directory or any RWX volume. A path from here can be relied on: files appear whole or not at all, never change
afterwards, and stay as long as a lease on them is held. It must not know what a registry or a Kubernetes resource is.
"""
