"""ImageCaches on one host without Kubernetes: the objects are files in the store, this is their controller.

Create, get, describe, delete, expire. It must not construct what it uses (``apps`` does) and must not print.
"""
