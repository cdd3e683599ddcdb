"""OCI's own vocabulary: references, descriptors, media types, indexes, manifests, configs, platforms.

Pure: bytes and text in, checked values out. It must not do I/O and must not know registries, stores or Kubernetes.
"""
