"""Every bound on untrusted input, in one place.

A parser of untrusted input takes a ``Limits`` and raises ``LimitExceeded`` above one. Values are generous for real
images and small for an attacker. It must not read settings: callers hand in a changed copy.
"""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
TIB = 1024 * GIB


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds, counts as numbers."""

    manifest_size: int = 4 * MIB
    """Index or manifest (containerd and docker-registry use 4 MiB too)."""
    config_size: int = 8 * MIB
    """Image config."""
    index_entries: int = 1024
    """Manifests in an index."""
    index_depth: int = 4
    """Indexes of which each is inside the one before. Published images have two."""
    layers: int = 500
    """Layers of an image: overlayfs stacks at most 500 (OVL_MAX_STACK)."""
    token_size: int = 1 * MIB
    """Answer of a token server."""
    error_body: int = 64 * KIB
    """Bytes of an error answer that are read; the rest is dropped."""
    redirects: int = 5
    """Registries redirect blobs to a storage service once or twice (Go's http.Client: 10)."""
    answer_time: float = 120.0
    """Seconds until an answer of a registry or token server begins, redirects and connections included."""
    transfer_rate: int = 8 * KIB
    """Bytes per second of waiting that a registry has to send of an answer, and..."""
    transfer_window: float = 60.0
    """... the seconds over which that is measured. So an answer of known size has a longest time as well."""
    build_time: float = 3600.0
    """Seconds that any build may take, and..."""
    build_rate: int = 512 * KIB
    """... bytes per second of its compressed layers, for which it gets as much time in addition. A build that passes
    its time goes on later with what it has, so a slow network ends no build for good."""
    layer_compressed: int = 256 * GIB
    layer_uncompressed: int = 1 * TIB
    """Also the bound on the sum of the sizes of expanded sparse files."""
    layer_room: int | None = None
    """Bytes that the cache's own limit (``imageCacheSize``) leaves for a layer's tar. A few kilobytes of zstd may be a
    gigabyte of zeros, and rightly so (a lastlog), so no ratio tells a bomb; this does, before the disk is full."""
    zstd_window: int = 512 * MIB
    """Memory that a frame may ask for, as in containerd (klauspost/compress ``zstd``, MaxWindowSize)."""
    layer_entries: int = 10_000_000
    tar_header_records: int = 1 * MIB
    """One PAX header, or one GNU long name (Go's archive/tar: 1 MiB)."""
    path_length: int = 4096
    """PATH_MAX."""
    name_length: int = 255
    """NAME_MAX; EROFS has the same."""
    path_depth: int = 512
    link_target: int = 4095
    """PATH_MAX without its NUL byte."""
    symlink_hops: int = 255
    """Followed while one path is resolved (Go's filepath-securejoin: 255)."""
    xattr_value: int = 65535
    """Kernel XATTR_SIZE_MAX is 65536; EROFS stores 16 bits."""
    xattrs_size: int = 60 * KIB
    """All xattrs of one inode, as EROFS stores them (i_xattr_icount is 16 bits, ext4 allows less)."""
    sparse_segments: int = 1_000_000


DEFAULT = Limits()
