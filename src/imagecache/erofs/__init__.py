"""A tree to a layer image, and back: the EROFS filesystem whose data area is the layer's raw tar.

``format``, ``xattr``, ``dirent`` and ``chunks`` have the structs on disk, ``layout`` decides what lies where,
``writer`` puts it behind a tar, ``reader`` is independent of the writer and serves checks, listings and lookups,
``realign`` copies an image to 4096-byte blocks. It must not know OCI, tar or containerd. Byte tables:
``docs/internals/erofs-layout.md``.
"""
