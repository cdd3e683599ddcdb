"""The Kubernetes API as a small port: get, list, watch, create, patch, delete on plain JSON objects.

The controller and the agent of a cluster use it; HTTP lives in ``client`` alone. It must not know what an ImageCache
means.
"""
