"""A tree to a layer image, and back: the EROFS filesystem whose data area is the layer's raw tar.

``format`` has the on-disk structs, ``writer`` lays a tree out behind a tar, ``reader`` is independent of the writer and
serves checks, listings and lookups, ``relay`` re-lays an image to 4096-byte blocks. It must not know OCI, tar or
containerd. See ``docs/architecture.md`` for the byte table.
"""
