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
    """Sizes in bytes, counts as numbers."""

    resolved_size: int = 4 * 1048 * 1048
    """Index or manifest that a reference names (containerd ``core/remotes/docker/resolver.go``, MaxManifestSize)."""
    manifest_size: int = 14 * MIB
    """Any index or manifest. containerd bounds none that an index lists, but one is attached as one message, of at most
    16 MiB, in which an index has a label of up to 200 bytes for each of its entries."""
    config_size: int = 14 * MIB
    """Image config: attached as one message too."""
    documents_size: int = 32 * MIB
    """Indexes, manifest and config of an image together: a build has those of all its images (20) in memory at once,
    and a controller 2 GiB."""
    values: int = 1_000_000
    """Values in a document, by its commas and opening brackets, in texts too. While it is read each takes up to some
    200 bytes of memory, of the 512 MiB of an agent, whatever the document's own size."""
    index_entries: int = 10_000
    """Manifests in an index (containerd ``core/images/handlers.go``: the references that it follows in an image)."""
    index_depth: int = 32
    """Indexes of which each is inside the one before: published images have two. containerd follows any number, until
    they are 10,000 references; each takes a request, and of each one entry is followed, so an image has at most two
    documents more than this."""
    layers: int = 500
    """Layers of an image: overlayfs stacks at most 500 (OVL_MAX_STACK)."""
    token_size: int = 1 * MIB
    """Answer of a token server."""
    error_body: int = 64 * KIB
    """Bytes of an error answer that are read; the rest is dropped."""
    redirects: int = 9
    """Of one request. Go's http.Client, and containerd, make ten requests for one, and call that ten redirects."""
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
