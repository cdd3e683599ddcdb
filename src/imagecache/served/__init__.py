"""A store that is somewhere else: served over HTTPS by the process that has it, read by the nodes.

``ports`` is what a node asks of any remote store; ``client`` asks a ``server``, ``volume`` reads a directory that both
can see, and object stores fit behind the same methods: in one of those nothing is ever in the making. Nothing that
comes from here is believed: the reader verifies digests. It must not know what a node does with a layer, nor what a
Kubernetes resource is.
"""
