"""Make a bundle's images usable in this node's containerd, without any pull, and take them back.

The containerd client, attach and detach in both modes, the mounter, the page-cache trim, the configuration drop-in and
the probes behind ``doctor``. It must not build anything and must not know the ImageCache resource.
"""
