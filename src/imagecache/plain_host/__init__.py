"""A host without Kubernetes: its ImageCaches are files, and this machine is the only node.

``verbs`` are the commands on ImageCaches, ``duties`` what the agent does with them, ``node`` what is attached here. All
decisions are those of ``controller``. It must not construct what it uses and must not print.
"""
