"""A container runtime's API, and what we do through it: attach a bundle's images without a pull, and detach them.

The containerd and CRI clients, attach and detach in proxy and native mode, prepull, and the removal of our snapshotter.
It must not build anything and must not know the ImageCache resource.
"""
