"""Joins registry, layer, erofs and store: images in, a bundle out.

Resolve, plan, download, convert, commit, with progress as a stream of events. It must not know the ImageCache resource,
Kubernetes or containerd.
"""
