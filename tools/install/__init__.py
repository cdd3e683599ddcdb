"""What is installed into a cluster, written once: ``render.py`` makes the chart's templates and the kustomize bases.

A document is JSON whose values may depend on the chart's values (``template``). Defaults are in
``charts/imagecache/values.yaml`` and nowhere else. It must not know what the programs do.
"""
