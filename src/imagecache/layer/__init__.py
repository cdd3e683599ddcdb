"""A layer's bytes to a layer's tree, exactly as containerd's own unpack would make it.

Decompression, a strict tar reader, path safety, whiteouts, and the assembly of entries to an ``imagecache.tree`` tree.
The reference is containerd's ``pkg/archive``; ``docs/internals/unpack-rules.md`` has its rules, and tests compare the
two. It must not write files, must not know OCI
documents, and refuses what containerd refuses.
"""
