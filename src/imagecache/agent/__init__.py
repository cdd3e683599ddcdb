"""A node's agent in a cluster: fetch the bundles that are assigned to the node, attach them, report.

Decisions (``plan``, ``budget``, ``failures``, ``taint``, ``report``) are pure. ``loop`` runs ``rounds``, which observe,
plan, and carry out the plan by ``jobs``. Everything else is behind ``dependencies``: the API server (``kubernetes``),
where bundles come from (``layer_source``), the runtime and the disk (``runtime``). It must not speak HTTP or gRPC, and
must not build anything.
"""
