"""The one place that joins registry, layer, erofs and store: images in, a bundle out.

Plan, fetch, convert, commit, with progress as a stream of events. It must not know the ImageCache resource,
Kubernetes or containerd.
"""
