"""A tree to a layer image, and back: the EROFS filesystem whose data area is the layer's raw tar.

``format``, ``xattr`` and ``dirent`` have what is on disk, ``layout`` decides what lies where, ``writer`` puts it behind
a tar, ``reader`` is independent of them and serves checks, listings and lookups, ``realign`` re-lays an image to
4096-byte blocks. It must not know OCI, tar or containerd. Byte tables: ``docs/internals/erofs-layout.md``.
"""
