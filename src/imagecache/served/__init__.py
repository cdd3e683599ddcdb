"""A store elsewhere: served over HTTPS by the process that has it, read by the nodes.

``store_client`` asks a ``store_server``; ``store_reader`` reads a volume that the node mounts itself. Nothing that
comes from here is trusted: the reader verifies digests. It must not know what a node does with a layer, nor what a
Kubernetes resource is.
"""
