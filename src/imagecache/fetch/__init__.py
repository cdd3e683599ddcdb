"""Fetches bundles and layer images from a store elsewhere into this node's own, and verifies each byte.

It must not know Kubernetes, nor decide which bundles a node should have.
"""
