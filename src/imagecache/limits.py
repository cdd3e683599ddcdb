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
    json_values: int = 250_000
    """Values of one JSON document, keys not counted. Each takes some 150 bytes and two microseconds, so that megabytes
    of ``{},`` would take much more of both than they have; published configs have some hundreds."""
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
    """Also the bound on the sum of the sizes of sparse files, with their holes."""
    zstd_window: int = 512 * MIB
    """Memory that a frame may ask for, as in containerd (klauspost/compress ``zstd``, MaxWindowSize)."""
    layer_entries: int = 4_000_000
    """Names, implied directories too. Each takes some 900 bytes of a worker until the layer image is written."""
    tree_bytes: int = 64 * MIB
    """Memory that a layer's tree may take besides its plain entries, whatever their number: for names over 100 bytes,
    targets of symlinks, xattrs, pieces of sparse files, implied directories."""
    entry_bytes: int = 1 * KIB
    """The same for each entry of the layer, in addition."""
    tree_steps: int = 2_000_000
    """Steps of work on a layer's tree besides its plain entries: a component of a path, an extended record, a piece of
    a sparse file, a name that is removed. A step takes about a microsecond."""
    entry_steps: int = 64
    """The same for each entry of the layer, in addition."""
    worker_time: float = 120.0
    """Seconds of processor time (RLIMIT_CPU) that a worker may take for any layer, and..."""
    worker_rate: int = 4 * MIB
    """... bytes of the layer, compressed and not, for which it gets a second more: a tenth of what a slow core does."""
    lower_lookups: int = 1_000_000
    """Names that are looked up in the layers below for one layer's implied directories: some 10 microseconds each."""
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
    sparse_chunks: int = 2**26
    """Chunks of a sparse file: its table in the layer image has four bytes for each. Fewer and larger ones would have
    more zeros around its data: with this many, 16 KiB for each piece of the largest file."""


DEFAULT = Limits()
