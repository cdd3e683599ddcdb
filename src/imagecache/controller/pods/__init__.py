"""Pods find their cache: matched, annotated, told, held while a pinned cache is not on the nodes yet, and let go.

``decide`` is pure: what is seen of a pod, the match's verdict and the time, in; what to do, out. Everything else
follows the cluster or carries decisions out. Nothing is remembered that a restart would miss: what was done is on the
pod, and events and caches have names that follow from what they say. It must not construct what it uses.
"""
