"""Where bundles and layer images live: content-addressed, crash-safe, shared by several processes.

A local directory or any RWX volume. Whoever reads a path from here may rely on it: files appear whole or not at all,
never change afterwards, and stay as long as somebody holds a lease on them. It must not know what a registry or a
Kubernetes resource is.
"""
